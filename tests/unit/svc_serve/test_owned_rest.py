"""A call for a model with an owned set: asked as an event, answered by the owner, or by the rules when it is late."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from headrace.chassis.errors import Retryable
from headrace.contracts.records import DecisionSource, Door
from svc_serve.deciding import Decider
from svc_serve.owned_reads import OwnedReads
from svc_serve.owned_rest_door import OwnedRestDoor
from svc_serve.requests import RequestReader
from svc_serve.rest_door import NotDurable, Overloaded
from svc_serve.rollouts import RolloutLoader
from unit.svc_serve.rig import EVENT, MODEL, departure
from unit.svc_serve.test_scoring_door import OWNED, OWNED_PLAN, World

LATE_MS = MODEL.deadline_ms + 1


class Called(World):
    """The same world with a REST door."""

    def door(self, in_flight_max: int = 4) -> OwnedRestDoor:
        rig = self.rig
        return OwnedRestDoor(
            self.decider, rig.codec, self.answered, rig.queue, rig.producer("rest"), rig.metrics, rig.clock, wait_s=0.001,
            reader=self.reader, awaited=self.awaited, asking=rig.bus.producer("asking"), in_flight_max=in_flight_max,
        )  # fmt: skip

    async def call(self, door: OwnedRestDoor, *numbers: int) -> list[asyncio.Task[bytes]]:
        """Calls that have reached the door."""
        requests = [self.reader.of_call(departure(n), None) for n in numbers]
        calls = [asyncio.ensure_future(self.rig.queue.decide(r)) for r in requests if r is not None]
        await asyncio.sleep(0)
        door.step()
        return calls

    def asked(self) -> list[str]:
        """Ids of the events in the request topic, in order of their offsets."""
        records = self.rig.bus.broker.records(EVENT.topic)
        return [self.rig.codec.decode_event(self.rig.schema, r.value)["flight_id"] for r in records]


async def test_a_call_becomes_an_event_and_is_answered_from_what_its_owner_read(tmp_path: Path) -> None:
    world = Called(tmp_path)
    (call,) = await world.call(door := world.door(), 1)
    (record,) = world.rig.bus.broker.records(EVENT.topic)
    event = world.rig.codec.decode_event(world.rig.schema, record.value)
    assert {k: event[k] for k in departure(1)} == departure(1) and record.key == b"F1"
    assert dict(record.headers)["event-id"] == b"F1" and not call.done()
    world.send(world.answer(1, weather=5))
    world.rig.drain(world.loop())
    door.step()
    said = orjson.loads(await call)
    (passport,) = world.rig.passports()
    assert (said["request_id"], said["source"], said["decision"]) == ("F1", "rules", passport.decision)
    assert (passport.door, passport.event_id, passport.rule_score) == (Door.REST, f"{EVENT.topic}-0-1", 40.0)
    assert [(c.event, c.next_offset) for c in passport.sets[0].cut] == [("departures", 1), ("weather", 5)]


async def test_an_owner_that_is_late_leaves_the_answer_to_the_ladder_and_comes_too_late_for_good(tmp_path: Path) -> None:
    """Also where a model serves: it is never asked about a row that was not read."""
    world = Called(tmp_path)
    rig, door = world.rig, world.door()
    rig.plan = OWNED_PLAN
    RolloutLoader(world.decider, rig.objects, rig.trusted, "0", {}).take_up(rig.rollout(1, rig.arm()), 0)
    (call,) = await world.call(door, 1)
    rig.clock.advance(LATE_MS)
    door.step()
    said = orjson.loads(await call)
    assert (said["source"], said["reason"], said["decision"]) == ("default", "deadline,rule_input_missing", True)
    world.send(world.answer(1))
    rig.drain(world.loop())
    (passport,) = rig.passports()
    assert (passport.decision_source, passport.sets, passport.door) == (DecisionSource.DEFAULT, (), Door.REST)
    assert passport.epoch == 1 and passport.arm != "rules"


async def test_calls_with_one_id_ask_the_owner_once_and_hear_the_same_now_and_later(tmp_path: Path) -> None:
    world = Called(tmp_path)
    first, second = await world.call(door := world.door(), 1, 1)
    world.send(world.answer(1))
    world.rig.drain(world.loop())
    await asyncio.sleep(0)
    (third,) = await world.call(door, 1)
    assert await first == await second == await third
    assert world.asked() == ["F1"] and len(world.rig.passports()) == 1


async def test_a_call_is_decided_whether_its_key_is_in_the_sample_of_events_or_not(tmp_path: Path) -> None:
    world = Called(tmp_path)
    model = replace(MODEL, sample_bp=0)
    plan = replace(OWNED_PLAN, models=(model,))
    world.reader = RequestReader(plan, model, world.rig.codec, world.rig.clock)
    world.decider = Decider(plan, model, [], world.rig.clock, OwnedReads(OWNED))
    (call,) = await world.call(world.door(), 1)
    world.send(world.answer(1), world.answer(2))
    world.rig.drain(world.loop())
    assert orjson.loads(await call)["request_id"] == "F1"
    assert [p.request_id for p in world.rig.passports()] == ["F1"], "nobody called F2"


async def test_as_many_wait_as_are_allowed_and_no_more(tmp_path: Path) -> None:
    """Two at the door, four in the queue, the seventh is sent away; who is answered makes room for as many."""
    world = Called(tmp_path)
    door = world.door(in_flight_max=2)
    calls = await world.call(door, 1, 2)
    calls += await world.call(door, 3, 4, 5, 6)
    (refused,) = await world.call(door, 7)
    with pytest.raises(Overloaded):
        await refused
    assert world.asked() == ["F1", "F2"]
    world.send(world.answer(1), world.answer(2))
    loop = world.loop()
    for _ in range(5):  # without letting time pass: nobody is overdue
        loop.step()
    door.step()
    assert sorted(world.asked()) == ["F1", "F2", "F3", "F4"]
    door.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(end, NotDurable) for end in ends] == [False, False, True, True, True, True]


async def test_a_broker_that_takes_no_request_leaves_it_to_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Called(tmp_path)
    door = world.door()

    def down(*_: object) -> None:
        raise Retryable("queue full")

    monkeypatch.setattr(door._asking, "produce", down)
    (call,) = await world.call(door, 1)
    world.rig.clock.advance(LATE_MS)
    door.step()
    assert orjson.loads(await call)["source"] == "default"
