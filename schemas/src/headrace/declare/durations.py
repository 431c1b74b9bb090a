"""Durations as people write them: "90m", "1h30m", "2d", always whole milliseconds; and sizes: "64GiB"."""

from __future__ import annotations

import re

from headrace.declare.errors import here, refuse

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
PART = re.compile(r"(\d+)(ms|s|m|h|d|w)")
SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB|TiB)")


def duration_ms(text: str) -> int:
    """Milliseconds of a duration.

    Raises: DeclarationError at the user's line.
    """
    compact = text.replace(" ", "")
    parts = PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise refuse(here(), f"'{text}' is not a duration", "write a number and a unit: 500ms, 30s, 90m, 1h30m, 2d, 1w")
    return sum(int(number) * UNITS_MS[unit] for number, unit in parts)


def bytes_of(text: str) -> int:
    """Bytes of a size in binary units.

    Raises: DeclarationError at the user's line.
    """
    found = SIZE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise refuse(here(), f"'{text}' is not a size", "write a number and a unit: 512MiB, 16GiB, 1TiB")
    return int(found[1]) << 10 * ("B", "KiB", "MiB", "GiB", "TiB").index(found[2])
