"""Reading feature sets from views: any keys at any t, each partition under one cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.chassis.state import Store
from headrace.chassis.view import Reading, StateView
from headrace.contracts.codec import Codec
from headrace.contracts.partition import partition_for
from headrace.contracts.records import Progress, TileBlock
from headrace.plan.block_bytes import HEAD, decode_blocks
from headrace.plan.blocks import block_of
from headrace.plan.ir import FeatureSet
from headrace.plan.lower import FeatureRows
from headrace.plan.read import read_features
from headrace.plan.tiles import KEY_FORMAT, Block, BlockKey, encode_key
from headrace.plan.wide import Held, Marks, WidePlan, held_of, keys_of, lower_held, marks_of, wide_plan
from headrace.plan.wide_bytes import Wanted, Wide

DECODED_BYTES_MAX = 32 << 20  # of one partition of a set: decoded blocks kept beside their bytes
HELD_BYTES_MAX = 32 << 20  # of one partition of a set: what windows hold
HELD_OVERHEAD_BYTES = 800  # names, marks and headers of one entry, about
TOGETHER_KEYS = 24  # read from the store and decoded at once: some 100 KB, which stay in a core's cache
WANTED_MAX = 1_000  # distinct marks remembered; in steady use there is one every few minutes of event time


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


@dataclass(slots=True)
class HeldCache:
    """What windows of entities hold, by entity and tile range, until a block of the entity changes. As BlockCache bounded."""

    bytes_max: int = HELD_BYTES_MAX
    _young: dict[str, dict[Marks, Held]] = field(default_factory=dict)
    _old: dict[str, dict[Marks, Held]] = field(default_factory=dict)
    _size: int = 0

    def get(self, entity: str, marks: Marks) -> Held | None:
        found = (self._young.get(entity) or {}).get(marks)
        if found is None:
            found = (self._old.get(entity) or {}).get(marks)
            if found is not None:
                self.put(entity, marks, found)
        return found

    def put(self, entity: str, marks: Marks, held: Held) -> None:
        self._size += held.numbers.nbytes + held.newest.nbytes + HELD_OVERHEAD_BYTES
        if self._size > self.bytes_max // 2:
            self._old, self._young, self._size = self._young, {}, 0
        self._young.setdefault(entity, {})[marks] = held

    def changed(self, keys: Iterable[bytes]) -> None:
        """State keys were written."""
        for key in keys:
            if key[0] == KEY_FORMAT:
                entity = key[5 : 5 + int.from_bytes(key[1:5], "big")].decode()
                self._young.pop(entity, None)
                self._old.pop(entity, None)

    def clear(self) -> None:
        self._young, self._old, self._size = {}, {}, 0


class NotingStore:
    """A store that says what is written to it, inside the view's lock."""

    def __init__(self, inner: Store, cache: HeldCache) -> None:
        self._inner, self._cache = inner, cache
        self.get, self.multi_get, self.range, self.scan = inner.get, inner.multi_get, inner.range, inner.scan
        self.close = inner.close

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        gone = list(deletes)
        self._cache.changed((*puts, *gone))  # first: a write that fails half known leaves nothing old behind
        self._inner.write(puts, gone)

    def wipe(self) -> None:
        self._cache.clear()
        self._inner.wipe()


class SetReader:
    """Reads one feature set from its views, one per state partition. Any thread may read."""

    def __init__(self, feature_set: FeatureSet, views: Sequence[StateView], codec: Codec, head: bytes | None = None) -> None:
        """head: frame of values written with our own schema, which are decoded many at once; None: none are."""
        self.feature_set, self.views, self._codec, self._head = feature_set, views, codec, head
        self._plan = wide_plan(feature_set)
        self._wide = Wide(self._plan, head) if head is not None and len(self._plan.wide) else None
        self._wanted: dict[Marks, Wanted] = {}
        self._blocks_of = [BlockCache() for _ in views]
        self._held = [HeldCache() for _ in views]
        for view, cache in zip(views, self._held, strict=True):
            view.store = NotingStore(view.store, cache)

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
        plan, rest = self._plan, None
        held: list[Held] = []
        marked = {t: marks_of(plan, t) for t in set(times_ms)}
        marks = [marked[t] for t in times_ms]
        with self.views[partition].reading() as reading:
            progress = reading.progress
            maxima, floor = maxima_of(progress), progress.base_floor_ms if progress else None
            if plan.rest is not None:
                rest = read_features(
                    plan.rest, entities, times_ms, lambda keys: self._blocks(partition, reading, keys), maxima, floor
                )
            if len(plan.wide):
                held = self._holdings(partition, reading, entities, marks)
        if not held:
            assert rest is not None, "a set has features"
            return rest, progress
        wide = lower_held(plan, held, marks, times_ms, maxima, floor)
        return (wide if rest is None else joined(plan, wide, rest)), progress

    def _holdings(self, partition: int, reading: Reading, entities: Sequence[str], marks: Sequence[Marks]) -> list[Held]:
        """From the cache, else from the store."""
        cache = self._held[partition]
        found = [cache.get(entity, mark) for entity, mark in zip(entities, marks, strict=True)]
        lacking = [row for row, held in enumerate(found) if held is None]
        for begin in range(0, len(lacking), TOGETHER_KEYS):
            rows = lacking[begin : begin + TOGETHER_KEYS]
            read = self._stored(partition, reading, [entities[r] for r in rows], [marks[r] for r in rows])
            for row, held in zip(rows, read, strict=True):
                found[row] = held
                cache.put(entities[row], marks[row], held)
        return [held for held in found if held is not None]

    def _stored(self, partition: int, reading: Reading, entities: Sequence[str], marks: Sequence[Marks]) -> Sequence[Held]:
        """From bytes fetched in one multi-get; what is not of our own schema from its blocks."""
        if self._wide is not None:
            wanted = [self._wanted_at(mark) for mark in marks]
            held = self._wide.held(entities, marks, wanted, reading.multi_get(self._wide.keys(entities, wanted)))
            if held is not None:
                return held
        lacking = [keys_of(self._plan, entity, mark) for entity, mark in zip(entities, marks, strict=True)]
        blocks = iter(self._blocks(partition, reading, [key for levels in lacking for keys in levels for key in keys]))
        return [
            held_of(self._plan, mark, [[next(blocks) for _ in keys] for keys in levels])
            for mark, levels in zip(marks, lacking, strict=True)
        ]

    def _wanted_at(self, marks: Marks) -> Wanted:
        assert self._wide is not None
        found = self._wanted.get(marks)
        if found is None:
            if len(self._wanted) >= WANTED_MAX:
                self._wanted = {}
            found = self._wanted[marks] = self._wide.wanted(marks)
        return found

    def _blocks(self, partition: int, reading: Reading, keys: Sequence[BlockKey]) -> list[Block | None]:
        """Each distinct block is fetched once; decoded only if its bytes are not those it had last time."""
        distinct = list(dict.fromkeys(keys))
        raw_keys = [encode_key(self.feature_set, key) for key in distinct]
        cache = self._blocks_of[partition]
        raws = reading.multi_get(raw_keys)
        blocks = [None if raw is None else cache.get(raw_key, raw) for raw_key, raw in zip(raw_keys, raws, strict=True)]
        lacking = [i for i, raw in enumerate(raws) if raw is not None and blocks[i] is None]
        if lacking:
            fresh = self._decode([distinct[i] for i in lacking], [raws[i] or b"" for i in lacking])
            for i, block in zip(lacking, fresh, strict=True):
                blocks[i] = block
                cache.put(raw_keys[i], raws[i] or b"", block)
        if len(distinct) == len(keys):
            return blocks
        by_key = dict(zip(distinct, blocks, strict=True))
        return [by_key[key] for key in keys]

    def _decode(self, keys: Sequence[BlockKey], raws: Sequence[bytes]) -> list[Block]:
        """Those of our own schema at once; others, and what is not as it must be, by the codec, which says what is wrong."""
        ours = self._head is not None and all(raw.startswith(self._head) for raw in raws)
        found: Sequence[Block | None] = decode_blocks(keys, raws) if ours else [None] * len(raws)
        return [
            block_of(self._codec.decode(raw, TileBlock)) if block is None else block
            for block, raw in zip(found, raws, strict=True)
        ]


def head_of(codec: Codec, topic: str) -> bytes:
    """The frame of TileBlock values of a state topic written with our own schema. Raises: Retryable, Fatal."""
    empty = TileBlock(entity="", event="", hop_ms=0, index=0, starts_ms=(), slots=())
    return codec.encode(topic, empty)[:HEAD]


def joined(plan: WidePlan, wide: FeatureRows, rest: FeatureRows) -> FeatureRows:
    """Features in the order of the set."""
    shape = len(wide.values), len(plan.wide) + len(plan.rest_at)
    values, statuses = np.empty(shape, np.float64), np.empty(shape, np.int8)
    values[:, plan.wide], statuses[:, plan.wide] = wide.values, wide.statuses
    values[:, plan.rest_at], statuses[:, plan.rest_at] = rest.values, rest.statuses
    return FeatureRows(values, statuses)


def maxima_of(progress: Progress | None) -> dict[str, int | None]:
    """Per event the largest M over its partitions under the cut."""
    tops: dict[str, int | None] = {}
    for cut in progress.cut if progress else ():
        if cut.maximum_ms is not None:
            known = tops.get(cut.event)
            tops[cut.event] = cut.maximum_ms if known is None else max(cut.maximum_ms, known)
    return tops
