"""Two versions of a set run side by side; only the newer one speaks of what it rejects."""

from __future__ import annotations

import random
from dataclasses import replace

from headrace.plan.retained import sets_in_play
from headrace.plan.topics import worker_group
from svc_stream.app import reporters
from unit.svc_stream.rig import GATE, ORIGIN, PLAN, Rig, by_append, world

OLDER = replace(ORIGIN, ttl_ms=ORIGIN.ttl_ms * 2, hash="0" * 64)  # below the others: the smallest hash reports by itself
VERSION = replace(PLAN, feature_sets=(OLDER,), hash="4" * 64)
BOTH = replace(PLAN, retained=(VERSION,), hash="5" * 64)


def test_every_version_of_a_set_is_kept_up_and_an_unchanged_one_once() -> None:
    found = sets_in_play(replace(BOTH, retained=(VERSION, replace(VERSION, feature_sets=(GATE,)))))
    assert {digest: version.hash for digest, (version, _) in found.items()} == {
        ORIGIN.hash: BOTH.hash, GATE.hash: BOTH.hash, OLDER.hash: VERSION.hash,
    }  # fmt: skip


def test_the_group_of_a_worker_is_the_one_that_is_deleted_with_its_set() -> None:
    assert Rig().worker(ORIGIN).group == worker_group(PLAN, ORIGIN)


def test_a_retained_set_reports_only_events_nobody_else_reads() -> None:
    assert reporters(BOTH) == {
        ORIGIN.hash: frozenset({"departures", "weather"}),
        GATE.hash: frozenset(),
        OLDER.hash: frozenset(),
    }
    alone = replace(BOTH, feature_sets=(GATE,))
    assert reporters(alone) == {GATE.hash: {"departures"}, OLDER.hash: {"weather"}}


def test_both_versions_read_as_the_oracle_says_from_topics_of_their_own() -> None:
    rig = Rig(plan=replace(BOTH, feature_sets=(ORIGIN, GATE, OLDER)))  # the rig makes the topics of its plan
    rig.send(by_append(world(5)))
    reports = reporters(BOTH)
    rig.plan = BOTH
    newer = rig.worker(ORIGIN, reports=bool(reports[ORIGIN.hash]))
    rig.plan = VERSION
    older = rig.worker(OLDER, reports=bool(reports[OLDER.hash]))
    rig.drain(newer, older)
    for item in (ORIGIN, OLDER):
        rig.compare(item, random.Random(1), questions=20)
    letters = rig.letters()
    assert letters
    assert all(len(reasons) == 1 for reasons in letters.values()), "one version reports, not both"
