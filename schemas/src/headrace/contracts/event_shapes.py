"""The shape of an event's values: scalars and arrays of these, records inside records as one flat row.

A field of a nested record is named by its path, `address.city`. A record that is null and one whose fields are all null
are the same row; where a nullable record is present, the fields it requires are not null. Arrays hold no nulls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from headrace.contracts.errors import Poison, Reason

DTYPES: dict[str, pl.DataType] = {
    "string": pl.String(), "int": pl.Int32(), "long": pl.Int64(), "float": pl.Float32(), "double": pl.Float64(),
    "boolean": pl.Boolean(),
}  # fmt: skip
INT32 = (-(2**31), 2**31 - 1)
ITEMS_MAX = 2048  # of any array: what the order key of an item has room for

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A leaf of a schema. kind: the primitive, an array's item's. nullable: it, or a record around it, may be null."""

    path: Path
    kind: str
    repeated: bool
    nullable: bool
    default: Any
    optional: bool  # has a default of its own


@dataclass(frozen=True, slots=True)
class Shapes:
    """Leaves and records by path joined with dots; a leaf of a type that events cannot have is None."""

    leaves: dict[str, Shape | None]
    records: dict[str, bool]  # whether the record itself is nullable


def shapes_of(schema: Mapping[str, Any]) -> Shapes:
    """Of a record schema without logical types."""
    found = Shapes({}, {})
    _walk(schema["fields"], (), False, {}, found)
    return found


def unwrapped(kind: Any) -> tuple[Any, bool]:
    """(inner type, nullable): a union of one type with null, or the type itself."""
    if isinstance(kind, list):
        inner = [k for k in kind if k != "null"]
        return (inner[0], True) if len(kind) == 2 and len(inner) == 1 else (None, False)
    return kind, False


def _walk(fields: Sequence[Mapping[str, Any]], path: Path, outer: bool, named: dict[str, Any], found: Shapes) -> None:
    for part in fields:
        here = (*path, part["name"])
        kind, nullable = unwrapped(part["type"])
        kind = named.get(kind, kind) if isinstance(kind, str) else kind
        if isinstance(kind, dict) and kind.get("type") == "record":
            named[kind["name"]] = named[kind["name"].rpartition(".")[2]] = kind
            found.records[".".join(here)] = nullable
            _walk(kind["fields"], here, outer or nullable, named, found)
            continue
        repeated = isinstance(kind, dict) and kind.get("type") == "array"
        inner = _primitive(kind["items"] if repeated else kind)
        found.leaves[".".join(here)] = (
            None if inner is None else Shape(here, inner, repeated, outer or nullable, part.get("default"), "default" in part)
        )


def _primitive(kind: Any) -> str | None:
    if isinstance(kind, dict):
        kind = kind.get("type")
    return kind if isinstance(kind, str) and kind in DTYPES else None


@dataclass(frozen=True, slots=True)
class Column:
    """A declared field. low and high hold the type's own limits too, of an array its items'."""

    name: str
    shape: Shape
    low: int | None
    high: int | None
    items_max: int

    @property
    def dtype(self) -> pl.DataType:
        plain = DTYPES[self.shape.kind]
        return pl.List(plain) if self.shape.repeated else plain

    def judge(self, value: Any) -> None:
        """Raises: Poison if the value may not stand in this column."""
        if value is None:
            if not self.shape.nullable:
                raise Poison(Reason.WRONG_TYPE, f"{self.name} is null")
            return
        if not self.shape.repeated:
            self._judge_one(self.name, value)
            return
        if len(value) > self.items_max:
            raise Poison(Reason.OUT_OF_RANGE, f"{self.name} has {len(value)} items, at most {self.items_max}")
        for number, item in enumerate(value):
            self._judge_one(f"{self.name}[{number}]", item)

    def _judge_one(self, name: str, value: Any) -> None:
        if self.shape.kind in ("float", "double") and not math.isfinite(value):
            raise Poison(Reason.NOT_FINITE, f"{name} is {value}")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise Poison(Reason.OUT_OF_RANGE, f"{name} is {value}, declared {_bounds(self.low, self.high)}")

    def refuses(self) -> Iterator[pl.Expr]:
        """Conditions of which one holds wherever `judge` might refuse."""
        value = pl.col(self.name)
        if not self.shape.nullable:
            yield value.is_null()
        finite, lowest, highest = value.is_finite(), value, value
        if self.shape.repeated:
            yield (value.list.len() > self.items_max).fill_null(False)
            finite = value.list.eval(pl.element().is_finite()).list.all()
            lowest, highest = value.list.min(), value.list.max()
        if self.shape.kind in ("float", "double"):
            yield ~finite.fill_null(True)
        if self.low is not None:
            yield (lowest < self.low).fill_null(False)
        if self.high is not None:
            yield (highest > self.high).fill_null(False)

    def fits(self, value: Any) -> bool:
        if not self.shape.repeated:
            return _fits(self.shape.kind, value)
        return isinstance(value, list | tuple) and all(_fits(self.shape.kind, item) for item in value)

    def promoted(self, value: Any) -> Any:
        """A value of a writer's narrower type as this column's."""
        if value is None or self.shape.kind not in ("float", "double"):
            return value
        if self.shape.repeated:
            return [_floating(self.shape.kind, item) for item in value]
        return _floating(self.shape.kind, value)


def _floating(kind: str, value: Any) -> float:
    return float(np.float32(value)) if kind == "float" else float(value)


def _fits(kind: str, value: Any) -> bool:
    if kind in ("int", "long"):
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if kind in ("float", "double"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str if kind == "string" else bool)


def _bounds(low: int | None, high: int | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class Presence:
    """A nullable record: its leaves, and those that are not null where any leaf is not."""

    name: str
    leaves: tuple[str, ...]
    required: tuple[str, ...]

    def judge(self, row: Mapping[str, Any]) -> None:
        """Raises: Poison where the record is there but lacks a required field."""
        if any(row[name] is not None for name in self.leaves):
            for name in self.required:
                if row[name] is None:
                    raise Poison(Reason.WRONG_TYPE, f"{name} is null, and {self.name} is not")

    def refuses(self) -> pl.Expr:
        present = pl.any_horizontal([pl.col(name).is_not_null() for name in self.leaves])
        return present & pl.any_horizontal([pl.col(name).is_null() for name in self.required])


def presences(shapes: Shapes, schema: Mapping[str, Any]) -> tuple[Presence, ...]:
    """The nullable records that require a field."""
    own = _own_nullable(schema["fields"], ())
    found: list[Presence] = []
    for record, nullable in shapes.records.items():
        leaves = tuple(name for name in shapes.leaves if name.startswith(record + "."))
        # down to the next nullable record: what lies in that is required where that is
        inner = [other for other, absent in shapes.records.items() if absent and other.startswith(record + ".")]
        required = tuple(n for n in leaves if not own[n] and not any(n.startswith(other + ".") for other in inner))
        if nullable and required:
            found.append(Presence(record, leaves, required))
    return tuple(found)


def _own_nullable(fields: Sequence[Mapping[str, Any]], path: Path) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for part in fields:
        kind, nullable = unwrapped(part["type"])
        here = (*path, part["name"])
        if isinstance(kind, dict) and kind.get("type") == "record":
            found |= _own_nullable(kind["fields"], here)
        else:
            found[".".join(here)] = nullable
    return found


def picked(found: Mapping[str, Any], shape: Shape) -> Any:
    """A leaf of a decoded value; the default where the writer's record lacks it, null where the record is null or absent."""
    value: Any = found
    last = len(shape.path) - 1
    for depth, step in enumerate(shape.path):
        if value is None:
            return None
        if step not in value:
            return shape.default if depth == last else None
        value = value[step]
    return value


def nested(row: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The row as Avro writes it: records again, those of nulls alone null where they may be."""
    found: dict[str, Any] = {}
    for part in schema["fields"]:
        name = path + part["name"]
        kind, nullable = unwrapped(part["type"])
        if isinstance(kind, dict) and kind.get("type") == "record":
            inner = nested(row, kind, name + ".")
            found[part["name"]] = None if nullable and all(value is None for value in inner.values()) else inner
        else:
            found[part["name"]] = row[name]
    return found


def flattened(row: Mapping[str, Any], records: Mapping[str, bool]) -> dict[str, Any]:
    """An outside row with its records taken apart; what is no record stays as it is, for others to refuse.

    A record that is null leaves its fields out, or, where it may not be null, stands as null under its own path.
    """
    if not records:
        return dict(row)
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name not in records:
            found[name] = value
        elif isinstance(value, Mapping):
            found |= flattened({f"{name}.{inner}": item for inner, item in value.items()}, records)
        elif value is not None or not records[name]:
            found[name] = value
    return found


# ---------------------------------------------------------------- the batch path


def batch_schema(schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The writer's schema in its barest form, and the batch column of each leaf or nullable record.

    Same bytes: ints as longs, a record that is never null replaced by its fields.
    """
    fields: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    _spread(schema["fields"], (), fields, places)
    return {"type": "record", "name": "Event", "fields": fields}, places


def _spread(parts: Sequence[Mapping[str, Any]], path: Path, fields: list[dict[str, Any]], places: dict[str, str]) -> None:
    for part in parts:
        here = (*path, part["name"])
        if isinstance(part["type"], dict) and part["type"].get("type") == "record":
            _spread(part["type"]["fields"], here, fields, places)
            continue
        places[".".join(here)] = name = f"f{len(fields)}"
        fields.append({"name": name, "type": _bare(part["type"], name)})


def _bare(kind: Any, name: str) -> Any:
    if isinstance(kind, list):
        return [_bare(k, name) for k in kind]
    if isinstance(kind, dict) and kind["type"] == "record":
        inner = [{"name": p["name"], "type": _bare(p["type"], f"{name}_{i}")} for i, p in enumerate(kind["fields"])]
        return {"type": "record", "name": f"R{name}", "fields": inner}
    if isinstance(kind, dict) and kind["type"] == "array":
        return {"type": "array", "items": _bare(kind["items"], name)}
    kind = kind["type"] if isinstance(kind, dict) else kind
    return "long" if kind == "int" else kind


def place_of(column: Column, written: Shapes, places: Mapping[str, str]) -> pl.Expr:
    """A leaf in the batch; one the writer lacks is the default where its record is there, null where it is not."""
    path = column.shape.path
    names = [".".join(path[:depth]) for depth in range(1, len(path) + 1)]
    start = next((depth for depth, name in enumerate(names) if name in places), None)
    lacking = names[-1] not in written.leaves
    if lacking and len(path) > 1 and names[-2] not in written.records:
        return pl.lit(None, column.dtype)
    value = pl.lit(True) if start is None else pl.col(places[names[start]])
    for step in path[:0] if start is None else path[start + 1 : len(path) - lacking]:
        value = pl.when(value.is_not_null()).then(value.struct.field(step))
    if not lacking:
        return value
    return pl.when(value.is_not_null()).then(pl.lit(column.shape.default, column.dtype))


def _varint_lengths(values: NDArray[np.int64]) -> NDArray[np.int64] | int:
    """Bytes of each value as a zigzag varint, at least; one number if all are equal.

    Above 2**53 the exponent of the nearest float may be one too large: the row is looked at again, no more.
    """
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    if not len(zigzag):
        return 1
    ends = np.frexp(np.array([zigzag.min(), zigzag.max()], np.float64))[1]
    low, high = np.maximum((ends + 6) // 7, 1)
    if low == high:
        return int(low)
    return np.maximum((np.frexp(zigzag.astype(np.float64))[1] + 6) // 7, 1)


def encoded_lengths(batch: pa.RecordBatch, schema: Mapping[str, Any]) -> NDArray[np.int64]:
    """Bytes each row takes in Avro when no varint is longer than it must be and arrays are one block; int64 (n,).

    A body of another length has bytes after the value, odd varints, or arrays in blocks: the row path decides.
    """
    total = np.zeros(batch.num_rows, np.int64)
    for column, part in zip(batch.columns, schema["fields"], strict=True):
        total += _lengths(column, part["type"])
    return total


def _lengths(column: pa.Array, kind: Any) -> NDArray[np.int64] | int:
    """Bytes of each value, the branch of its union included."""
    inner, nullable = unwrapped(kind)
    lengths = _present_lengths(column, inner)
    if column.null_count:
        lengths = np.where(column.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    return lengths + 1 if nullable else lengths


def _present_lengths(column: pa.Array, kind: Any) -> NDArray[np.int64] | int:
    if pa.types.is_struct(column.type):
        total = np.zeros(len(column), np.int64)
        for inner, part in zip(column.flatten(), kind["fields"], strict=True):
            total += _lengths(inner, part["type"])
        return total
    if pa.types.is_list(column.type):
        return _list_lengths(column, kind)
    if pa.types.is_boolean(column.type):
        return 1
    if pa.types.is_floating(column.type):
        return column.type.bit_width // 8
    if pa.types.is_integer(column.type):
        return _varint_lengths(column.fill_null(0).to_numpy() if column.null_count else column.to_numpy())
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)
    sizes = np.diff(offsets).astype(np.int64)
    return sizes + _varint_lengths(sizes)


def _list_lengths(column: pa.ListArray, kind: Any) -> NDArray[np.int64]:
    """One block: the count, the items, and the empty block that ends it; of none only that."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    items = np.broadcast_to(_lengths(column.values, kind["items"]), (len(column.values),))
    ends = np.concatenate(([0], np.cumsum(items)))
    counts = np.diff(offsets)
    return np.where(counts > 0, ends[offsets[1:]] - ends[offsets[:-1]] + _varint_lengths(counts) + 1, 1)
