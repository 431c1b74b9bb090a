"""Frozen formats: one example of each, byte for byte. If one moves, its version must move, or live state is orphaned."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest

from headrace.contracts.errors import Fatal
from headrace.contracts.formats import FORMAT, readable
from headrace.contracts.records import PartialTiles, Progress, SourceCut, SourceRange, TileBlock, TileColumns
from headrace.plan import bases
from headrace.plan.blocks import block_of, record_of
from headrace.plan.ir import AggregateKind, Feature, FeatureSet, Measure, SlotKind, Term
from headrace.plan.read import read_features
from headrace.plan.slots import layout_of
from headrace.plan.tiles import Block, BlockKey, apply, encode_key, lift
from headrace.plan.verdicts import Raise
from support.law_worlds import DEPARTURES, FULL, HOUR, MIN

GOLDEN = Path(__file__).parent / "golden"
AVRO = Path(__file__).parents[3] / "schemas" / "avro"


def _alone(number: int, slot: SlotKind, value: str, size: int = 0, edges: tuple[int, ...] = ()) -> Measure:
    return Measure(f"m{number}", "departures", value, None, (slot,), 0, size, edges)


def _hourly(number: int, kind: AggregateKind, argument: int = 0) -> Feature:
    return Feature(f"{kind}_{number}", (Term(f"m{number}", kind, HOUR, 5 * MIN, argument),))


EVERYTHING = FeatureSet(
    name="everything",
    entity=("origin", "gate"),
    events=("departures",),
    measures=(
        Measure("m0", "departures", "delay", "delay > -5", (*FULL, "first")),
        _alone(1, "recent", "delay", 2),
        _alone(2, "distinct", "carrier", 3),
        _alone(3, "registers", "flight_id", 16),
        _alone(4, "histogram", "delay", 0, (0, 15)),
    ),
    features=(
        *(_hourly(0, kind) for kind in ("count", "sum", "mean", "variance", "stddev", "min", "max", "first")),
        _hourly(2, "distinct"), _hourly(3, "distinct"),
        _hourly(4, "quantile", 5_000), _hourly(4, "bucket", 2), _hourly(4, "top", 0),
        Feature("recent_mean", (Term("m1", "recent_mean", HOUR, 0),)),
    ),
    ttl_ms=30 * HOUR,
    stale_after_ms=HOUR,
)  # fmt: skip
AT = 1_700_000_100_000 // (5 * MIN) * (5 * MIN)


def records() -> pl.DataFrame:
    """Seven departures of one gate: ties, nulls, letters beyond ASCII."""
    return pl.DataFrame(
        {
            "flight_id": ["F1", "F2", None, "F3", "F4", "F2", "F5"], "origin": ["JFK"] * 7, "gate": [7] * 7,
            "delay": [10, -3, 40, None, -9, 2**37, 40], "fare": [100] * 7,
            "carrier": ["AA", "UA", "Zürich", None, "AA", "DL", ""],
            "__partition": [0, 1, 0, 1, 0, 1, 0], "__offset": [5, 5, 6, 7, 7, 9, 9],
            "__time": [AT, AT, AT + 1, AT + 2, AT + 3, AT + 3, AT + 2],
        }
    )  # fmt: skip


def blocks() -> dict[BlockKey, Block]:
    found: dict[BlockKey, Block] = {}
    for partial in lift(EVERYTHING, DEPARTURES, records()):
        apply(EVERYTHING, partial, found)
    return found


def accumulators() -> dict[str, Any]:
    """The layout, the tile at each hop, and what it is read as."""
    found = blocks()
    rows = read_features(
        EVERYTHING, ["JFK\x1f7"], [AT + 10], lambda keys: [found.get(k) for k in keys], {"departures": AT}, None
    )
    values = [None if v is None else v.hex() for v in rows.rows()[0]]
    return {
        "layout": layout_of(EVERYTHING, "departures").of,
        "tiles": {str(key.hop_ms): block.slots.tolist() for key, block in sorted(found.items())},
        "values": dict(zip([f.name for f in EVERYTHING.features], values, strict=True)),
    }


def body(record: Any) -> str:
    schema = json.loads((AVRO / "stream" / f"{type(record).__name__}.avsc").read_text())
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record.to_avro())
    return out.getvalue().hex()


def examples() -> dict[str, str]:
    """Golden file -> what this version writes."""
    key, block = next((k, b) for k, b in sorted(blocks().items()) if k.hop_ms)
    partial = lift(EVERYTHING, DEPARTURES, records())[0]
    columns = TileColumns(
        event=partial.event, hop_ms=partial.hop_ms, entities=tuple(partial.entities),
        starts_ms=tuple(partial.starts_ms.tolist()), slots=tuple(partial.slots.ravel().tolist()),
    )  # fmt: skip
    ranges = SourceRange(event="departures", partition=1, from_offset=5, to_offset=10, maximum_ms=AT + 3, watermark_ms=None)
    cut = SourceCut(event="departures", partition=1, next_offset=10, maximum_ms=AT + 3, watermark_ms=None)
    return {
        "accumulators.json": json.dumps(accumulators(), indent=1),
        "tile_block.hex": body(record_of(key, block)),
        "state_key.hex": encode_key(EVERYTHING, key).hex(),
        "progress.hex": body(
            Progress(set_hash="ab" * 32, partition=1, cut=(cut,), commit_sequence=3, partials_offset=17, base_floor_ms=AT)
        ),
        "base.json": json.dumps(json.loads(bases.to_json(base())), indent=1),
        "partial_tiles.hex": body(PartialTiles(set_hash="ab" * 32, ranges=(ranges,), columns=(columns,))),
    }


def base() -> bases.Base:
    """What a state starts from: one source with ids, one without a record yet, two files of blocks."""
    ids = bases.BaseFile("ab/" + "ab" * 32 + ".parquet", "ab" * 32, 7)
    files = tuple(bases.BaseFile(f"{n}/" + n * 32 + ".parquet", n * 32, 3) for n in ("c0", "c1"))
    sources = (
        bases.SourceBase("departures", "topic-id", 0, 10, AT + 3, (Raise(4, None, AT), Raise(9, AT, AT + 3)), ids),
        bases.SourceBase("departures", "topic-id", 1, 0, None, (), None),
    )
    return bases.Base("flights", "everything", "ef" * 32, 1, AT - HOUR, sources, (bases.PartitionBase(0, files),))


@pytest.mark.parametrize("name", sorted(examples()))
def test_a_frozen_format_has_not_moved(name: str) -> None:
    """Accumulators, keys and records, as older versions wrote them."""
    assert examples()[name] == (GOLDEN / name).read_text().strip()


def test_a_block_written_before_is_read_back() -> None:
    """From the golden bytes to the same tiles."""
    schema = json.loads((AVRO / "stream" / "TileBlock.avsc").read_text())
    raw = io.BytesIO(bytes.fromhex((GOLDEN / "tile_block.hex").read_text()))
    found: Any = fastavro.schemaless_reader(raw, fastavro.parse_schema(schema), None)
    record = TileBlock.from_avro(found)
    key, block = next((k, b) for k, b in sorted(blocks().items()) if k.hop_ms)
    assert (record.entity, record.event, record.hop_ms, record.index, record.format) == (*key, 1)
    assert np.array_equal(block_of(record).slots, block.slots)


@pytest.mark.parametrize("kind", [Progress, PartialTiles])
def test_what_was_written_before_records_said_their_format_is_format_1(kind: Any) -> None:
    schema = json.loads((AVRO / "stream" / f"{kind.__name__}.avsc").read_text())
    older = {**schema, "fields": [f for f in schema["fields"] if f["name"] != "format"]}
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).strip("_") + ".hex"
    raw = io.BytesIO(bytes.fromhex((GOLDEN / "before_format" / name).read_text()))
    found: Any = fastavro.schemaless_reader(raw, fastavro.parse_schema(older), fastavro.parse_schema(schema))
    record = readable(kind.from_avro(found))
    assert record.format == 1
    assert body(record) == (GOLDEN / name).read_text().strip()


def test_a_format_nobody_knows_is_refused() -> None:
    """Each reader of state, not only the decoder: a newer writer's records decode well enough to be misread."""
    key, block = next(iter(sorted(blocks().items())))
    newer = replace(record_of(key, block), format=FORMAT + 1)
    with pytest.raises(Fatal, match="TileBlock has format 2, this version reads format 1"):
        block_of(newer)
    with pytest.raises(Fatal, match="a base of format 2"):
        bases.from_json(bases.to_json(base()).replace(b'"format":1', b'"format":2'))


def test_a_base_written_before_is_read_back() -> None:
    assert bases.from_json((GOLDEN / "base.json").read_bytes()) == base()
