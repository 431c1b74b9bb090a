"""The entity task: feature state of one partition of a set, and exactly the cut it contains.

PartialTiles --(chained ranges)--+--> blocks --commit--> changed blocks + Progress
tiles of the same transaction ---+
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.contracts.errors import Fatal
from headrace.contracts.formats import readable
from headrace.contracts.records import PartialTiles, Progress, SourceCut, SourceRange
from headrace.plan.ir import FeatureSet
from headrace.plan.read import FeatureRows
from headrace.plan.rows import Row, add_row, add_tiles, keys_of, narrow
from headrace.plan.tiles import Block, BlockKey, PartialColumns, apply, blocks_touched, expire, floor_ms
from headrace.plan.wide import read_quick
from svc_stream.domain.sweep import Sweep, SweepPlace

COMMITS_PER_SWEEP = 8  # a look at keys costs small commits more than their own work
TRACEPARENTS_MAX = 16  # sampled source records remembered per transaction
FEW_TILES = 12  # merged tile by tile; the fixed costs of arrays are worth about so many

LoadBlocks = Callable[[Sequence[BlockKey]], Sequence[Block | None]]


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction changes: blocks to write, keys to delete, and the Progress they belong to.

    sweep: where the sweep stands then, to be kept with the state; None without one.
    """

    blocks: dict[BlockKey, Block]
    deleted: tuple[BlockKey, ...]
    progress: Progress
    sweep: SweepPlace | None = None


class EntityState:
    """Merges partial tiles into blocks. Keeps what is written in memory until `committed` says that disk has it."""

    def __init__(
        self,
        feature_set: FeatureSet,
        partition: int,
        load: LoadBlocks,
        progress: Progress | None,
        topic_ids: Mapping[str, str],
        cached_blocks_max: int,
        sweep: Sweep | None = None,
    ) -> None:
        """Raises: Fatal if the state was built from topics that have been made anew since."""
        self.feature_set = feature_set
        self._topic_ids = topic_ids
        self.partition = partition
        self.commit_sequence = progress.commit_sequence if progress else 0
        self.partials_offset = progress.partials_offset if progress else 0
        self.base_floor_ms = progress.base_floor_ms if progress else None
        self._base_digest = progress.base_digest if progress else "empty"
        self._cut: dict[tuple[str, int], SourceCut] = {(c.event, c.partition): c for c in progress.cut} if progress else {}
        self._check_topics()
        self._load, self._sweep = load, sweep
        self._blocks: dict[BlockKey, Block] = {}
        self._dirty: set[BlockKey] = set()
        self._gone: set[BlockKey] = set()  # deleted by the commit under way: still on disk
        self._changes = 0  # of blocks, since the last sweep
        self._traceparents: list[str] = []
        self._cached_blocks_max = cached_blocks_max

    def _check_topics(self) -> None:
        for cut in self._cut.values():
            now = self._topic_ids.get(cut.event, "")
            if cut.topic_id and now and cut.topic_id != now:
                raise Fatal(
                    f"state of {self.feature_set.name} contains {cut.event} of topic {cut.topic_id}, which is {now} now: "
                    "offsets mean other records"
                )

    def apply(self, partial: PartialTiles, offset: int) -> bool:
        """Add one transaction of one source worker.

        Returns: False if it was already contained (read again after a restart).
        Raises: Fatal on a gap in the chain of ranges, or another set's record.
        """
        readable(partial)
        if partial.set_hash != self.feature_set.hash:
            raise Fatal(f"partials of another feature set: {partial.set_hash[:8]} in the topic of {self.feature_set.hash[:8]}")
        self.partials_offset = offset + 1
        known = [self._contains(r) for r in partial.ranges if r.from_offset < r.to_offset]
        if known and all(known):
            return False
        if any(known):
            raise Fatal(f"partial record at offset {offset} is contained in part: its ranges were not committed together")
        ranges = [r for r in partial.ranges if not self._contains(r)]
        pieces = [
            PartialColumns(
                columns.event,
                columns.hop_ms,
                list(columns.entities),
                np.asarray(columns.starts_ms, dtype=np.int64),
                np.asarray(columns.slots, dtype=np.int64).reshape(len(columns.entities), -1),
            )
            for columns in partial.columns
            if columns.entities
        ]
        self.take(ranges, pieces, partial.traceparents)
        return True

    def continues(self, ranges: Sequence[SourceRange]) -> bool:
        """Whether the state stands exactly where all these ranges begin: then they may be taken without the log between."""
        return all(self._next_offset(r.event, r.partition) == r.from_offset for r in ranges)

    def take(self, ranges: Sequence[SourceRange], pieces: Sequence[PartialColumns], traceparents: Sequence[str]) -> None:
        """Add tiles that hold everything of ranges which continue the cut."""
        for piece in pieces:
            self.merge(piece)
        for r in ranges:
            self.advance(r.event, r.partition, r.to_offset, r.maximum_ms, r.watermark_ms)
        self.carry(traceparents)

    def _next_offset(self, event: str, partition: int) -> int:
        at = self._cut.get((event, partition))
        return at.next_offset if at else 0

    def merge(self, piece: PartialColumns) -> None:
        """Add partial tiles to their blocks; several of one entity and start may be among them."""
        self._fetch(blocks_touched(self.feature_set, piece))
        few = len(piece.entities) <= FEW_TILES and narrow(self.feature_set, piece.event)
        self._dirty |= (add_tiles if few else apply)(self.feature_set, piece, self._blocks)

    def merge_row(self, row: Row) -> None:
        """Add one record, lifted by itself."""
        self._fetch(keys_of(self.feature_set, row))
        self._dirty |= add_row(self.feature_set, row, self._blocks)

    def advance(self, event: str, partition: int, next_offset: int, maximum_ms: int | None, watermark_ms: int | None) -> None:
        """The state contains that much of a source partition from now on."""
        self._cut[event, partition] = SourceCut(
            event=event,
            topic_id=self.topic_id(event),
            partition=partition,
            next_offset=next_offset,
            maximum_ms=maximum_ms,
            watermark_ms=watermark_ms,
        )

    def carry(self, traceparents: Sequence[str]) -> None:
        """Traces of what was newly included, for the Progress."""
        self._traceparents += traceparents[: TRACEPARENTS_MAX - len(self._traceparents)]

    def topic_id(self, event: str) -> str:
        """Of the topic whose offsets the cut means; empty where it is not known."""
        return self._topic_ids.get(event, "")

    def cut(self) -> dict[tuple[str, int], int]:
        """Next offset not included, by (event, partition)."""
        return {place: cut.next_offset for place, cut in self._cut.items()}

    def watermarks(self) -> dict[tuple[str, int], tuple[int, int | None]]:
        """Next offset and watermark by (event, partition)."""
        return {place: (cut.next_offset, cut.watermark_ms) for place, cut in self._cut.items()}

    def read(self, entity: str, t_ms: int) -> FeatureRows:
        """Features of one request at what the state contains now, uncommitted changes included."""

        def blocks(keys: Sequence[BlockKey]) -> list[Block | None]:
            self._fetch(set(keys))
            return [self._blocks.get(key) for key in keys]

        return read_quick(self.feature_set, [entity], [t_ms], blocks, self.maxima(), self.base_floor_ms)

    def _contains(self, r: SourceRange) -> bool:
        """An empty range where the state stands tells of time alone: it is taken again without harm."""
        next_offset = self._next_offset(r.event, r.partition)
        if r.from_offset == next_offset:
            return False
        if r.to_offset <= next_offset:
            return True
        raise Fatal(
            f"gap in the source of {self.feature_set.name}: {r.event}-{r.partition} continues at {r.from_offset}, "
            f"state stands at {next_offset}"
        )

    def _fetch(self, keys: set[BlockKey]) -> None:
        blocks, gone = self._blocks, self._gone  # a set difference would walk every cached block
        missing = sorted(key for key in keys if key not in blocks and key not in gone)
        if not missing:
            return
        for key, block in zip(missing, self._load(missing), strict=True):
            if block is not None:
                self._blocks[key] = block

    def maxima(self) -> dict[str, int | None]:
        """Largest event time per event type under the cut, ms UTC."""
        tops: dict[str, int | None] = dict.fromkeys(self.feature_set.events)
        for (event, _), cut in self._cut.items():
            if cut.maximum_ms is not None:
                known = tops[event]
                tops[event] = cut.maximum_ms if known is None else max(cut.maximum_ms, known)
        return tops

    def commit(self) -> Commit:
        """What to write now. Tiles below the floor, a function of the cut alone, go with it: those of the blocks written, and a
        few of the others that the sweep comes by.

        What is merged from now on belongs to the next commit. To be called once per transaction, and not again before
        `committed`; if the transaction fails, this state is of no use any more.
        """
        maxima = self.maxima()
        floors = {e: floor_ms(self.feature_set, e, maxima, self.base_floor_ms) for e in self.feature_set.events}
        blocks: dict[BlockKey, Block] = {}
        deleted: list[BlockKey] = []
        for key in sorted(self._dirty):
            kept = expire(self._blocks[key], floors[key.event], endless=key.hop_ms == 0)
            if len(kept.starts_ms):
                blocks[key] = self._blocks[key] = kept
            else:
                deleted.append(key)
                del self._blocks[key]
        self._changes += len(self._dirty)
        if self._sweep is not None and self.commit_sequence % COMMITS_PER_SWEEP == 0:
            for key in self._sweep.step(floors, self._dirty, self._changes, self._blocks):
                deleted.append(key)
                self._blocks.pop(key, None)
        progress = Progress(
            set_hash=self.feature_set.hash,
            partition=self.partition,
            cut=tuple(self._cut[k] for k in sorted(self._cut)),
            commit_sequence=self.commit_sequence + 1,
            partials_offset=self.partials_offset,
            base_digest=self._base_digest,
            base_floor_ms=self.base_floor_ms,
            traceparents=tuple(self._traceparents),
        )
        self._dirty, self._traceparents, self._gone = set(), [], set(deleted)
        return Commit(blocks, tuple(deleted), progress, self._sweep.place if self._sweep else None)

    def committed(self) -> None:
        """The transaction of the last `commit` holds, on disk too."""
        self.commit_sequence += 1
        if (self.commit_sequence - 1) % COMMITS_PER_SWEEP == 0:  # the one that holds now has swept
            self._changes = 0
        self._gone = set()
        if len(self._blocks) > self._cached_blocks_max:
            self._blocks = {key: self._blocks[key] for key in self._dirty}
