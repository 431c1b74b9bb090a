"""One request id has one passport, whichever door it comes through, however often, and whatever fails meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from headrace.chassis.bus import Record
from headrace.chassis.errors import Fatal, OutcomeUnknown, Poison, Retryable, TransactionAborted
from headrace.chassis.records import EncodeRejected, Outgoing, dead_letter
from headrace.chassis.tracing import Tracing
from headrace.contracts.records import Door
from svc_serve.domain.answered import Answered
from svc_serve.event_door import EventDoor
from svc_serve.readback import read_back
from svc_serve.rest_door import NotDurable, Overloaded, RestDoor
from unit.svc_serve.rig import EVENT, NOW, PREDICTIONS, Rig


async def ask(rig: Rig, door: RestDoor, *numbers: int) -> list[bytes | BaseException]:
    """All at once; the door goes round as often as it takes."""
    calls = [asyncio.ensure_future(rig.queue.decide(rig.request(n))) for n in numbers]
    await asyncio.sleep(0)
    for _ in range(4):  # more than any test's requests take
        door.step()
        await asyncio.sleep(0)
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_a_reply_is_what_the_durable_passport_says(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm())
    (reply,) = await ask(rig, rig.rest(), 1)
    (passport,) = rig.passports()
    assert isinstance(reply, bytes)
    said = orjson.loads(reply)
    assert (said["request_id"], said["score"], said["decision"]) == ("F1", passport.score, passport.decision)
    assert sum(said["contributions"].values()) == pytest.approx(said["raw_score"], abs=1e-6)


async def test_the_same_id_at_both_doors_has_one_passport_and_one_reply(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rest, events = rig.rest(), rig.events()
    rig.ask_by_event(1, 2, 2)
    rig.drain(events)
    replies = await ask(rig, rest, 1, 2, 3, 3)
    rig.ask_by_event(1, 3)
    rig.drain(events)
    assert sorted(p.request_id for p in rig.passports()) == ["F1", "F2", "F3"]
    assert {p.request_id: p.door for p in rig.passports()} == {"F1": Door.EVENT, "F2": Door.EVENT, "F3": Door.REST}
    assert [orjson.loads(r)["request_id"] for r in replies if isinstance(r, bytes)] == ["F1", "F2", "F3", "F3"]


FAULTS = [
    ("begin", Retryable("down")),
    ("produce", Retryable("down")),
    ("deliver", Retryable("lost")),
    ("commit_transaction", TransactionAborted("aborted")),
]


@pytest.mark.parametrize(("operation", "error"), FAULTS, ids=[o for o, _ in FAULTS])
@pytest.mark.parametrize("abort_fails", [False, True])
async def test_a_passport_that_is_not_durable_frees_its_id(
    operation: str, error: Exception, abort_fails: bool, tmp_path: Path
) -> None:
    rig = Rig(tmp_path)
    door = rig.rest()
    rig.bus.broker.fail(operation, error)
    if abort_fails and operation != "begin":
        rig.bus.broker.fail("abort_transaction", OutcomeUnknown("no answer"))
    (refusal,) = await ask(rig, door, 1)
    assert isinstance(refusal, NotDurable) and rig.passports() == []
    (reply,) = await ask(rig, door, 1)
    assert isinstance(reply, bytes) and len(rig.passports()) == 1


@pytest.mark.parametrize("committed", [False, True])
async def test_an_unknown_outcome_ends_the_door_and_the_next_life_reads_what_happened(committed: bool, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    door = rig.rest()
    rig.bus.broker.fail("commit_transaction", OutcomeUnknown("timed out"), after=committed)
    call = asyncio.ensure_future(rig.queue.decide(rig.request(1)))
    await asyncio.sleep(0)
    with pytest.raises(Fatal, match="outcome unknown"):
        door.step()
    with pytest.raises(NotDurable):
        await call
    again = Rig(tmp_path, bus=rig.bus, codec=rig.codec)
    door = again.rest()
    assert read_back(again.bus, again.codec, PREDICTIONS, again.answered, 100, "readback") == int(committed)
    (reply,) = await ask(again, door, 1)
    assert isinstance(reply, bytes)
    assert [p.request_id for p in again.passports()] == ["F1"]


async def test_after_a_restart_repeated_ids_get_the_reply_they_had(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm())
    before = await ask(rig, rig.rest(), 1, 2)
    again = Rig(tmp_path, bus=rig.bus, codec=rig.codec)  # serves by rules: an answer of its own would differ
    assert read_back(again.bus, again.codec, PREDICTIONS, again.answered, 100, "readback") == 2
    assert await ask(again, again.rest(), 1, 2) == before
    assert len(again.passports()) == 2


@pytest.mark.parametrize("error", [TransactionAborted("generation"), Retryable("down")])
def test_an_aborted_batch_of_events_is_decided_again_once(error: Exception, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    loop = rig.events()
    rig.ask_by_event(1, 2, 3, 4)
    rig.bus.broker.fail("send_offsets", error)
    rig.drain(loop)
    assert sorted(p.request_id for p in rig.passports()) == ["F1", "F2", "F3", "F4"]
    assert len(rig.answered) == 4


def test_an_undecodable_request_stops_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.ask_by_event(1)
    rig.bus.producer("p").produce(EVENT.topic, b"\x00nonsense", b"k")
    rig.ask_by_event(2)
    rig.drain(rig.events())
    assert sorted(p.request_id for p in rig.passports()) == ["F1", "F2"]


async def test_more_than_the_bound_waits_nowhere(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    replies = await ask(rig, rig.rest(), *range(6))
    assert [type(r) for r in replies] == [bytes] * 4 + [Overloaded] * 2


async def test_whoever_waits_when_the_door_closes_is_sent_away_and_nobody_enters_after(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    door = rig.rest()
    call = asyncio.ensure_future(rig.queue.decide(rig.request(1)))
    await asyncio.sleep(0)
    door.close()
    with pytest.raises(NotDurable):
        await call
    with pytest.raises(NotDurable):
        await rig.queue.decide(rig.request(2))


def test_an_id_in_flight_at_the_other_door_is_waited_for_then_refused() -> None:
    answered = Answered(10, wait_s=0.0)
    assert answered.claim(["a", "b"]).new == {"a", "b"}
    with pytest.raises(TimeoutError):
        answered.claim(["b", "c"])
    answered.release(["b"])
    answered.settle({"a": b"done"})
    claimed = answered.claim(["a", "b", "c"])
    assert (claimed.new, dict(claimed.known)) == ({"b", "c"}, {"a": b"done"})


def test_the_oldest_replies_are_forgotten_first() -> None:
    answered = Answered(2)
    answered.settle({"a": b"1"})
    answered.settle({"b": b"2", "c": b"3"})
    assert (answered.reply("a"), answered.reply("c"), len(answered)) == (None, b"3", 2)


def test_a_dead_letter_is_of_the_time_of_the_injected_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays and tests run on a clock of their own."""
    rig, times = Rig(tmp_path), list[int]()

    def noted(record: Record, group: str, poison: Poison, now_ms: int, encode: EncodeRejected) -> Outgoing:
        times.append(now_ms)
        return dead_letter(record, group, poison, now_ms, encode)

    monkeypatch.setattr("svc_serve.event_door.dead_letter", noted)
    door = EventDoor(
        rig.decider, rig.reader, rig.codec, rig.answered, Tracing("svc-serve", "0", None), rig.metrics, rig.clock, batch_max=3
    )
    monkeypatch.setattr(door, "_reports", True)
    (letter,) = door.handle([Record(EVENT.topic, 0, 0, NOW, b"k", b"junk")]).outgoing
    assert (times, letter.topic) == ([rig.clock.now_ms()], f"{EVENT.topic}.svc-serve.dlq")
