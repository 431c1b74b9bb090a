"""`PYTHONPATH=schemas/src:svc-stream/src:tests python -m bench.stream_joins [--batch N] [--only NAME] [--rocks] [--profile]`

Joins without a broker: one task's prepare and take, in memory or (--rocks) with every commit written to RocksDB, on one
thread. Rows of all sides per second of processor time, median of `--runs`.

    interval   two topics, 10,000 and 100,000 keys, interval of 10 s, about one match per row
    as_of      payments against quotes of 1,000 symbols, ten quotes a payment
    distinct   10,000 keys, horizon 1 s

Disorder is 4 s, and so much the watermark trails.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from headrace.chassis.state import RocksStore
from headrace.plan.ir import Carried, Distinct, EventType, Field, Join, OutputField, Stream, StreamInput
from headrace.plan.streams.frames import OFFSET, PARTITION, TIME
from headrace.plan.streams.joins import operator
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.operator import Batch
from headrace.plan.streams.prepare_rows import build_prepare
from headrace.plan.streams.rows import Tables
from svc_stream.streams.tables import TaskTables

Poll: TypeAlias = tuple[list[tuple[int, pl.DataFrame]], int]
Write: TypeAlias = Callable[[dict[bytes, bytes], list[bytes]], None]

CACHE_BYTES = 64 << 20
DISORDER_MS = 4_000
FIELDS = (Field("id", "string"), Field("card", "string"), Field("at", "timestamp"), Field("amount", "decimal", scale=2))


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured. rates: rows of each side per second of event time."""

    stream: Stream
    events: tuple[EventType, ...]
    keys: int
    rates: tuple[int, ...]


def _event(name: str, fields: Sequence[Field]) -> EventType:
    return EventType(name, name.title(), f"bench.{name}.v1", "id", "at", tuple(fields), DISORDER_MS, DISORDER_MS)


def _work(keys: int, rates: tuple[int, ...], join: Join | None = None, distinct: Distinct | None = None) -> Work:
    names = ("payments", "offers")[: len(rates)]
    columns = tuple(Carried(name, name) for name in ("id", "amount"))
    inputs = tuple(StreamInput(name, ("card",), columns=columns) for name in names)
    made = [(OutputField("card", "key"), Field("card", "string")), (OutputField("at", "time"), Field("at", "timestamp"))]
    for i, name in enumerate(names):
        made.append((OutputField(f"{name}_id", "column", i, "id"), Field(f"{name}_id", "string", nullable=True)))
        made.append((OutputField(f"{name}_amount", "column", i, "amount"), Field(f"{name}_amount", "decimal", nullable=True)))
    events = (*(_event(name, FIELDS) for name in names), _event("out", [field for _, field in made]))
    fields = tuple(field for field, _ in made)
    return Work(Stream("bench", "out", inputs, fields, join=join, distinct=distinct), events, keys, rates)


def works() -> dict[str, Work]:
    interval = Join("interval", "inner", 5_000, 5_000)
    return {
        "interval_10k": _work(10_000, (1_000, 1_000), interval),
        "interval_100k": _work(100_000, (10_000, 10_000), interval),
        "interval_outer_100k": _work(100_000, (10_000, 10_000), Join("interval", "outer", 5_000, 5_000)),
        "as_of_1k": _work(1_000, (1_000, 10_000), Join("as_of", "left")),
        "as_of_100k": _work(100_000, (10_000, 10_000), Join("as_of", "left")),
        "distinct_10k": _work(10_000, (20_000,), distinct=Distinct(1_000)),
    }


def frames(work: Work, rows: int, batch: int, seed: int) -> Iterator[tuple[list[tuple[int, pl.DataFrame]], int]]:
    """Batches as they come from one poll, both sides in turn by their rates, and the watermark after each."""
    rng = np.random.default_rng(seed)
    done = 0
    offsets = [0] * len(work.rates)
    while done < rows:
        polled: list[tuple[int, pl.DataFrame]] = []
        span = batch * 1000 / sum(work.rates)
        start = 1_700_000_000_000 + done / batch * span
        for side, rate in enumerate(work.rates):
            n = batch * rate // sum(work.rates)
            times = (start + np.sort(rng.random(n)) * span - rng.random(n) * DISORDER_MS).astype(np.int64)
            card = pl.Series("card", rng.integers(0, work.keys, n)).cast(pl.String)
            place = pl.Series(np.arange(offsets[side], offsets[side] + n))
            offsets[side] += n
            columns = {
                "id": "p" + place.cast(pl.String),
                "card": "card-" + card,
                "at": times,
                "amount": rng.integers(0, 10**6, n),
            }
            polled.append((side, pl.DataFrame({**columns, TIME: times, PARTITION: np.zeros(n, np.int64), OFFSET: place})))
        done += batch
        yield polled, int(start + span) - DISORDER_MS


def played(work: Work, polls: Sequence[Poll], tables: Tables, write: Write) -> tuple[float, int, int]:
    """Seconds of processor time, rows, results; a commit after every poll."""
    prepares = [build_prepare(work.stream, i, work.events) for i in range(len(work.rates))]
    made = operator(work.stream, work.events, tables)
    rows = results = 0
    begin = time.process_time()
    for polled, watermark in polls:
        batches = [Batch(side, prepares[side](frame)) for side, frame in polled]
        results += len(made.take(batches, watermark).results)
        rows += sum(len(frame) for _, frame in polled)
        puts: dict[bytes, bytes] = {}
        deletes: list[bytes] = []
        for table in made.tables.values():
            table.changes()
            more, gone = table.settle()
            puts |= more
            deletes += gone
        if puts or deletes:
            write(puts, deletes)
    return time.process_time() - begin, rows, results


def once(work: Work, polls: Sequence[Poll], rocks: bool) -> tuple[float, int, int]:
    """One run over new tables."""
    if not rocks:
        return played(work, polls, MemoryTables(), lambda puts, deletes: None)
    with TemporaryDirectory() as folder:
        store = RocksStore(Path(folder))
        try:
            return played(work, polls, TaskTables(store, CACHE_BYTES), store.write)
        finally:
            store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--batch", type=int, default=32_768, help="rows of a poll, both sides together")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--rocks", action="store_true")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    for name, work in works().items():
        if asked.only and asked.only not in name:
            continue
        polls = list(frames(work, asked.rows, asked.batch, 1))
        profile = cProfile.Profile()
        if asked.profile:
            profile.enable()
        runs = [once(work, polls, asked.rocks) for _ in range(asked.runs)]
        if asked.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
        seconds, rows, results = statistics.median(run[0] for run in runs), runs[0][1], runs[0][2]
        print(f"{name:22} {rows / seconds:12,.0f} rows/s   {results / rows:6.3f} results per row", flush=True)


if __name__ == "__main__":
    main()
