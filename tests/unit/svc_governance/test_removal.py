"""Topics of a set go when no version of the plan holds it and everyone has said so; never before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.chassis.bus import Committed, TopicPartition
from headrace.contracts.catalogue import MODEL_CANDIDATES, PLAN_ACKS
from headrace.plan.ir import Plan
from headrace.plan.retained import sets_in_play
from headrace.plan.topics import partials_topic, state_topic, worker_group
from svc_governance.domain.candidates import approve
from svc_governance.domain.pipelines import ANSWERING_SERVICES, admit
from svc_governance.domain.rollout import kill
from svc_governance.writer import TIDY_S, Writer
from unit.svc_governance.test_writer import in_canary
from unit.svc_governance.worlds import HOLD, MODEL, PIPELINE, Town, a_plan, an_ack, by, command

OLD, NEW = a_plan(), a_plan(window_hours=2)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def topics(town: Town, plan: Plan) -> set[bool]:
    """Whether the topics of the plan's set exist."""
    (item,) = plan.feature_sets
    return {town.bus.admin().partitions(name) is not None for name in (partials_topic(plan, item), state_topic(plan, item))}


def answered(town: Town, writer: Writer, *services: str, instance: str = "0") -> None:
    epoch = writer.state.pipelines[PIPELINE].epoch
    acks = [replace(an_ack(service, epoch), instance=f"{service}-{instance}") for service in services]
    town.send(PLAN_ACKS, *acks)
    rounds(town, writer)


def rounds(town: Town, writer: Writer) -> None:
    for _ in range(3):
        town.clock.advance(round(TIDY_S * 1000))
        writer.round()


def test_a_set_nobody_reads_goes_after_every_service_has_answered(town: Town) -> None:
    writer = town.opened()
    command(writer, lambda state, now: admit(state, by("ada", now), OLD))
    answered(town, writer, *ANSWERING_SERVICES)
    command(writer, lambda state, now: admit(state, by("ada", now), NEW))
    answered(town, writer, *ANSWERING_SERVICES[1:])
    assert topics(town, OLD) == topics(town, NEW) == {True}
    answered(town, writer, ANSWERING_SERVICES[0])
    assert (topics(town, OLD), topics(town, NEW)) == ({False}, {True})
    assert writer.state.pipelines[PIPELINE].unused == {}
    assert town.opened().state.pipelines[PIPELINE].unused == {}, "the chain says so too"


def test_every_replica_that_ever_answered_is_waited_for(town: Town) -> None:
    writer = town.opened()
    command(writer, lambda state, now: admit(state, by("ada", now), OLD))
    answered(town, writer, *ANSWERING_SERVICES)
    answered(town, writer, "svc-serve", instance="1")
    command(writer, lambda state, now: admit(state, by("ada", now), NEW))
    answered(town, writer, *ANSWERING_SERVICES)
    assert topics(town, OLD) == {True}
    answered(town, writer, "svc-serve", instance="1")
    assert topics(town, OLD) == {False}


def test_a_set_a_model_in_use_reads_stays_until_the_model_is_gone(town: Town) -> None:
    writer = in_canary(town)
    answered(town, writer, *ANSWERING_SERVICES)
    command(writer, lambda state, now: admit(state, by("ada", now), NEW))
    answered(town, writer, *ANSWERING_SERVICES)
    assert topics(town, OLD) == {True}
    assert len(sets_in_play(writer.state.pipelines[PIPELINE].plan)) == 2
    command(writer, lambda state, now: kill(state, by("ops", now), PIPELINE, MODEL, HOLD))
    rounds(town, writer)
    assert topics(town, OLD) == {True}, "nobody has taken up the epoch without it yet"
    answered(town, writer, *ANSWERING_SERVICES)
    assert topics(town, OLD) == {False}


def test_a_group_that_still_has_members_is_tried_again_and_its_offsets_go_before_its_topics(town: Town) -> None:
    writer = town.opened()
    command(writer, lambda state, now: admit(state, by("ada", now), OLD))
    (item,) = OLD.feature_sets
    worker = town.bus.consumer(worker_group(OLD, item), "worker", instance_id="worker")
    worker.subscribe([state_topic(OLD, item)], lambda *_: None, lambda *_: None)
    worker.consume(1, 0.0)
    command(writer, lambda state, now: admit(state, by("ada", now), NEW))
    answered(town, writer, *ANSWERING_SERVICES)
    assert topics(town, OLD) == {True}
    group = town.bus.broker.group(worker_group(OLD, item))
    group.offsets[TopicPartition(state_topic(OLD, item), 0)] = Committed(3)
    group.members.clear()  # its session ended
    rounds(town, writer)
    assert topics(town, OLD) == {False}
    assert group.offsets == {}


def test_going_back_before_all_have_answered_keeps_everything(town: Town) -> None:
    writer = town.opened()
    for plan in (OLD, NEW, OLD):
        command(writer, lambda state, now, plan=plan: admit(state, by("ada", now), plan))
    assert set(writer.state.pipelines[PIPELINE].unused) == {NEW.feature_sets[0].hash}
    answered(town, writer, *ANSWERING_SERVICES)
    assert (topics(town, OLD), topics(town, NEW)) == ({True}, {False})


def test_approving_under_a_new_plan_is_for_candidates_of_it(town: Town) -> None:
    """A candidate of the old row waits in vain: it would be a model nobody may serve rows to."""
    writer = town.opened()
    command(writer, lambda state, now: admit(state, by("ada", now), OLD))
    town.send(MODEL_CANDIDATES, town.signed_candidate())
    writer.round()
    command(writer, lambda state, now: admit(state, by("ada", now), NEW))
    refusal = command(writer, lambda state, now: approve(state, by("grace", now), "run-1", "ok", HOLD)).refusal
    assert refusal is not None
    assert "declared anew" in refusal.detail
