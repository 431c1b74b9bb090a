"""JSON lines to outside rows. A line that cannot be read is a row with its reason, never the end of the batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from headrace.contracts.errors import Poison, Reason
from svc_ingest.ports import OutsideRow


def json_rows(body: bytes) -> Iterator[OutsideRow]:
    """Rows of a body, numbered from 0 by physical line; blank lines are skipped but counted."""
    for line, raw in enumerate(body.split(b"\n")):
        if raw and not raw.isspace():
            yield OutsideRow(line, raw, _parse(raw))


def _parse(raw: bytes) -> dict[str, Any] | Poison:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _why(raw, error)
    if type(value) is dict:
        return value
    return Poison(Reason.WRONG_TYPE, f"the line holds {type(value).__name__}, expected one JSON object")


def _why(raw: bytes, error: orjson.JSONDecodeError) -> Poison:
    """NaN and Infinity are no JSON, but many writers emit them: say so instead of 'broken'."""
    try:
        raw.decode()
    except UnicodeDecodeError as undecodable:
        return Poison(Reason.BROKEN_JSON, f"not UTF-8 at byte {undecodable.start}")
    if b"NaN" in raw or b"Infinity" in raw:
        constants: list[str] = []
        try:
            json.loads(raw, parse_constant=constants.append)
        except (ValueError, RecursionError):
            constants.clear()
        if constants:
            return Poison(Reason.NOT_FINITE, f"{constants[0]} is no JSON value; send null where nothing was measured")
    return Poison(Reason.BROKEN_JSON, str(error)[:200])
