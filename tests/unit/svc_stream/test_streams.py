"""Streams through real workers: whatever the batches, deaths and moves, committed results are the oracle's, each once."""

from __future__ import annotations

import random
from typing import Any

import pytest

from headrace.plan.ir import Stream
from headrace.plan.stream_costs import keyed_already, stateless
from headrace.plan.streams import oracle_joins
from headrace.plan.streams.frames import KEY, OFFSET, PARTITION, TIME
from headrace.plan.streams.oracle_windows import WindowOracle
from unit.svc_stream.stream_rig import StreamRig
from unit.svc_stream.stream_worlds import PLAN, fill

SEEDS = range(6)
RECORDS = 60


def world(seed: int, records: int = RECORDS) -> StreamRig:
    rig = StreamRig(PLAN)
    fill(rig, random.Random(seed), records)
    return rig


def expected(rig: StreamRig, stream: Stream) -> list[dict[str, Any]]:
    """What the naive oracle says must have been written at the end of the log."""
    watermark = rig.watermark_ms(stream)
    assert watermark is not None
    if stream.window is not None:
        return windows(rig, stream, watermark)
    sides = [
        oracle_joins.prepared(stream, i, PLAN.events, rig.accepted(part.event, deletions=part.table))
        for i, part in enumerate(stream.inputs)
    ]
    found = oracle_joins.results(stream, sides, watermark)
    return [{name: value for name, value in row.items() if name not in (KEY, TIME)} for row in found]


def windows(rig: StreamRig, stream: Stream, watermark: int) -> list[dict[str, Any]]:
    """Final results: of fused sources each partition goes on by itself."""
    event = stream.inputs[0].event
    places = {(row[PARTITION], row[OFFSET]) for row in rig.accepted(event)}
    taken = [r for r in rig.log if r.event == event and (r.partition, r.offset) in places]
    oracle = WindowOracle(stream, PLAN.events)
    if not keyed_already(PLAN, stream):
        return oracle.finals(taken, watermark)
    found: list[dict[str, Any]] = []
    for partition in range(stream.partitions):
        mine = rig.watermark_of(event, partition)
        found += oracle.finals([r for r in taken if r.partition == partition], mine)
    return found


def ordered(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


def finals(rig: StreamRig, stream: Stream) -> list[dict[str, Any]]:
    """Results that are the last word."""
    return [row for row in rig.results(stream) if row.get("final", True)]


@pytest.mark.parametrize("stream", PLAN.streams, ids=lambda s: s.name)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_worker_gives_what_the_oracle_gives_in_any_batches(stream: Stream, seed: int) -> None:
    rig = world(seed)
    rig.drain(rig.worker(stream), rng=random.Random(seed))
    found = finals(rig, stream)
    assert ordered(found) == ordered(expected(rig, stream))
    assert found or stateless(stream) or seed, "the first world gives something to compare"
