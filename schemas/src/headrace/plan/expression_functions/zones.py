"""Offsets of the IANA zones from UTC, frozen: the engines carry different issues of the zone database and disagree.

Between issues a government's decision moves hours that are yet to come (and sometimes past ones), so a table that came
with an engine, or with a host, would give one event two hours of day. This one is part of the engine semantics: its file
names the issue, and a value that moves with a new one moves the semantics version.

File: a line `<issue> <first second> <end second>`, then base64 of zlib of lines `name,alias,... offset (delta:offset)*`,
all in seconds; a delta is the time since the previous transition, the first since 1970.
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.plan.expression_engines import INLINE_CHARACTERS_MAX

if TYPE_CHECKING:
    import polars as pl

TABLE = Path(__file__).with_name("zones.txt")
FIRST_MS, END_MS = 0, 4_102_444_800_000  # 1970 to 2100: local time outside is null
OFFSET_MAX_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Zone:
    """transitions[i] is the UTC ms from which offsets[i + 1] holds; offsets[0] holds from 1970 on."""

    name: str
    transitions: tuple[int, ...]
    offsets: tuple[int, ...]

    def offset_ms(self, time_ms: int) -> int | None:
        if not FIRST_MS <= time_ms < END_MS:
            return None
        return self.offsets[bisect_right(self.transitions, time_ms)]


@cache
def _lines() -> tuple[str, dict[str, str]]:
    head, _, body = TABLE.read_text(encoding="ascii").partition("\n")
    found: dict[str, str] = {}
    for line in zlib.decompress(base64.b64decode(body)).decode("ascii").splitlines():
        names, _, offsets = line.partition(" ")
        found |= dict.fromkeys(names.split(","), offsets)
    return head, found


def issue() -> str:
    """Of the zone database, such as 2026f."""
    return _lines()[0].split()[0]


def names() -> list[str]:
    return sorted(_lines()[1])


@cache
def zone(name: str) -> Zone:
    """Raises: KeyError if there is no such zone."""
    first, *rest = _lines()[1][name].split()
    transitions, offsets, at = [], [int(first) * 1000], 0
    for part in rest:
        delta, _, offset = part.partition(":")
        at += int(delta) * 1000
        transitions.append(at)
        offsets.append(int(offset) * 1000)
    return Zone(name, tuple(transitions), tuple(offsets))


def polars_local(time: pl.Expr, known: Zone) -> pl.Expr:
    import polars as pl

    inside = (time >= FIRST_MS) & (time < END_MS)
    if not known.transitions:
        return pl.when(inside).then(time + known.offsets[0])
    transitions, offsets = (pl.lit(pl.Series(side, dtype=pl.Int64)) for side in (known.transitions, known.offsets))
    return pl.when(inside).then(time + offsets.gather(transitions.search_sorted(time, side="right")))


def duckdb_local(time: str, known: Zone) -> str:
    if len(time) <= INLINE_CHARACTERS_MAX:
        return sql_local(time, known)
    return f"list_transform([{time}], lambda __let: {sql_local('__let', known)})[1]"


def sql_local(time: str, known: Zone) -> str:
    """What clocks of the zone show; the same text in every SQL."""

    def offset(low: int, high: int) -> str:
        """A tree of comparisons: nine of them for 260 transitions."""
        if low == high:
            return str(known.offsets[low])
        middle = (low + high) // 2
        earlier, later = offset(low, middle), offset(middle + 1, high)
        return f"CASE WHEN {time} < {known.transitions[middle]} THEN {earlier} ELSE {later} END"

    inside = f"{time} >= {FIRST_MS} AND {time} < {END_MS}"
    return f"CASE WHEN {inside} THEN {time} + CAST({offset(0, len(known.transitions))} AS BIGINT) END"


def python_local(time_ms: int, known: Zone) -> int | None:
    offset = known.offset_ms(time_ms)
    return None if offset is None else time_ms + offset
