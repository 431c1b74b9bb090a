"""Reading feature sets from views: any keys at any t, each partition under one cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.chassis.view import Reading, StateView
from headrace.contracts.codec import Codec
from headrace.contracts.records import Progress, TileBlock
from headrace.plan.blocks import block_of
from headrace.plan.ir import FeatureSet
from headrace.plan.lower import FeatureRows
from headrace.plan.partition import partition_for
from headrace.plan.read import read_features
from headrace.plan.tiles import Block, BlockKey, encode_key

DECODED_BYTES_MAX = 64 << 20  # of one set: decoded blocks kept beside their bytes


class NotLive(Exception):
    """The local copy has not reached the log end it saw at its start."""


@dataclass(frozen=True, slots=True)
class SetRows:
    """Answers of one set to N keys. partitions[i] says which of `progress` row i was read under."""

    feature_set: FeatureSet
    rows: FeatureRows
    partitions: list[int]
    progress: Mapping[int, Progress | None]


@dataclass(slots=True)
class BlockCache:
    """Decoded blocks by state key, valid for the very bytes they came from.

    Two generations: what is not asked for again while one fills goes with the next. Bounded in bytes.
    """

    bytes_max: int = DECODED_BYTES_MAX
    _young: dict[bytes, tuple[bytes, Block]] = field(default_factory=dict)
    _old: dict[bytes, tuple[bytes, Block]] = field(default_factory=dict)
    _size: int = 0

    def get(self, key: bytes, raw: bytes) -> Block | None:
        known = self._young.get(key)
        if known is not None and known[0] == raw:
            return known[1]
        known = self._old.get(key)
        if known is not None and known[0] == raw:
            self.put(key, raw, known[1])
            return known[1]
        return None

    def put(self, key: bytes, raw: bytes, block: Block) -> None:
        self._size += len(raw) + len(key) + block.slots.nbytes + block.starts_ms.nbytes
        if self._size > self.bytes_max // 2:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[key] = (raw, block)


@dataclass(frozen=True, slots=True)
class SetReader:
    """Reads one feature set from its views, one per state partition. Any thread may read."""

    feature_set: FeatureSet
    views: Sequence[StateView]
    codec: Codec
    cache: BlockCache = field(default_factory=BlockCache)

    @property
    def live(self) -> bool:
        return all(view.live for view in self.views)

    def newest_ms(self) -> int | None:
        """Largest event time under the cuts, ms UTC; None before the first event."""
        tops = (c.maximum_ms for v in self.views for c in (v.progress.cut if v.progress else ()))
        return max((top for top in tops if top is not None), default=None)

    def read(self, entities: Sequence[str], times_ms: Sequence[int]) -> SetRows:
        """Values of N entities at N times; those of one partition are read at one Progress.

        Raises: NotLive.
        """
        if not self.live:
            raise NotLive(f"{self.feature_set.name} is being restored from its topic")
        count = self.feature_set.partitions
        homes = [partition_for(entity, count) for entity in entities]
        if len(set(homes)) == 1:
            rows, progress = self._read_partition(homes[0], entities, times_ms)
            return SetRows(self.feature_set, rows, homes, {homes[0]: progress})
        by_home: dict[int, list[int]] = defaultdict(list)
        for row, home in enumerate(homes):
            by_home[home].append(row)
        width = len(self.feature_set.features)
        values, statuses = np.empty((len(entities), width), np.float64), np.empty((len(entities), width), np.int8)
        found: dict[int, Progress | None] = {}
        for home, rows_here in by_home.items():
            part, found[home] = self._read_partition(home, [entities[r] for r in rows_here], [times_ms[r] for r in rows_here])
            values[rows_here], statuses[rows_here] = part.values, part.statuses
        return SetRows(self.feature_set, FeatureRows(values, statuses), homes, found)

    def _read_partition(
        self, partition: int, entities: Sequence[str], times_ms: Sequence[int]
    ) -> tuple[FeatureRows, Progress | None]:
        with self.views[partition].reading() as reading:
            progress = reading.progress
            rows = read_features(
                self.feature_set, entities, times_ms, lambda keys: self._blocks(reading, keys), maxima_of(progress),
                progress.base_floor_ms if progress else None,
            )  # fmt: skip
        return rows, progress

    def _blocks(self, reading: Reading, keys: Sequence[BlockKey]) -> list[Block | None]:
        """Each distinct block is fetched once; decoded only if its bytes are not those it had last time."""
        distinct = list(dict.fromkeys(keys))
        raw_keys = [encode_key(self.feature_set, key) for key in distinct]
        blocks = [
            None if raw is None else self._block(raw_key, raw)
            for raw_key, raw in zip(raw_keys, reading.multi_get(raw_keys), strict=True)
        ]
        if len(distinct) == len(keys):
            return blocks
        by_key = dict(zip(distinct, blocks, strict=True))
        return [by_key[key] for key in keys]

    def _block(self, raw_key: bytes, raw: bytes) -> Block:
        known = self.cache.get(raw_key, raw)
        if known is None:
            known = block_of(self.codec.decode(raw, TileBlock))
            self.cache.put(raw_key, raw, known)
        return known


def maxima_of(progress: Progress | None) -> dict[str, int | None]:
    """Per event the largest M over its partitions under the cut."""
    tops: dict[str, int | None] = {}
    for cut in progress.cut if progress else ():
        if cut.maximum_ms is not None:
            known = tops.get(cut.event)
            tops[cut.event] = cut.maximum_ms if known is None else max(cut.maximum_ms, known)
    return tops
