"""What the HTTP door answers: the real app, the real writer, the bus in memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from headrace.chassis.bus_memory import MemoryBus
from headrace.contracts.errors import Retryable
from svc_ingest.adapters.http import HttpBounds
from svc_ingest.desk import DeskBounds
from unit.svc_ingest.rig import HOUR_MS, NOW_MS, Rig, departure, lines

URL = "/v1/flights/departures/records"
JSON_LINES = {"content-type": "application/x-ndjson"}
BOUNDS = HttpBounds(body_bytes_max=200_000, body_rows_max=50)


def client_of(rig: Rig) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(rig.app), base_url="http://ingest")


async def post(rig: Rig, body: bytes, url: str = URL, **headers: str) -> httpx.Response:
    with rig.writing():
        async with client_of(rig) as client:
            return await client.post(
                url, content=body, headers=JSON_LINES | {k.replace("_", "-"): v for k, v in headers.items()}
            )


def row(**changes: Any) -> bytes:
    return json.dumps(departure(1, **changes)).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in departure(1).items() if key != name}).encode()


BAD_ROWS: dict[str, tuple[bytes, str, str]] = {
    "broken json": (b'{"flight_id": "UA-1", ', "broken_json", ""),
    "two objects on a line": (row() + row(), "broken_json", ""),
    "not utf-8": (b'{"flight_id": "\xff"}', "broken_json", "not UTF-8 at byte"),
    "deep nesting": (b'{"flight_id": ' + b"[" * 5000 + b"]" * 5000 + b"}", "broken_json", ""),
    "an array": (b"[1, 2]", "wrong_type", "expected one JSON object"),
    "a bare number": (b"17", "wrong_type", "expected one JSON object"),
    "text for a long": (row(dep_delay="4"), "wrong_type", "dep_delay is '4', expected an integer"),
    "a fraction for a long": (row(dep_delay=4.5), "wrong_type", "dep_delay is 4.5"),
    "true for a long": (row(dep_delay=True), "wrong_type", "dep_delay is True"),
    "an object for a string": (row(origin={"code": "EWR"}), "wrong_type", "origin"),
    "a number for a boolean": (row(diverted=1), "wrong_type", "diverted is 1, expected true or false"),
    "unknown field": (row(gate="C70"), "unknown_field", "'gate' not declared"),
    "misspelt field": (without("origin")[:-1] + b', "orgin": "EWR"}', "unknown_field", "'orgin' not declared"),
    "missing field": (without("origin"), "missing_field", "origin is missing"),
    "null where never null": (row(origin=None), "missing_field", "not nullable"),
    "null key": (row(flight_id=None), "null_key", "flight_id"),
    "no key": (without("flight_id"), "null_key", "flight_id"),
    "empty key": (row(flight_id=""), "null_key", "flight_id"),
    "above its range": (row(dep_delay=10_001), "out_of_range", "-1000 to 10000"),
    "past 32 bits": (row(hour=2**31), "out_of_range", "hour"),
    "past 64 bits": (row(dep_delay=2**70), "out_of_range", "dep_delay"),
    "NaN": (row(ratio=float("nan")), "not_finite", "NaN"),
    "infinity": (b'{"ratio": -Infinity}', "not_finite", "Infinity"),
    "too many decimals": (row(gust=12.345), "wrong_type", "at most 2 decimals"),
    "decimal that lost digits": (row(gust=12345678901234.5), "wrong_type", "as text"),
    "time without a zone": (row(departed_at="2013-01-01T05:17:00"), "wrong_type", "with a zone"),
    "no time": (row(departed_at="noon"), "wrong_type", "ISO 8601"),
    "year 10000": (row(departed_at=253_402_300_800_000), "out_of_range", "departed_at"),
    "far future": (row(departed_at=NOW_MS + 25 * HOUR_MS), "far_future", "ahead of the clock"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
async def test_a_bad_row_is_dead_lettered_with_its_reason_and_its_neighbours_pass(name: str) -> None:
    body, reason, detail = BAD_ROWS[name]
    rig = Rig()
    answer = await post(rig, lines(departure(100), body, departure(101)))
    assert answer.status_code == 200, answer.text
    receipt = answer.json()
    assert (receipt["accepted"], receipt["duplicates"], receipt["rejected_total"]) == (2, 0, 1)
    (rejected,) = receipt["rejected"]
    assert (rejected["line"], rejected["reason"]) == (2, reason), "people count from 1"
    assert detail in rejected["detail"]
    (letter,) = rig.letters()
    assert (letter.topic, letter.offset, letter.reason, letter.value, letter.group) == (
        "departures",
        1,
        reason,
        body,
        "svc-ingest",
    )
    assert sorted(event["flight_id"] for event in rig.events()) == ["UA-100", "UA-101"]


BAD_BATCHES: dict[str, tuple[bytes, str, dict[str, str], int, str]] = {
    "empty body": (b"", URL, {}, 400, "empty"),
    "blank body": (b"\n \n", URL, {}, 400, "empty"),
    "unknown pipeline": (row(), "/v1/trains/departures/records", {}, 404, "there are: flights"),
    "unknown source": (row(), "/v1/flights/arrivals/records", {}, 404, "clicks, departure-files, departures"),
    "huge body": (b"x" * 200_001, URL, {}, 413, "200000"),
    "too many rows": (lines(*([row()] * 51)), URL, {}, 413, "at most 50"),
    "gzip bomb": (gzip.compress(b" " * 10_000_000), URL, {"content_encoding": "gzip"}, 413, "200000"),
    "not gzip": (row(), URL, {"content_encoding": "gzip"}, 400, "not gzip"),
    "cut gzip": (gzip.compress(row())[:-9], URL, {"content_encoding": "gzip"}, 400, "cut short"),
    "two gzip members": (gzip.compress(row()) * 2, URL, {"content_encoding": "gzip"}, 400, "goes on"),
    "unknown encoding": (row(), URL, {"content_encoding": "br"}, 415, "'br'"),
    "one json document": (row(), URL, {"content_type": "application/json"}, 415, "application/json"),
    "form data": (row(), URL, {"content_type": "application/x-www-form-urlencoded"}, 415, "form"),
    "csv to a json source": (row(), URL, {"content_type": "text/csv"}, 415, "text/csv"),
    "other charset": (row(), URL, {"content_type": "application/x-ndjson; charset=latin-1"}, 415, "charset"),
    "endless key": (row(), URL, {"idempotency_key": "k" * 201}, 400, "idempotency key"),
    "csv without a column": (
        b"Flight,origin\nA,B\n",
        "/v1/flights/departure-files/records",
        {"content_type": "text/csv"},
        400,
        "lacks",
    ),
    "csv without a header": (b"\n\n1,2\n", "/v1/flights/departure-files/records", {"content_type": "text/csv"}, 400, "header"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
async def test_a_bad_batch_is_refused_whole_and_told_what_to_do(name: str) -> None:
    body, url, headers, status, detail = BAD_BATCHES[name]
    rig = Rig(http_bounds=BOUNDS)
    answer = await post(rig, body, url, **headers)
    assert answer.status_code == status, answer.text
    assert detail in answer.json()["detail"]
    assert answer.json()["hint"]
    assert not rig.events()
    assert not rig.letters()
    assert rig.count("ingest_in_flight_batches") == 0
    assert rig.count("ingest_requests_total", status=str(status)) == 1


async def test_the_same_batch_three_times_gives_each_event_and_each_dead_letter_once() -> None:
    rig = Rig()
    body = lines(departure(0), b"{broken", departure(1), b"{broken")
    receipts = [(await post(rig, body)).json() for _ in range(3)]
    assert [(r["accepted"], r["duplicates"], r["rejected_total"]) for r in receipts] == [(2, 0, 2), (0, 2, 2), (0, 2, 2)]
    assert len(rig.events()) == 2
    assert len({letter.origin_id for letter in rig.letters()}) == len(rig.letters()) == 2
    assert rig.count("ingest_events_total", pipeline="flights", event="departures", outcome="duplicate") == 4


async def test_rows_without_a_declared_id_are_told_apart_by_their_batch() -> None:
    rig = Rig()
    url, body = "/v1/flights/clicks/records", lines({"user": "u", "at": NOW_MS}, {"user": "u", "at": NOW_MS})
    first = (await post(rig, body, url, idempotency_key="a")).json()
    again = (await post(rig, body, url, idempotency_key="a")).json()
    other = (await post(rig, body, url, idempotency_key="b")).json()
    assert [(r["accepted"], r["duplicates"]) for r in (first, again, other)] == [(2, 0), (0, 2), (2, 0)]


async def test_an_event_carries_key_id_and_the_trace_of_a_sampled_row() -> None:
    rig = Rig()
    sampled, unsampled = (f"00-{'a' * 32}-{'b' * 16}-{flag}" for flag in ("01", "00"))
    answer = await post(rig, lines(departure(0, _traceparent=unsampled), departure(1)), traceparent=sampled)
    assert answer.json()["accepted"] == 2
    by_key = {record.key: dict(record.headers) for record in rig.records("flights.departures.v1")}
    assert by_key[b"UA-0"] == {"event-id": b"UA-0"}
    assert by_key[b"UA-1"]["event-id"] == b"UA-1"
    assert by_key[b"UA-1"]["traceparent"].startswith(f"00-{'a' * 32}-".encode())
    assert by_key[b"UA-1"]["traceparent"] != sampled.encode()


async def test_gzip_and_csv_bodies_mean_the_same_as_plain_rows() -> None:
    rig = Rig()
    packed = await post(rig, gzip.compress(lines(departure(0))), content_encoding="gzip")
    table = (
        b"\xef\xbb\xbfFlight,origin,Off block,dep_delay,gust,hour,ratio,diverted,gate\n"
        b"UA-7,EWR,2013-01-01T05:17:00Z,,12.50,5,0.5,true,C70\n"
    )
    csv = await post(rig, table, "/v1/flights/departure-files/records", content_type="text/csv")
    assert packed.json()["accepted"] == csv.json()["accepted"] == 1
    event = next(event for event in rig.events() if event["flight_id"] == "UA-7")
    assert event == {
        "flight_id": "UA-7", "origin": "EWR", "departed_at": 1_357_017_420_000, "dep_delay": None, "gust": 1250,
        "hour": 5, "ratio": 0.5, "diverted": True,
    }  # fmt: skip


async def test_a_full_desk_says_come_back() -> None:
    rig = Rig(desk_bounds=DeskBounds(in_flight_batches_max=0))
    answer = await post(rig, row())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert "same batch" in answer.json()["hint"]


async def test_a_body_is_counted_while_it_is_still_arriving() -> None:
    rig = Rig(desk_bounds=DeskBounds(in_flight_bytes_max=300), http_bounds=HttpBounds(body_bytes_max=200))
    seen: list[float] = []

    async def slow() -> AsyncIterator[bytes]:
        seen.append(rig.count("ingest_in_flight_bytes"))
        yield row()

    with rig.writing():
        async with client_of(rig) as client:
            answer = await client.post(URL, content=slow(), headers=JSON_LINES)
    assert answer.status_code == 200, answer.text
    assert seen == [200.0]
    assert rig.count("ingest_in_flight_bytes") == 0


async def test_a_broker_that_does_not_answer_is_503_and_the_batch_can_be_sent_again() -> None:
    bus = MemoryBus()
    rig = Rig(bus)
    bus.broker.fail("flush", Retryable("broker away"))
    refused = await post(rig, lines(departure(0)))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    again = await post(rig, lines(departure(0)))
    assert again.status_code == 200
    assert [event["flight_id"] for event in rig.events()] == ["UA-0"]


async def test_a_pipeline_that_is_not_read_yet_or_parked_is_not_denied() -> None:
    rig = Rig()
    rig.routes.complete = False
    assert (await post(rig, row(), "/v1/trains/x/records")).status_code == 503
    rig.routes.complete, rig.routes.parked = True, {"trains": "schema is incompatible"}
    parked = await post(rig, row(), "/v1/trains/x/records")
    assert (parked.status_code, "schema is incompatible" in parked.text) == (503, True)
    assert (await post(rig, row())).status_code == 200
