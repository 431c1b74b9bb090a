"""Rows no event can be made of, each with the reason it must be given: sent on purpose, to see them answered."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from headrace.contracts.errors import Reason


class BadLine(NamedTuple):
    """One line to the source of departures, and what svc-ingest must say to it."""

    what: str
    line: bytes
    reason: Reason


def bad_lines(time_ms: int) -> list[BadLine]:
    """Kinds of malformed departures around an event time, ms UTC."""
    good = {
        "flight_id": "malformed", "carrier": "UA", "tail": "N00001", "origin": "EWR", "dest": "ORD", "departed_at": time_ms,
        "dep_delay": 3, "outcome": "departed",
    }  # fmt: skip

    def line(**changes: object) -> bytes:
        return orjson.dumps({name: value for name, value in {**good, **changes}.items() if value is not ...})

    return [
        BadLine("broken JSON", b'{"flight_id": "malformed", "carrier": ', Reason.BROKEN_JSON),
        BadLine("a list instead of an object", b"[1, 2, 3]", Reason.WRONG_TYPE),
        BadLine("a word where minutes belong", line(dep_delay="late"), Reason.WRONG_TYPE),
        BadLine("a number where a word belongs", line(carrier=7), Reason.WRONG_TYPE),
        BadLine("a field nobody declared", line(gate="B12"), Reason.UNKNOWN_FIELD),
        BadLine("no outcome", line(outcome=...), Reason.MISSING_FIELD),
        BadLine("no flight", line(flight_id=None), Reason.NULL_KEY),
        BadLine("a delay of a year", line(dep_delay=525_600), Reason.OUT_OF_RANGE),
        BadLine("a departure in the year 2100", line(departed_at=4_102_444_800_000), Reason.FAR_FUTURE),
    ]
