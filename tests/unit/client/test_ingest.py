"""The sender repeats what was not answered, the same bytes, inside its budget; and nothing that was refused."""

from __future__ import annotations

import httpx
import pytest

from headrace.client import ingest
from headrace.client.ingest import AsyncIngestClient, IngestClient, Refused, Unanswered, Unreachable

REJECTED = [{"line": 3, "reason": "wrong_type", "detail": "x"}]
RECEIPT = {"accepted": 2, "duplicates": 1, "rejected": REJECTED, "rejected_total": 1, "offsets": {"0": 7}}
ROWS = [{"flight_id": "UA-1"}, {"flight_id": "UA-2"}]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "WAIT_S", (0.0, 0.0))


def answering(*answers: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[bytes]]:
    """A transport that gives these answers in turn, the last one for ever, and the bodies it saw."""
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        found = answers[min(len(bodies), len(answers) - 1)]
        bodies.append(request.content)
        if isinstance(found, Exception):
            raise found
        return found

    return httpx.MockTransport(answer), bodies


def flaky() -> tuple[httpx.MockTransport, list[bytes]]:
    busy, away = (httpx.Response(s, json={"detail": "d", "hint": "h"}, headers={"retry-after": "1"}) for s in (429, 503))
    return answering(httpx.ConnectError("refused"), busy, httpx.ReadError("reset"), away, httpx.Response(200, json=RECEIPT))


def test_an_unanswered_batch_is_sent_again_byte_by_byte() -> None:
    transport, bodies = flaky()
    receipt = IngestClient(transport=transport).send("flights", "departures", ROWS, traceparent="t", key="k")
    assert (receipt.accepted, receipt.duplicates, receipt.rejected_total, receipt.tries) == (2, 1, 1, 5)
    assert receipt.rejected[0].reason == "wrong_type"
    assert receipt.offsets == {0: 7}
    assert set(bodies) == {b'{"flight_id":"UA-1"}\n{"flight_id":"UA-2"}\n'}


async def test_the_async_sender_does_the_same() -> None:
    transport, bodies = flaky()
    async with AsyncIngestClient(transport=transport) as client:
        receipt = await client.send("flights", "departures", b'{"flight_id":"UA-1"}\n')
    assert receipt.tries == len(bodies) == 5


@pytest.mark.parametrize("status", [400, 404, 413, 415, 500])
def test_a_refused_batch_is_not_sent_again(status: int) -> None:
    transport, bodies = answering(httpx.Response(status, json={"detail": "why", "hint": "do this"}))
    with pytest.raises(Refused, match="why: do this"):
        IngestClient(transport=transport).send("flights", "departures", ROWS)
    assert len(bodies) == 1


def test_a_spent_budget_says_so() -> None:
    transport, bodies = answering(httpx.ConnectError("refused"))
    with pytest.raises(Unanswered, match="after 1 tries: ConnectError"):
        IngestClient(transport=transport, budget_s=-1).send("flights", "departures", ROWS)
    assert len(bodies) == 1


NOBODY = "http://127.0.0.1:1"


def refused() -> httpx.ConnectError:
    """As httpx raises it: what the system said lies behind."""
    error = httpx.ConnectError("[Errno 111] Connection refused")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    return error


def test_where_nobody_ever_listened_is_told_at_once() -> None:
    """On a real socket: the budget would be two minutes."""
    with IngestClient(NOBODY) as client:
        with pytest.raises(Unreachable, match=f"nobody listens at {NOBODY}.*make status.*make up"):
            client.send("flights", "departures", ROWS)
        with pytest.raises(Unreachable, match=NOBODY):
            client.status()


async def test_the_async_sender_tells_it_too() -> None:
    async with AsyncIngestClient(NOBODY) as client:
        with pytest.raises(Unreachable, match=NOBODY):
            await client.send("flights", "departures", ROWS)


def test_who_answered_once_is_waited_for() -> None:
    transport, bodies = answering(httpx.Response(200, json=RECEIPT), refused(), refused(), httpx.Response(200, json=RECEIPT))
    client = IngestClient(transport=transport)
    client.send("flights", "departures", ROWS)
    assert client.send("flights", "departures", ROWS).tries == 3
    assert len(bodies) == 4


@pytest.mark.parametrize(
    ("patient", "first"),
    [(True, refused()), (False, httpx.ReadError("reset")), (False, httpx.ConnectTimeout("late"))],
    ids=["patient", "reset", "timeout"],
)
def test_a_patient_client_and_other_failures_are_tried_again(patient: bool, first: httpx.TransportError) -> None:
    transport, bodies = answering(first, httpx.Response(200, json=RECEIPT))
    assert IngestClient(transport=transport, patient=patient).send("flights", "departures", ROWS).tries == 2
    assert len(bodies) == 2


def test_a_status_that_does_not_come_is_unanswered() -> None:
    transport, _ = answering(httpx.ReadTimeout("late"))
    with pytest.raises(Unanswered, match="does not tell its sources"):
        IngestClient(transport=transport).status()
