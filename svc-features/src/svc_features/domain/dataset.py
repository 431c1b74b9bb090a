"""A training set from verdicts and passports: which requests, which label, which vector, and its checksum.

Rows are requests in the order of (t, request id). A vector is as served where a passport of the same feature set hashes
exists, else as of t. Columns: the model's inputs (float32, NaN missing), then `TRAILER`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.plan import expressions
from headrace.plan.assemble import Assembler
from headrace.plan.ir import EventType, Model
from headrace.plan.lower import FeatureRows, Status
from headrace.plan.offline import quoted
from svc_features.domain.served import float32_bits, float64_bits

DAY_MS = 86_400_000
CHECKSUM_ROWS = 65_536  # part of the checksum's definition
TRAILER: dict[str, Any] = {
    "label": pl.Boolean, "rule_score": pl.Float64, "t_ms": pl.Int64, "request_id": pl.String, "day": pl.Int64,
    "mode": pl.String,
}  # fmt: skip
AS_OF, AS_SERVED = "as_of", "as_served"
_SEEN = "verdict not in ('undecodable', 'poison')"


def requests_sql(model: Model, event: EventType, from_ms: int, until_ms: int) -> str:
    """SELECT the request's fields: the first record of each request id, t in [from, until), whether decided or not."""
    identity = quoted(model.request_id)
    fields = ", ".join(quoted(f.name) for f in event.fields)
    return f"""
select {fields} from (
  select *, row_number() over (partition by {identity} order by off, part) as nth
  from {quoted("verdict_" + event.name)} where {_SEEN} and {identity} is not null)
where nth = 1 and {quoted(event.time)} >= {int(from_ms)} and {quoted(event.time)} < {int(until_ms)}"""


def outcomes_sql(model: Model, event: EventType, lowered: Callable[[expressions.Expression], str]) -> str:
    """SELECT join, label, excluded, known_ms: the first outcome of each id by offset, and when it happened."""
    fields = {f.name: f for f in event.fields}
    where = lowered(expressions.parse(model.label.where, fields))
    excluded = lowered(expressions.parse(model.label.exclude, fields)) if model.label.exclude else "false"
    join = quoted(model.label.join)
    return f"""
select {join} as "join", coalesce({where}, false) as label, coalesce({excluded}, false) as excluded,
  {quoted(event.time)} as known_ms
from (
  select *, row_number() over (partition by {join} order by off, part) as nth
  from {quoted("verdict_" + event.name)} where {_SEEN} and {join} is not null)
where nth = 1"""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Values of one feature set for N requests, and whether a value used by the model is ahead of t."""

    rows: FeatureRows
    positions: Sequence[int]  # features that are inputs

    def ahead(self) -> NDArray[np.bool_]:
        return (self.rows.statuses[:, list(self.positions)] == Status.AHEAD).any(axis=1)


def assemble(
    assembler: Assembler, requests: pl.DataFrame, values: Mapping[str, FeatureRows]
) -> tuple[NDArray[np.float32], pl.Series]:
    """The model's rows (N, inputs) and the rule's scores, through the one shared step."""
    return assembler.table(requests, {name: rows.values for name, rows in values.items()})


def frame_of(
    model: Model, event: EventType, requests: pl.DataFrame, x: NDArray[np.float32], scores: pl.Series,
    labels: pl.Series, served: NDArray[np.bool_],
) -> pl.DataFrame:  # fmt: skip
    """The data set.

    Raises: ValueError if an input has the name of a column of `TRAILER`.
    """
    names = [c.name for c in model.inputs]
    taken = sorted(set(names) & set(TRAILER))
    if taken:
        raise ValueError(f"inputs {taken} have names the data set keeps for itself: {sorted(TRAILER)}")
    t = requests[event.time]
    columns = [pl.Series(name, x[:, i], pl.Float32) for i, name in enumerate(names)]
    trailer = {
        "label": labels.cast(pl.Boolean),
        "rule_score": scores,
        "t_ms": t,
        "request_id": requests[model.request_id].cast(pl.String),
        "day": pl.Series((t.to_numpy() // DAY_MS).astype(np.int64)),
        "mode": pl.Series(np.where(served, AS_SERVED, AS_OF).tolist(), dtype=pl.String),
    }
    return pl.DataFrame([*columns, *(trailer[name].cast(kind).alias(name) for name, kind in TRAILER.items())])


class Checksum:
    """SHA-256 over names and values in row order, whatever the file's format and however its rows come in pieces.

    NaN is one value, text is length-prefixed. Rows are digested `CHECKSUM_ROWS` at a time, so memory is bounded.
    """

    def __init__(self) -> None:
        self._digest, self._held, self._rows = hashlib.sha256(), list[pl.DataFrame](), 0

    def add(self, frame: pl.DataFrame) -> None:
        """The next rows."""
        start = 0
        while start < len(frame):
            taken = frame[start : start + CHECKSUM_ROWS - self._rows]
            self._held.append(taken)
            self._rows, start = self._rows + len(taken), start + len(taken)
            if self._rows == CHECKSUM_ROWS:
                self._flush()

    def _flush(self) -> None:
        if self._held:
            _digest(self._digest, pl.concat(self._held))
        self._held, self._rows = [], 0

    def hexdigest(self) -> str:
        """Of all rows; nothing may be added after it."""
        self._flush()
        return self._digest.hexdigest()


def content_checksum(frame: pl.DataFrame) -> str:
    """Checksum of a data set held as one frame."""
    whole = Checksum()
    whole.add(frame)
    return whole.hexdigest()


def _digest(digest: Any, frame: pl.DataFrame) -> None:
    for column in frame.get_columns():
        digest.update(f"{column.name}\x00{column.dtype}\x00{len(column)}\x00".encode())
        nulls = column.is_null().to_numpy()
        digest.update(np.packbits(nulls).tobytes())
        if column.dtype == pl.String:
            text = [("" if v is None else v).encode() for v in column.to_list()]
            digest.update(np.array([len(t) for t in text], "<i8").tobytes())
            digest.update(b"".join(text))
        elif column.dtype == pl.Float32:
            digest.update(float32_bits(column.fill_null(0).to_numpy()).astype("<i4").tobytes())
        elif column.dtype == pl.Float64:
            digest.update(float64_bits(column.fill_null(0).to_numpy()).astype("<i8").tobytes())
        else:
            digest.update(column.cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes())
