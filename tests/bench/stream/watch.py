"""How a run went, seen from outside: committed input and committed results over time, processor time, memory.

The clock starts at the first commit anyone can see, so that no contender's start counts, nor the records of that commit; it
ends when the input is committed and a read-committed reader has the last result. Rate = records between / time between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.stream.broker import Broker, Progress
from bench.stream.outputs import Reader
from bench.stream.process import Child

LOOK_S = 0.02
STALLED_S = 45.0


@dataclass(frozen=True, slots=True)
class Run:
    """One contender over one input."""

    records: int  # between the first commit and the end
    wall_s: float
    cpu_s: float
    peak_bytes: int
    resident_bytes: int  # at the end
    complete: bool  # all input committed, as many results as expected
    last_half_s: float  # time of the second half of the input: says whether it was still warming up

    @property
    def rate(self) -> float:
        return self.records / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of processor per record."""
        return self.cpu_s / self.records * 1e6


def watched(child: Child, broker: Broker, group: str, topics: Sequence[str], total: int, reader: Reader, expected: int) -> Run:
    """Watch a run that was just started, to its end or until it stalls; drains the reader.

    Args:
        total: records of the input. expected: results that must come.
    Raises: RuntimeError when the contender ends, or nothing is ever committed.
    """
    progress = Progress(broker, group, topics)
    began, first, cpu = time.monotonic(), 0, 0.0
    committed, moved, started, half = 0, began, 0.0, 0.0
    while True:
        got = reader.read(LOOK_S)
        now_committed = progress.committed()
        now = time.monotonic()
        if now_committed > committed or got:
            moved = now
        committed = now_committed
        if not first and committed:
            first, started, cpu = committed, now, child.cpu_s()
        if first and not half and committed >= (first + total) / 2:
            half = now
        done = committed >= total and len(reader.values) >= expected
        if done or now - moved > STALLED_S:
            break
        if not child.running:
            raise child.failure("ended while it was measured")
    if not first:
        raise child.failure(f"committed nothing in {STALLED_S:g} s")
    ended = max(now, reader.last_s) if done else moved
    spent, peak, resident = child.cpu_s() - cpu, child.peak_bytes(), child.resident_bytes()
    reader.drain()
    return Run(committed - first, max(ended - started, 1e-9), spent, peak, resident, done, ended - (half or started))


def await_committed(child: Child, progress: Progress, records: int) -> None:
    """Until that much of the input is committed. Raises RuntimeError if it stalls or ends."""
    moved, committed = time.monotonic(), 0
    while committed < records:
        time.sleep(LOOK_S)
        now = progress.committed()
        if now > committed:
            moved, committed = time.monotonic(), now
        if not child.running or time.monotonic() - moved > STALLED_S:
            raise child.failure(f"committed {committed:,} of {records:,}")
