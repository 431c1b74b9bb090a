"""Point in time: last values of an entity at a request's time, from the same files. Ours, and plain DuckDB.

Feast's is measured by feast_side over the same files. Ours runs its whole law: verdicts over the raw log first, then the join;
both are timed, and the join alone beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from bench.features.measure import median_rate
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, Feature, FeatureSet, Field, Measure, Plan, Term
from headrace.plan.offline import as_of, verdicts_sql

DAY = 86_400_000
START = 1_700_000_000_000
VALUES = tuple(f"v{i}" for i in range(10))
MAX_AGE = 30 * DAY

Say = Callable[[str], None]

EVENT = EventType(
    name="payments", record="Paid", topic="join.payments.v1", key="card", time="paid_at",
    fields=(Field("card", "string"), Field("paid_at", "timestamp"), *(Field(v, "long") for v in VALUES)),
    lateness_ms=DAY, poison_bound_ms=DAY, partitions=1, available_after_ms=0,
)  # fmt: skip
SET = sealed(
    Plan(
        "join", "ops", (EVENT,), (), (
            FeatureSet(
                name="lasts", entity=("card",), events=("payments",),
                measures=tuple(Measure(f"m{i}", "payments", v, None, ("nonnull", "last")) for i, v in enumerate(VALUES)),
                features=tuple(Feature(f"{v}_last", (Term(f"m{i}", "last", MAX_AGE, 0),)) for i, v in enumerate(VALUES)),
                ttl_ms=40 * DAY, stale_after_ms=DAY,
            ),
        ), (),
    )
).feature_sets[0]  # fmt: skip


def write(folder: Path, events: int, requests: int, cards: int) -> None:
    """events.parquet (off, card, paid_at, v0..v9) in the order of paid_at, and requests.parquet (pid, card, t)."""
    rng = np.random.default_rng(3)
    times = 2 * np.sort(rng.choice(30 * DAY, events, replace=False)) + START  # even, and requests odd: no tie, no edge
    names = pl.Series("card", [f"card-{n:07d}" for n in range(cards)])
    frame = pl.DataFrame({"off": np.arange(events), "card": names.gather(rng.integers(0, cards, events)), "paid_at": times})
    values = {v: rng.integers(-1_000, 1_000, events) for v in VALUES}
    frame.with_columns(**{v: pl.Series(x) for v, x in values.items()}).write_parquet(folder / "events.parquet")
    t = np.sort(2 * rng.integers((START + 5 * DAY) // 2, (START + 60 * DAY) // 2, requests)) + 1
    asked = pl.DataFrame({"pid": np.arange(requests), "card": names.gather(rng.integers(0, cards, requests)), "t": t})
    asked.write_parquet(folder / "requests.parquet")


def database(files: Path, spill: str) -> duckdb.DuckDBPyConnection:
    """With table `requests` (pid, entity, t)."""
    con = duckdb.connect()
    con.execute(f"set threads = 2; set temp_directory = '{spill}'")
    con.execute(f"create table requests as select pid, card as entity, t from read_parquet('{files / 'requests.parquet'}')")
    return con


def asof(con: duckdb.DuckDBPyConnection, files: Path) -> np.ndarray:
    """Plain DuckDB: (N, 10) float64 in the order of pid, NaN where there is no value."""
    columns = ", ".join(f"case when r.t - e.paid_at <= {MAX_AGE} then e.{v} end as {v}" for v in VALUES)
    found = con.sql(
        f"select r.pid, {columns} from requests r asof left join read_parquet('{files / 'events.parquet'}') e"
        " on r.entity = e.card and r.t > e.paid_at order by r.pid"
    )
    frame = pl.from_arrow(found.to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.drop("pid").cast(pl.Float64).fill_null(float("nan")).to_numpy()


def differing(files: Path, theirs: Path) -> int:
    """Rows of a Parquet file of answers (pid, v0..v9) that are not what plain DuckDB says; a row lacking counts."""
    with tempfile.TemporaryDirectory() as spill:
        ours = asof(database(files, spill), files)
    given = pl.read_parquet(theirs).sort("pid").select([pl.col(v).cast(pl.Float64).fill_null(float("nan")) for v in VALUES])
    if len(given) != len(ours):
        return abs(len(given) - len(ours)) or len(ours)
    other = given.to_numpy()
    return int((~((ours == other) | (np.isnan(ours) & np.isnan(other)))).any(axis=1).sum())


def measure(files: Path, runs: int, say: Say) -> dict[str, float]:
    """pit_rows_s (log to rows), pit_join_rows_s (judged to rows), pit_duckdb_asof_rows_s; their values are compared."""
    kept: dict[str, np.ndarray] = {}

    def judge(con: duckdb.DuckDBPyConnection) -> None:
        con.execute(
            f"create or replace table raw_payments as select 0 as part, off, paid_at as append_ms, true as decodable,"
            f" * exclude (off) from read_parquet('{files / 'events.parquet'}')"
        )
        con.execute(verdicts_sql(EVENT))

    with tempfile.TemporaryDirectory() as spill:
        con = database(files, spill)

        def whole() -> int:
            judge(con)
            return join()

        def join() -> int:
            rows = as_of(con, SET, {"payments": EVENT})
            kept["ours"] = rows.features.values
            return len(rows.pids)

        def plain() -> int:
            kept["duckdb"] = asof(con, files)
            return len(kept["duckdb"])

        out: dict[str, float] = {}
        for name, run in (("pit", whole), ("pit_join", join), ("pit_duckdb_asof", plain)):
            out[f"{name}_rows_s"] = median_rate(run, runs)
            say(f"{name}: {out[f'{name}_rows_s']:,.0f} rows/s")
    apart = ~((kept["ours"] == kept["duckdb"]) | (np.isnan(kept["ours"]) & np.isnan(kept["duckdb"])))
    return out | {"pit_rows": float(len(kept["ours"])), "pit_rows_differing": float(apart.any(axis=1).sum())}
