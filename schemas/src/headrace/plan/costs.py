"""What a feature set costs: tiles, bytes, reads. From the plan alone; projections from encoded samples, and named so.

A bound counts every tile that may live at eight bytes a slot. A projection takes the bytes a block of this very set has
when it is encoded as the state topic and the store keep it (Avro, key included; the store's compression comes on top),
and as many tiles as the events of a key can fill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.records import TileBlock
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.slots import NEWEST, layout_of
from headrace.plan.tiles import BLOCK_TILES, BlockKey, encode_key
from headrace.plan.topics import state_topic

BYTES_PER_SLOT = 8
START_BYTES = 8
DAY_MS = 86_400_000
SAMPLE_ENTITY = "0123456789abcdef"  # sixteen characters: a card token, half a UUID
SAMPLE_TIME_MS = 1_700_000_000_000
SAMPLE_VALUE = 12_345  # three bytes in Avro: sums of a handful of amounts in cents


@dataclass(frozen=True, slots=True)
class LevelCost:
    """Tiles of one event at one hop, per key. hop_ms 0: the one tile of last values."""

    event: str
    hop_ms: int
    window_ms: int  # the longest read at it
    tiles: int  # that may live at once
    reads: int  # blocks per request
    slots: int
    tile_bytes: float  # encoded, one more tile in a block
    block_bytes: float  # encoded, a block without its tiles, with its key

    @property
    def bound_bytes(self) -> int:
        return self.tiles * (START_BYTES + self.slots * BYTES_PER_SLOT)

    def projected_bytes(self, events_a_day: float, ttl_ms: int) -> float:
        """Encoded bytes per key whose events come so often: no tile is kept that no event fell into."""
        filled = min(float(self.tiles), events_a_day * ttl_ms / DAY_MS) if self.hop_ms else min(1.0, events_a_day)
        blocks = min(filled, math.ceil(self.tiles / BLOCK_TILES) + 1)
        return filled * self.tile_bytes + blocks * self.block_bytes


@dataclass(frozen=True, slots=True)
class SetCost:
    """State and reads of one feature set, per entity."""

    name: str
    hash: str
    entity: tuple[str, ...]
    placement: str
    partitions: int
    features: int
    ttl_ms: int
    levels: tuple[LevelCost, ...]

    @property
    def tiles_per_key(self) -> int:
        """All levels, over the time to live."""
        return sum(level.tiles for level in self.levels)

    @property
    def bytes_per_key(self) -> int:
        """A bound: every tile there, eight bytes a slot."""
        return sum(level.bound_bytes for level in self.levels)

    @property
    def reads_per_request(self) -> int:
        """Blocks."""
        return sum(level.reads for level in self.levels)

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """Features, and the bounds per key: tiles, bytes, reads."""
        return self.features, self.tiles_per_key, self.bytes_per_key, self.reads_per_request

    def bytes_per_event(self, event: str) -> int:
        """Written to partials and state by an event whose key no other event of the transaction has: full blocks at worst."""
        mine = [level for level in self.levels if level.event == event]
        partial = max((level.tile_bytes + len(SAMPLE_ENTITY) + 1 for level in mine), default=0.0)
        state = sum(level.block_bytes + (BLOCK_TILES if level.hop_ms else 1) * level.tile_bytes for level in mine)
        return round(partial + state)

    def projected_bytes_per_key(self, events_a_day: Mapping[str, float]) -> int:
        """Encoded; an event without a rate fills every tile."""
        return round(sum(level.projected_bytes(events_a_day.get(level.event, math.inf), self.ttl_ms) for level in self.levels))


def set_cost(plan: Plan, feature_set: FeatureSet) -> SetCost:
    """Tiles live for the set's TTL at each hop in use; a `last` keeps one value per key and event."""
    levels = []
    for (event, hop_ms), window_ms in _windows(feature_set).items():
        count = -(-feature_set.ttl_ms // hop_ms) + 1 if hop_ms else 1
        tile, block = _encoded(plan, feature_set, event, hop_ms)
        levels.append(
            LevelCost(
                event, hop_ms, window_ms, count, _blocks(window_ms, hop_ms), layout_of(feature_set, event).width, tile, block
            )
        )
    return SetCost(
        feature_set.name,
        feature_set.hash,
        feature_set.entity,
        feature_set.placement,
        feature_set.partitions,
        len(feature_set.features),
        feature_set.ttl_ms,
        tuple(levels),
    )


@lru_cache(maxsize=1)
def _codec() -> Codec:
    return Codec(MemoryRegistry())


def _encoded(plan: Plan, feature_set: FeatureSet, event: str, hop_ms: int) -> tuple[float, float]:
    """(bytes of one more tile, bytes of a block without tiles and of its key), from encoding both ends."""
    width = layout_of(feature_set, event).width
    row = [SAMPLE_VALUE] * width
    row[NEWEST] = SAMPLE_TIME_MS
    topic = state_topic(plan, feature_set)

    def size(tiles: int) -> int:
        starts = tuple(SAMPLE_TIME_MS + number * hop_ms for number in range(tiles))
        record = TileBlock(
            entity=SAMPLE_ENTITY, event=event, hop_ms=hop_ms, index=7, starts_ms=starts, slots=tuple(row * tiles)
        )
        return len(_codec().encode(topic, record))

    most = BLOCK_TILES if hop_ms else 2
    tile = (size(most) - size(1)) / (most - 1)
    key = len(encode_key(feature_set, BlockKey(SAMPLE_ENTITY, event, hop_ms, 7)))
    return tile, size(1) - tile + key


def _windows(feature_set: FeatureSet) -> dict[tuple[str, int], int]:
    """(event, hop) -> longest window read at it."""
    measures = {measure.id: measure for measure in feature_set.measures}
    found: dict[tuple[str, int], int] = {}
    for feature in feature_set.features:
        for term in feature.terms:
            key = (measures[term.measure].event, term.hop_ms)
            found[key] = max(found.get(key, 0), term.window_ms)
    return found


def _blocks(window_ms: int, hop_ms: int) -> int:
    if not hop_ms:
        return 1
    tiles = window_ms // hop_ms + 1  # both edges
    return (tiles + BLOCK_TILES - 2) // BLOCK_TILES + 1  # worst alignment
