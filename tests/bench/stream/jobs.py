"""The workloads: which input, which answer, which numbers."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from bench.stream import answers, inputs, records
from bench.stream.answers import Edition
from bench.stream.ground import Ground, Job
from bench.stream.inputs import AFTER_MS, DISORDER_MS, Spec

DENSE, SPARSE, TRADES = 30_000, 2_500, 15_000  # records to a second of event time
W1_MS, W2_MS, W2_HOP_MS, GAP_MS = 10_000, 60_000, 5_000, 30_000
EDITIONS: tuple[Edition, ...] = ("judged", "plain")
GRACE_MS = DISORDER_MS
# A join's state may be read back much later than it was written, and repartitioned topics run ahead of each other on replay.
JOIN_GRACE_MS = 600_000
_WINDOW = ("key", "start", "end")

Say = Callable[[str], None]
Answer = Callable[[pl.DataFrame, Edition], pl.DataFrame]


def w1(ground: Ground, records_: int, say: Say) -> Job:
    """Tumbling windows of ten seconds, count and sum."""
    values = {"workload": "windows", "size_ms": W1_MS, "hop_ms": W1_MS, "grace_ms": GRACE_MS}
    return _readings(
        ground, "w1", Spec("dense", records_, DENSE), lambda f, e: answers.windows(f, e, W1_MS, W1_MS), values, say
    )


def w2(ground: Ground, records_: int, say: Say) -> Job:
    """Windows of a minute that begin every five seconds."""
    values = {"workload": "windows", "size_ms": W2_MS, "hop_ms": W2_HOP_MS, "grace_ms": GRACE_MS}
    return _readings(
        ground, "w2", Spec("dense", records_, DENSE), lambda f, e: answers.windows(f, e, W2_MS, W2_HOP_MS), values, say
    )


def w4(ground: Ground, records_: int, say: Say) -> Job:
    """Sessions with a gap of half a minute."""
    values = {"workload": "sessions", "gap_ms": GAP_MS, "grace_ms": GRACE_MS}
    return _readings(ground, "w4", Spec("sparse", records_, SPARSE), lambda f, e: answers.sessions(f, e, GAP_MS), values, say)


def w3(ground: Ground, records_: int, say: Say) -> Job:
    """Orders and what settles them within ten seconds; half of the records each."""
    found = inputs.trade(records_ // 2, TRADES)
    pipeline = ground.fresh("w3")
    orders, payments = f"{pipeline}.orders.v1", f"{pipeline}.payments.v1"
    ground.fill_side(orders, found.orders, records.ORDER)
    ground.fill_side(payments, found.payments, records.PAYMENT)
    answer, total = answers.pairs(found), len(found.orders) + len(found.payments)
    say(f"w3: {total:,} records, {len(answer):,} pairs")
    values = {"workload": "join", "after_ms": AFTER_MS, "grace_ms": JOIN_GRACE_MS, "right": payments}
    return Job("w3", (orders, payments), total, dict.fromkeys(EDITIONS, answer), ("order_id",), values)


def _readings(ground: Ground, name: str, spec: Spec, answer: Answer, values: dict[str, object], say: Say) -> Job:
    frame = inputs.readings(spec)
    topic = f"{ground.fresh(name)}.readings.v1"
    ground.fill_readings(topic, frame)
    expected: dict[Edition, pl.DataFrame] = {e: answer(frame, e) for e in EDITIONS}
    share = len(expected["judged"]) / len(frame)
    say(f"{name}: {len(frame):,} records in {topic}, {len(expected['judged']):,} results ({share:.1%} of the input)")
    return Job(name, (topic,), len(frame), expected, _WINDOW, values)
