"""`python -m bench.stream_windows [--rows N] [--batch N] [--store memory,rocks] [--profile]`: window operators alone, rows/s.

    w1  tumbling 10 s, count + sum, 10,000 Zipf keys, 4 s disorder
    w2  hopping 60 s by 5 s, same input
    w4  sessions, gap 30 s, same input; and sessions that do end, gap 0.2 s

No log, no codec: accepted rows as columns -> prepare -> take -> changes -> settle. `prepare_take` is of these
alone; `all` has the changes, and on a store the write, too. One JSON line each.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / p) for p in ("tests", "schemas/src", "svc-stream/src")]

from headrace.chassis.state import RocksStore  # noqa: E402
from headrace.plan.ir import EventType, Field, Measure, OutputField, Stream, StreamInput, Window  # noqa: E402
from headrace.plan.streams.frames import OFFSET, PARTITION, TIME  # noqa: E402
from headrace.plan.streams.operator import Batch  # noqa: E402
from headrace.plan.streams.window_operators import operator  # noqa: E402
from headrace.plan.streams.window_prepare import build_prepare  # noqa: E402
from svc_stream.streams.tables import TaskTables  # noqa: E402

KEYS, ZIPF, DISORDER_MS, A_SECOND = 10_000, 1.2, 4_000, 100_000
CACHE_BYTES = 64 << 20
START_MS = 1_700_000_000_000
PAYMENTS = EventType(
    "payments", "Paid", "shop.payments.v1", "card", "at",
    (Field("card", "string"), Field("at", "timestamp"), Field("amount", "long", minimum=0, maximum=10**6)), DISORDER_MS, 1_000,
)  # fmt: skip
SUMS = EventType(
    "sums", "Summed", "shop.sums.v1", "text", "at",
    (
        Field("text", "string"), Field("w_start", "timestamp"), Field("w_end", "timestamp"), Field("at", "timestamp"),
        Field("n", "long"), Field("total", "long", nullable=True),
    ),
    0, 0,
)  # fmt: skip
WORKLOADS = {
    "w1": Window("tumbling", size_ms=10_000),
    "w2": Window("hopping", size_ms=60_000, hop_ms=5_000),
    "w4": Window("session", gap_ms=30_000),
    "w4 short": Window("session", gap_ms=200),
}


def stream_of(window: Window) -> Stream:
    measures = (Measure("m0", "payments", None, None, ("rows",)), Measure("m1", "payments", "amount", None, ("nonnull", "sum")))
    fields = (
        OutputField("text", "key", -1), OutputField("w_start", "window_start"), OutputField("w_end", "window_end"),
        OutputField("at", "time"), OutputField("n", "aggregate", measure="m0", kind="count"),
        OutputField("total", "aggregate", measure="m1", kind="sum"),
    )  # fmt: skip
    return Stream("sums", "sums", (StreamInput("payments", ("card",)),), fields, window, measures=measures)


def batches(rows: int, size: int) -> Iterator[tuple[pl.DataFrame, int]]:
    """Accepted rows, and the watermark after them."""
    rng = np.random.default_rng(1)
    names, top = pl.Series([f"card-{i:06}" for i in range(KEYS)]), START_MS
    for first in range(0, rows, size):
        offset = np.arange(first, min(first + size, rows))
        at = START_MS + offset * 1000 // A_SECOND - rng.integers(0, DISORDER_MS, len(offset))
        top = max(top, int(at.max()))
        card = names.gather(rng.zipf(ZIPF, len(offset)) % KEYS)
        columns = {"card": card, "at": at, "amount": rng.integers(0, 1_000, len(offset)), TIME: at}
        yield pl.DataFrame(columns | {PARTITION: np.zeros_like(offset), OFFSET: offset}), top - DISORDER_MS


def measured(name: str, kind: str, rows: int, size: int, folder: Path) -> dict[str, Any]:
    stream, events = stream_of(WORKLOADS[name]), (PAYMENTS, SUMS)
    store = RocksStore(folder / f"{name}-{kind}") if kind == "rocks" else None
    prepare = build_prepare(stream, 0, events)
    acting = operator(stream, events, TaskTables(store, CACHE_BYTES))
    spent, results, changed = [0.0, 0.0, 0.0], 0, 0
    for frame, watermark in list(batches(rows, size)):
        marks = [time.perf_counter()]
        prepared = prepare(frame)
        marks.append(time.perf_counter())
        results += len(acting.take([Batch(0, prepared)], watermark).results)
        marks.append(time.perf_counter())
        for table in acting.tables.values():
            changes = table.changes()
            changed += 0 if changes is None else len(changes)
            puts, deletes = table.settle()
            if store is not None:
                store.write(puts, deletes)
        marks.append(time.perf_counter())
        spent = [total + b - a for total, a, b in zip(spent, marks[:-1], marks[1:], strict=True)]
    if store is not None:
        store.close()
    rate = {part: round(rows / s) for part, s in zip(("prepare", "take", "changes"), spent, strict=True)}
    both, whole = round(rows / (spent[0] + spent[1])), round(rows / sum(spent))
    return {"workload": name, "store": kind, "prepare_take": both, "all": whole, **rate, "results": results, "changed": changed}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--store", default="memory,rocks")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only.split(","):
            for kind in given.store.split(","):
                profile = cProfile.Profile()
                if given.profile:
                    profile.enable()
                print(json.dumps(measured(name, kind, given.rows, given.batch, Path(folder))), flush=True)
                if given.profile:
                    profile.disable()
                    pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
