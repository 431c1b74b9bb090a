"""The sweep: blocks of entities that nobody touches any more leave the state once all their tiles are below the floor.

    at each commit    look at the next few keys behind the cursor, delete those with nothing left
    a pass            goes over the whole state once; the next one waits until a floor has risen by a part of the ttl

Values never depend on it: a reader applies the floor, a function of the cut, whatever is still there. What it deletes is
a tombstone in the state topic, so that every view loses it at the same Progress. The work of a commit grows with what
the commit changes, by KEYS_PER_CHANGE: a pass then ends before the state has grown by more than a part of itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.plan.ir import FeatureSet
from headrace.plan.tiles import BLOCK_TILES, KEY_FORMAT, Block, BlockKey, decode_key, expire

KEYS_MIN = 16  # looked at in a commit that changes nothing
KEYS_PER_CHANGE = 2  # more are looked at than can be made: the state stays within a factor of what lives
KEYS_MAX = 2_048  # bounds what a commit spends here
STEPS_PER_TTL = 16  # a new pass when a floor has risen by this part of the ttl: so much longer than the ttl a dead block stays
_FIRST = bytes((KEY_FORMAT,))

ScanKeys = Callable[[bytes, int], Sequence[tuple[bytes, bytes]]]
"""(first key, how many) -> stored (key, value) in key order."""
DecodeBlock = Callable[[bytes], Block]


@dataclass(frozen=True, slots=True)
class SweepPlace:
    """Where a pass stands. Kept in the local store beside the state: without it, a pass starts over.

    cursor: next key to look at; None when the pass is over. floors: per event what the pass began with, ms UTC.
    """

    cursor: bytes | None = None
    floors: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        cursor = None if self.cursor is None else self.cursor.hex()
        return json.dumps({"cursor": cursor, "floors": dict(self.floors)}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, raw: bytes | None) -> SweepPlace:
        if raw is None:
            return cls()
        found = json.loads(raw)
        cursor = found["cursor"]
        return cls(None if cursor is None else bytes.fromhex(cursor), found["floors"])


class Sweep:
    """One partition's. `step` looks at committed keys only; what the commit itself changes is not its business."""

    def __init__(self, feature_set: FeatureSet, scan: ScanKeys, decode: DecodeBlock, place: SweepPlace) -> None:
        self._feature_set, self._scan, self._decode = feature_set, scan, decode
        self.place = place

    def step(
        self, floors: Mapping[str, int | None], changed: Container[BlockKey], changes: int, held: Mapping[BlockKey, Block]
    ) -> list[BlockKey]:
        """Keys to delete with this commit, and the place moves on.

        Args:
            floors: per event under the cut of this commit.
            changed: blocks this commit writes or deletes itself; left alone.
            changes: how many, of this commit and those since the last step.
            held: blocks in memory, as they are stored where not changed: they need no decoding.
        """
        known = {event: floor for event, floor in floors.items() if floor is not None}
        cursor = self.place.cursor
        if cursor is None:
            if not self._due(known):
                return []
            cursor, self.place = _FIRST, SweepPlace(_FIRST, known)
        limit = min(KEYS_MIN + KEYS_PER_CHANGE * changes, KEYS_MAX)
        found = self._scan(cursor, limit)
        self.place = SweepPlace(found[-1][0] + b"\x00" if len(found) == limit else None, self.place.floors)
        gone: list[BlockKey] = []
        for raw_key, raw in found:
            key = decode_key(self._feature_set, raw_key)
            floor = known.get(key.event)
            if floor is not None and key not in changed and self._is_empty(key, raw, floor, held):
                gone.append(key)
        return gone

    def _due(self, floors: Mapping[str, int]) -> bool:
        step_ms = max(self._feature_set.ttl_ms // STEPS_PER_TTL, 1)
        began = self.place.floors
        return any(event not in began or floor - began[event] >= step_ms for event, floor in floors.items())

    def _is_empty(self, key: BlockKey, raw: bytes, floor: int, held: Mapping[BlockKey, Block]) -> bool:
        """Whether nothing of a block is at or above the floor; most are told by their key alone."""
        if key.hop_ms:
            first_ms = key.index * BLOCK_TILES * key.hop_ms
            if first_ms >= floor:
                return False
            if first_ms + (BLOCK_TILES - 1) * key.hop_ms < floor:
                return True
        block = held.get(key) or self._decode(raw)
        return not len(expire(block, floor, endless=not key.hop_ms).starts_ms)
