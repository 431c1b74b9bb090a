"""A dead letter sent again is one more record at a later place: the law says what becomes of it there."""

from __future__ import annotations

import random

import pytest

from headrace.contracts.partition import partition_for
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.verdicts import Verdict
from support.law_worlds import DEPARTURES, MIN, hexed
from unit.svc_stream.rig import ORIGIN, PLAN, Rig
from unit.svc_stream.test_handlers import NOW, departure

BOUND, LATENESS = DEPARTURES.poison_bound_ms, DEPARTURES.lateness_ms
AHEAD = NOW + BOUND + 10 * MIN  # of a clock that ran ahead: poison when it came


def told(delay_ms: int) -> tuple[Rig, list[RawRecord]]:
    """A poison record, one at its own time plus `delay_ms`, and the poison one again after that."""
    first, again = departure(0, departed_at=NOW), departure(1, departed_at=AHEAD)
    later = departure(2, departed_at=AHEAD + delay_ms)
    moment = AHEAD + delay_ms + MIN
    later = RawRecord("departures", 0, 2, moment, later.fields)
    replayed = RawRecord("departures", 0, 3, moment + MIN, again.fields)
    rig = Rig()
    rig.send([first, again, later, replayed])
    rig.drain(rig.worker(ORIGIN))
    return rig, rig.log


@pytest.mark.parametrize(
    ("delay_ms", "verdict"), [(LATENESS, Verdict.OK), (LATENESS + 1, Verdict.LATE)], ids=["in time", "too late"]
)
def test_a_dead_letter_sent_again_enters_state_only_if_it_is_not_late_and_as_of_sees_it_anyway(
    delay_ms: int, verdict: Verdict
) -> None:
    rig, log = told(delay_ms)
    oracle = Oracle(PLAN.events, log)
    said = [oracle.verdicts()["departures", 0, r.offset] for r in log]
    assert said == [Verdict.OK, Verdict.POISON, Verdict.OK, verdict]
    rig.compare(ORIGIN, random.Random(delay_ms))
    view = rig.view(ORIGIN, partition_for("EWR", ORIGIN.partitions))
    counted = rig.read(ORIGIN, view, "EWR", AHEAD)[0][0]
    assert counted == hexed([2.0 if verdict is Verdict.OK else 1.0])[0]
    before, after = (oracle.as_of(ORIGIN, "EWR", t)[0][0] for t in (AHEAD, AHEAD + 6 * MIN))
    assert (before, after) == (1.0, 2.0), "available five minutes after its time, as declared, whatever its verdict"
