"""Reading feature values for requests from the views, with the cut they were read at."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.chassis.view import Reading, StateView
from headrace.contracts.codec import Codec
from headrace.contracts.records import PassportCut, Progress, SetRead, TileBlock
from headrace.plan.blocks import block_of
from headrace.plan.ir import FeatureSet
from headrace.plan.partition import partition_for
from headrace.plan.read import read_features
from headrace.plan.tiles import Block, BlockKey, encode_key, entity_of
from svc_serve.domain.request import Request

NO_ENTITY = "\x00"  # a name no tile can have: a request without the entity reads nothing


@dataclass(frozen=True, slots=True)
class SetReader:
    """Reads one feature set from its views, one per state partition."""

    feature_set: FeatureSet
    views: Sequence[StateView]
    codec: Codec

    def read(self, requests: Sequence[Request]) -> list[SetRead]:
        """One SetRead per request, in order; requests of one partition are read at one Progress."""
        entities = [entity_of(self.feature_set, r.fields) for r in requests]
        homes: dict[int, list[int]] = defaultdict(list)
        for row, entity in enumerate(entities):
            homes[partition_for(entity, self.feature_set.partitions) if entity is not None else 0].append(row)
        out: dict[int, SetRead] = {}
        for partition, rows in homes.items():
            with self.views[partition].reading() as reading:
                out |= self._read_partition(partition, reading, rows, entities, requests)
        return [out[row] for row in range(len(requests))]

    def _read_partition(
        self, partition: int, reading: Reading, rows: Sequence[int], entities: Sequence[str | None], requests: Sequence[Request]
    ) -> dict[int, SetRead]:
        progress = reading.progress
        names = [NO_ENTITY if (name := entities[r]) is None else name for r in rows]

        def blocks(keys: Sequence[BlockKey]) -> list[Block | None]:
            found = reading.multi_get([encode_key(self.feature_set, key) for key in keys])
            return [None if raw is None else block_of(self.codec.decode(raw, TileBlock)) for raw in found]

        base_floor = progress.base_floor_ms if progress else None
        values = read_features(self.feature_set, names, [requests[r].t_ms for r in rows], blocks, _maxima(progress), base_floor)
        cut = (
            tuple(PassportCut(event=c.event, partition=c.partition, next_offset=c.next_offset) for c in progress.cut)
            if progress
            else ()
        )
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
                statuses=tuple(int(s) for s in values.statuses[at]),
                values=tuple(None if v is None or math.isnan(v) else float(v) for v in values.values[at]),
            )
            for at, row in enumerate(rows)
        }


def _maxima(progress: Progress | None) -> dict[str, int | None]:
    tops: dict[str, int | None] = {}
    for cut in progress.cut if progress else ():
        if cut.maximum_ms is not None:
            known = tops.get(cut.event)
            tops[cut.event] = cut.maximum_ms if known is None else max(cut.maximum_ms, known)
    return tops
