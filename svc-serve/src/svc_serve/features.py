"""Reading feature values for requests from the views, with the cut they were read at."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.chassis.errors import Retryable
from headrace.chassis.view import Reading, StateView
from headrace.contracts.codec import Codec
from headrace.contracts.partition import partition_for
from headrace.contracts.records import PassportCut, Progress, SetRead, TileBlock
from headrace.plan.blocks import block_of
from headrace.plan.ir import FeatureSet
from headrace.plan.tiles import Block, BlockKey, encode_key, entity_of
from headrace.plan.wide import read_quick
from svc_serve.domain.request import Request

NO_ENTITY = "\x00"  # a name no tile can have: a request without the entity reads nothing
DECODED_BLOCKS_MAX = 50_000  # per feature set; a block is some KB at most


@dataclass(frozen=True, slots=True)
class SetReader:
    """Reads one feature set from its views, one per state partition. Any thread may read."""

    feature_set: FeatureSet
    views: Sequence[StateView]
    codec: Codec
    _decoded: dict[bytes, tuple[bytes, Block]] = field(default_factory=dict)  # by state key: the bytes, and what they say

    def read(self, requests: Sequence[Request]) -> list[SetRead]:
        """One SetRead per request, in order; requests of one partition are read at one Progress.

        Raises: Retryable while a view it needs is being restored, or was overtaken by compaction.
        """
        entities = [entity_of(self.feature_set, r.fields) for r in requests]
        homes: dict[int, list[int]] = defaultdict(list)
        for row, entity in enumerate(entities):
            homes[partition_for(entity, self.feature_set.partitions) if entity is not None else 0].append(row)
        out: dict[int, SetRead] = {}
        for partition, rows in homes.items():
            if not self.views[partition].live:
                raise Retryable(f"feature state of {self.feature_set.name}-{partition} is being restored from its topic")
            with self.views[partition].reading() as reading:
                out |= self._read_partition(partition, reading, rows, entities, requests)
        return [out[row] for row in range(len(requests))]

    def _read_partition(
        self, partition: int, reading: Reading, rows: Sequence[int], entities: Sequence[str | None], requests: Sequence[Request]
    ) -> dict[int, SetRead]:
        progress = reading.progress
        names = [NO_ENTITY if (name := entities[r]) is None else name for r in rows]

        def blocks(keys: Sequence[BlockKey]) -> list[Block | None]:
            return self._blocks(reading, keys)

        base_floor = progress.base_floor_ms if progress else None
        values = read_quick(self.feature_set, names, [requests[r].t_ms for r in rows], blocks, _maxima(progress), base_floor)
        cut = tuple(
            PassportCut(event=c.event, partition=c.partition, next_offset=c.next_offset, topic_id=c.topic_id)
            for c in (progress.cut if progress else ())
        )
        statuses, numbers = values.statuses.tolist(), values.values.tolist()
        return {
            row: SetRead(
                set=self.feature_set.name,
                hash=self.feature_set.hash,
                entity=entities[row],
                placement=self.feature_set.placement,
                partition=partition,
                commit_sequence=progress.commit_sequence if progress else 0,
                cut=cut,
                base_floor_ms=base_floor,
                statuses=tuple(statuses[at]),
                values=tuple(None if math.isnan(v) else v for v in numbers[at]),
            )
            for at, row in enumerate(rows)
        }

    def _blocks(self, reading: Reading, keys: Sequence[BlockKey]) -> list[Block | None]:
        """Each distinct block is fetched once; decoded only if its bytes are not those it had last time."""
        distinct = list(dict.fromkeys(keys))
        raw_keys = [encode_key(self.feature_set, key) for key in distinct]
        found: dict[BlockKey, Block | None] = {}
        for key, raw_key, raw in zip(distinct, raw_keys, reading.multi_get(raw_keys), strict=True):
            found[key] = None if raw is None else self._block(raw_key, raw)
        return [found[key] for key in keys]

    def _block(self, raw_key: bytes, raw: bytes) -> Block:
        known = self._decoded.get(raw_key)
        if known is not None and known[0] == raw:
            return known[1]
        if len(self._decoded) >= DECODED_BLOCKS_MAX:
            self._decoded.clear()
        block = block_of(self.codec.decode(raw, TileBlock))
        self._decoded[raw_key] = (raw, block)
        return block


def _maxima(progress: Progress | None) -> dict[str, int | None]:
    tops: dict[str, int | None] = {}
    for cut in progress.cut if progress else ():
        if cut.maximum_ms is not None:
            known = tops.get(cut.event)
            tops[cut.event] = cut.maximum_ms if known is None else max(cut.maximum_ms, known)
    return tops
