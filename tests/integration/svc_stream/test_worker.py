"""The worker on a real broker: what it does on the bus in memory it does there too."""

from __future__ import annotations

import random

import pytest

from integration.svc_stream.real_rig import RealRig
from unit.svc_stream.rig import ORIGIN, by_append, world


@pytest.mark.timeout(240)
def test_state_is_what_the_oracle_says_after_workers_came_and_went(kafka: str) -> None:
    """One worker, then a second one joins, the first is stopped and comes back with an empty disk."""
    rig, rng = RealRig(bootstrap=kafka), random.Random(4)
    log = by_append(world(4, 90))
    rig.write(log[:60])
    first = rig.worker(ORIGIN, "a")
    rig.go(first, seconds=3)
    second = rig.worker(ORIGIN, "b")
    rig.go(first, second, seconds=2)
    rig.write(log[60:])
    first.close()
    again = rig.worker(ORIGIN, "a", lose_disk=True)
    rig.read_log()
    rig.finish(again, second)
    assert len(rig.log) == len(log)
    rig.compare(ORIGIN, rng, questions=30)
    again.close()
    second.close()
