"""The scoring door: the first answer of an owner is decided, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicSpec
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.tracing import Tracing
from headrace.chassis.transactional import TransactionalLoop
from headrace.contracts.catalogue import dlq_topic
from headrace.contracts.records import DecisionSource, RecordRejected, ScoringCut, ScoringInput
from headrace.plan.topics import scoring_inputs_topic
from svc_serve.awaited import Awaited
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.owned_reads import OwnedReads, owned_set
from svc_serve.readback import read_back
from svc_serve.requests import RequestReader
from svc_serve.rest_door import Waiting
from svc_serve.scoring_door import ScoringDoor
from unit.svc_serve.rig import EVENT, MODEL, NOW, PLAN, PREDICTIONS, SET, Rig, departure, never

OWNED = replace(SET, placement="owned")
OWNED_PLAN = replace(PLAN, feature_sets=(OWNED,))
INPUTS = scoring_inputs_topic("flights")


class World:
    """A model over an owned set, and answers of its owner."""

    def __init__(self, folder: Path) -> None:
        self.rig = rig = Rig(folder)
        for name in (INPUTS, dlq_topic(INPUTS, "svc-serve"), dlq_topic(EVENT.topic, "svc-serve")):
            rig.bus.broker.create(TopicSpec(name, 1))
        self.reader = RequestReader(OWNED_PLAN, MODEL, rig.codec, rig.clock)
        self.answered = Answered(1_000, wait_s=0.0)
        self.awaited = Awaited[Waiting]()
        self.decider = Decider(OWNED_PLAN, MODEL, [], rig.clock, OwnedReads(OWNED))

    def loop(self) -> TransactionalLoop:
        rig, decider = self.rig, self.decider
        tracing, metrics = Tracing("svc-serve", "0", None), rig.metrics
        door = ScoringDoor(decider, self.reader, rig.codec, self.answered, tracing, metrics, rig.clock, batch_max=3,
                           awaited=self.awaited)  # fmt: skip
        return TransactionalLoop(
            group=door.group, topics=[door.topic], consumer=rig.bus.consumer(door.group, "c", instance_id="c"),
            make_producer=rig.producer("event"), handle=door.handle, encode_rejected=never, clock=rig.clock,
            metrics=ChassisMetrics(CollectorRegistry()), on_committed=door.committed, records_max=500, poll_timeout_s=0,
        )  # fmt: skip

    def answer(self, number: int, weather: int = 0, mean: float = 40.0, **changes: object) -> ScoringInput:
        """The owner's answer to request `number`, with this much of the weather in its cut."""
        value = self.rig.codec.encode_event(self.rig.schema, departure(number))
        cut = tuple(ScoringCut(event=e, partition=0, next_offset=n) for e, n in (("departures", number), ("weather", weather)))
        values = tuple(mean if f.name == "delay_mean_1h" else 3.0 for f in OWNED.features)
        found = ScoringInput(
            plan_hash="p", set=OWNED.name, set_hash=OWNED.hash, entity="EWR", t_ms=NOW, topic=EVENT.topic, partition=0,
            offset=number, append_time_ms=NOW, traceparent=None, request=value, commit_sequence=7, cut=cut, base_floor_ms=None,
            statuses=tuple(0 for _ in values), values=values,
        )  # fmt: skip
        return replace(found, **changes)  # type: ignore[arg-type]

    def send(self, *found: ScoringInput) -> None:
        producer = self.rig.bus.producer("owner")
        for one in found:
            producer.produce(INPUTS, self.rig.codec.encode(INPUTS, one), b"EWR", 0)


def test_a_passport_holds_what_the_owner_read_and_the_cut_it_read_it_at(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.send(world.answer(1, weather=5))
    world.rig.drain(world.loop())
    (passport,) = world.rig.passports()
    (read,) = passport.sets
    assert (read.placement, read.entity, read.commit_sequence) == ("owned", "EWR", 7)
    assert [(c.event, c.next_offset) for c in read.cut] == [("departures", 1), ("weather", 5)]
    assert passport.event_id == f"{EVENT.topic}-0-1" and passport.request_id == "F1"
    assert (passport.decision_source, passport.decision, passport.rule_score) == (DecisionSource.RULES, True, 40.0)


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
def test_of_two_answers_to_one_request_the_first_is_decided(together: bool, tmp_path: Path) -> None:
    world = World(tmp_path)
    loop = world.loop()
    world.send(world.answer(1, weather=5))
    if not together:
        world.rig.drain(loop)
    world.send(world.answer(1, weather=9, mean=10.0), world.answer(2))
    world.rig.drain(loop)
    first, second = sorted(world.rig.passports(), key=lambda p: p.request_id)
    assert (first.request_id, second.request_id) == ("F1", "F2")
    assert [(c.event, c.next_offset) for c in first.sets[0].cut] == [("departures", 1), ("weather", 5)]
    assert first.rule_score == 40.0


def test_a_second_answer_that_comes_after_a_restart_changes_nothing(tmp_path: Path) -> None:
    """The next life reads the passports back before it opens its doors."""
    world = World(tmp_path)
    loop = world.loop()
    world.send(world.answer(1, weather=5))
    world.rig.drain(loop)
    loop.close()
    world.answered = Answered(1_000, wait_s=0.0)
    read_back(world.rig.bus, world.rig.codec, PREDICTIONS, world.answered, 100, "back")
    world.send(world.answer(1, weather=9))
    world.rig.drain(world.loop())
    assert len(world.rig.passports()) == 1


def test_answers_for_other_sets_or_events_are_not_decided_and_garbage_is_a_dead_letter(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.send(world.answer(1, set_hash="9" * 64), world.answer(2, topic="flights.other.v1"), world.answer(3))
    world.rig.bus.producer("mallory").produce(INPUTS, b"garbage", b"EWR", 0)
    world.rig.drain(world.loop())
    assert [p.request_id for p in world.rig.passports()] == ["F3"]
    (letter,) = world.rig.bus.broker.records(dlq_topic(INPUTS, "svc-serve"))
    assert world.rig.codec.decode(letter.value, RecordRejected).value == b"garbage"


def test_the_owned_set_of_a_model_is_the_one_it_reads() -> None:
    assert owned_set(PLAN, MODEL) is None and owned_set(OWNED_PLAN, MODEL) == OWNED
