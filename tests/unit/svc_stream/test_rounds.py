"""When a round ends: the clock of commits."""

from __future__ import annotations

from unit.svc_stream.rig import ORIGIN, Rig


def test_rounds_in_which_nothing_comes_save_up_no_wait() -> None:
    """Each round moves the tick on; after many quick ones the next record must not wait for the sum of them."""
    rig = Rig()
    worker = rig.worker(ORIGIN)
    rig.drain(worker)
    for _ in range(200):
        worker.step()
    assert worker.tick_s <= rig.clock.monotonic_s() + worker.interval_s
