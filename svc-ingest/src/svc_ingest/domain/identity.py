"""Names of things already written, and when two occurrences of one name are the same thing. Pure.

    event        declared id, or origin and line where none is declared     -> event times it was accepted with
    dead letter  origin, line and digest of its bytes                        -> nothing but that it is there

A sender repeats a batch when it did not hear the answer, so a repeated event carries the time it had before: two events
of one id are one if their event times lie within the declared horizon. That depends on the two events alone, not on what
was sent in between, so a batch that spans more than a horizon repeats as well as a short one.
"""

from __future__ import annotations

import hashlib
import struct

TIMES_KEPT_MAX = 8  # per id: reuses of an id further apart than its horizon; older ones are forgotten first
DIGEST_CHARACTERS = 32  # 128 bits of SHA-256: no accident makes two alike

_MS = struct.Struct(">q")


def digest(data: bytes) -> str:
    """Name of some bytes, hex."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_CHARACTERS]


def event_identity(declared: str | None, origin: str, line: int) -> str:
    """What the header `event-id` says."""
    return declared if declared is not None else f"origin:{origin}:{line}"


def letter_identity(origin: str, line: int, raw: bytes) -> str:
    """`origin_id` of a dead letter."""
    return f"{origin}:{line}:{digest(raw)}"


def near(entry: bytes, event_time_ms: int, horizon_ms: int) -> bool:
    """Whether an event of this id was accepted within the horizon of this event time."""
    return any(abs(event_time_ms - seen) <= horizon_ms for seen in _times(entry))


def remembered(entry: bytes | None, event_time_ms: int, now_ms: int) -> bytes:
    """The entry with one more accepted event: ingest time of the last one, then event times, newest last."""
    kept = () if entry is None else _times(entry)[1 - TIMES_KEPT_MAX :]
    return b"".join(_MS.pack(value) for value in (now_ms, *kept, event_time_ms))


def forgettable(entry: bytes, max_event_time_ms: int, now_ms: int, horizon_ms: int, hold_ms: int) -> bool:
    """Whether an entry is past both bounds: its horizon in event time, and the time a sender may take to repeat a batch.

    Loaded history runs through months in seconds, so the horizon alone would forget a batch still in flight.
    """
    (accepted_ms,) = _MS.unpack_from(entry)
    if now_ms - accepted_ms <= hold_ms:
        return False
    return all(max_event_time_ms - seen > horizon_ms for seen in _times(entry))


def _times(entry: bytes) -> tuple[int, ...]:
    return tuple(value for (value,) in _MS.iter_unpack(entry[_MS.size :]))
