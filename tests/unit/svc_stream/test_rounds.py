"""When a round ends: the clock of commits."""

from __future__ import annotations

import pytest

from svc_stream import engine
from unit.svc_stream.rig import ORIGIN, Rig, by_append, world


def test_rounds_in_which_nothing_comes_save_up_no_wait() -> None:
    """Each round moves the tick on; after many quick ones the next record must not wait for the sum of them."""
    rig = Rig()
    worker = rig.worker(ORIGIN)
    rig.drain(worker)
    for _ in range(200):
        worker.step()
    assert worker.tick_s <= rig.clock.monotonic_s() + worker.interval_s


def test_a_round_behind_its_tick_takes_what_waits_up_to_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that queued up while a round took long goes into one transaction, not into one for each call of the client."""
    monkeypatch.setattr(engine, "CONSUME_RECORDS", 7)
    for rows_max, behind_rows_max in ((1_000, 1_000), (30, 1_000), (1_000, 28)):
        rig = Rig()
        worker = rig.worker(ORIGIN)
        rig.drain(worker)
        before = worker.metrics.records
        rig.send(by_append(world(1)))
        rig.clock.advance(60_000)
        worker.behind_rows_max = behind_rows_max
        taken = rig.round(worker, rows_max)
        rig.drain(worker)
        sent = worker.metrics.records - before
        assert sent > 40
        assert taken == min(sent, rows_max, behind_rows_max)
