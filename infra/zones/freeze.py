"""Freeze the IANA zone table of the installed tzdata package into the plan: `python infra/zones/freeze.py`.

Run it only with a new engine-semantics version where a value of a live pipeline moves.
"""

from __future__ import annotations

import base64
import datetime as dt
import zlib
from importlib.resources import files
from zoneinfo import ZoneInfo

from headrace.plan.expression_functions.zones import END_MS, FIRST_MS, TABLE

STEP_S = 86_400  # no zone has turned its clocks twice in a day since 1970
LINE_CHARACTERS = 128


def installed(name: str) -> ZoneInfo:
    """The zone of the tzdata package, whatever the host has."""
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def transitions(zone: ZoneInfo) -> str:
    """`offset (delta:offset)*` in seconds, found by bisection between days."""

    def offset_s(second: int) -> int:
        offset = dt.datetime.fromtimestamp(second, zone).utcoffset()
        assert offset is not None, "a zone has offsets"
        return int(offset.total_seconds())

    current = offset_s(FIRST_MS // 1000)
    found, previous = [str(current)], 0
    for start in range(FIRST_MS // 1000, END_MS // 1000, STEP_S):
        low, high = start, min(start + STEP_S, END_MS // 1000 - 1)
        if offset_s(high) == current:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset_s(middle) == current else (low, middle)
        current = offset_s(high)
        found.append(f"{high - previous}:{current}")
        previous = high
    return " ".join(found)


def frozen() -> str:
    """The text of the table."""
    tables: dict[str, list[str]] = {}
    for name in files("tzdata").joinpath("zones").read_text().split():
        tables.setdefault(transitions(installed(name)), []).append(name)
    body = "\n".join(f"{','.join(names)} {table}" for table, names in tables.items())
    packed = base64.b64encode(zlib.compress(body.encode("ascii"), 9)).decode("ascii")
    lines = [packed[start : start + LINE_CHARACTERS] for start in range(0, len(packed), LINE_CHARACTERS)]
    issue = files("tzdata").joinpath("zoneinfo", "tzdata.zi").read_text().split(maxsplit=3)[2]
    return "\n".join([f"{issue} {FIRST_MS // 1000} {END_MS // 1000}", *lines, ""])


if __name__ == "__main__":
    TABLE.write_text(frozen(), encoding="ascii")
