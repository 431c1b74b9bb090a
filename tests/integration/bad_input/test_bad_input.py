"""Bad input at every door of the running platform: each kind gets its answer, nothing else changes, nothing restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.contracts.catalogue import ROLLOUTS
from headrace.contracts.signing import sign_control
from headrace.plan.topics import state_topic
from headrace_local import Ports
from integration.bad_input.cases import TABLE, Case
from integration.bad_input.world import (
    KEY,
    LEAVES_MS,
    MODEL,
    PIPELINE,
    STRANGER,
    World,
    departure,
    eventually,
    scheduled,
    world,
)

SERVICES = ("svc-ingest", "svc-stream", "svc-serve", "svc-governance")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("bad") / "stack", Ports.free()) as running:
        yield running


def test_every_kind_of_bad_input_gets_its_answer_and_changes_nothing(there: World) -> None:
    """Method: one table; all of it is sent, then every answer is awaited; then the platform must be as it was.

    What must not count names the stranger as origin, carrier and tail, so that one look at the state's keys tells.
    """
    assert len({(case.door, case.kind) for case in TABLE}) == len(TABLE) >= 24
    good_event(there, "anchor")
    take_up(there, 5)
    before = there.table()

    answers = [(case, seen) for case, seen in [(case, case.do(there)) for case in TABLE]]
    found = [(case, answer_of(see)) for case, see in answers]
    print("\n" + "\n".join(shown(case, answer) for case, answer in found))
    wrong = [
        f"{case.door}, {case.kind}: expected {case.answer}, found {answer}" for case, answer in found if answer != case.answer
    ]
    assert not wrong, "\n".join(wrong)

    assert there.table() == before
    good_event(there, "afterwards")
    take_up(there, next(there.epochs))
    reply = there.post("svc-serve", f"/v1/{PIPELINE}/{MODEL}/decisions", orjson.dumps(scheduled("afterwards")))
    assert (reply.status_code, reply.json()["epoch"]) == (200, there.table()["epoch"])
    assert_one_letter_each(there)
    assert_no_stranger_in_the_state(there)
    for name in SERVICES:
        part = there.stack.service(name)
        assert (name, part.phase, part.restarts) == (name, "ready", 0)
        assert there.http.get(there.stack.url(name) + "/health/ready").status_code == 200


def test_a_killed_replica_serves_by_the_good_rollout_though_the_topic_ends_in_a_replayed_and_a_forged_one(there: World) -> None:
    """The newest records under the key are an old one governance signed and one it did not; then kill -9."""
    epoch = next(there.epochs)
    take_up(there, epoch)
    before = there.table()
    there.produce(ROLLOUTS, there.signed(there.rollout(1)), KEY.encode())
    payload = there.codec.encode(ROLLOUTS, there.rollout(epoch + 1_000))
    forged = sign_control(Ed25519PrivateKey.generate(), "svc-governance", ROLLOUTS, KEY, payload)
    there.produce(ROLLOUTS, there.codec.encode(ROLLOUTS, forged), KEY.encode())
    there.stack.kill("svc-serve")
    there.stack.wait_ready()
    assert there.table() == before
    take_up(there, next(there.epochs))


def answer_of(see: object) -> str:
    assert callable(see)
    try:
        return str(see())
    except (AssertionError, httpx.HTTPError) as silence:
        return f"none: {silence}"


def shown(case: Case, answer: str) -> str:
    return f"{'   ' if answer == case.answer else 'NOT'} {case.door:20} {case.kind:40} -> {answer[:160]}"


def good_event(there: World, flight_id: str) -> None:
    """A departure through the front door reaches the state, and counts there with all good ones before it."""
    row = departure(flight_id, "GUD", departed_at=LEAVES_MS)
    reply = there.post("svc-ingest", f"/v1/{PIPELINE}/flights-departures/records", orjson.dumps(row))
    assert reply.json()["accepted"] == 1
    there.good_departures += 1
    eventually(lambda: there.accepted() == there.good_departures, f"{flight_id} in the state: {there.verdicts()}")


def take_up(there: World, epoch: int) -> None:
    there.produce(ROLLOUTS, there.signed(there.rollout(epoch)), KEY.encode())
    assert there.answer_to(epoch).status.value == "APPLIED"
    assert there.table()["epoch"] == epoch


def assert_one_letter_each(there: World) -> None:
    """Every bad record of an event topic has exactly one letter, and no other record has any."""
    origins = Counter((j.letter.topic, j.letter.partition, j.letter.offset) for j in there.letters() if j.letter.partition >= 0)
    assert origins == Counter(there.sent)


def assert_no_stranger_in_the_state(there: World) -> None:
    keys = [r.key or b"" for s in there.plan.feature_sets for r in there.records(state_topic(there.plan, s))]
    assert any(b"GUD" in key for key in keys)
    assert not any(STRANGER.encode() in key for key in keys)
