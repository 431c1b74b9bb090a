"""The source task: verdicts on one source partition, and the partial tiles of one transaction."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.contracts.records import PartialTiles, SourceRange, TileColumns
from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.partition import partitions_for
from headrace.plan.tiles import PartialColumns
from headrace.plan.verdicts import SourceState, rewind_point


@dataclass(slots=True)
class SourceTask:
    """Verdict state of one source partition: a fold over its log, nothing else.

    next_offset: first offset not yet judged. told_offset: where the last committed range ended.
    """

    event: EventType
    partition: int
    next_offset: int
    told_offset: int
    state: SourceState = field(default_factory=SourceState)

    def range(self) -> SourceRange:
        """What this transaction adds to the chain."""
        top = self.state.maximum_ms
        watermark = None if top is None else top - self.event.lateness_ms
        return SourceRange(
            event=self.event.name,
            partition=self.partition,
            from_offset=self.told_offset,
            to_offset=self.next_offset,
            maximum_ms=top,
            watermark_ms=watermark,
        )

    def metadata(self) -> str:
        """Goes with the committed offset: enough to rebuild the verdict state after a restart."""
        rewind = rewind_point(self.state)
        return json.dumps(
            {"maximum_ms": self.state.maximum_ms, "rewind": list(rewind) if rewind else None}, separators=(",", ":")
        )


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """A committed source offset, read back: where to go on, and from where the ids must be read again."""

    next_offset: int
    maximum_ms: int | None
    rewind_offset: int | None
    rewind_maximum_ms: int | None

    @classmethod
    def parse(cls, offset: int, metadata: str) -> SourcePosition:
        found = json.loads(metadata) if metadata else {}
        rewind = found.get("rewind") or (None, None)
        return cls(offset, found.get("maximum_ms"), rewind[0], rewind[1])


def split(feature_set: FeatureSet, pieces: Sequence[PartialColumns]) -> dict[int, list[PartialColumns]]:
    """Partial tiles by the partition their entity lives in."""
    out: dict[int, list[PartialColumns]] = defaultdict(list)
    for piece in pieces:
        home = partitions_for(piece.entities, feature_set.partitions)
        for partition in np.unique(home).tolist():
            rows = np.flatnonzero(home == partition)
            entities = [piece.entities[i] for i in rows]
            out[partition].append(PartialColumns(piece.event, piece.hop_ms, entities, piece.starts_ms[rows], piece.slots[rows]))
    return out


def partial_records(
    feature_set: FeatureSet,
    ranges: Sequence[SourceRange],
    pieces: Mapping[int, Sequence[PartialColumns]],
    traceparents: Sequence[str],
) -> dict[int, PartialTiles]:
    """One record per destination, each with all ranges: the record is its own progress.

    Every destination gets one, with or without tiles, so that its chain has no gap.
    """
    return {
        partition: PartialTiles(
            set_hash=feature_set.hash,
            ranges=tuple(ranges),
            columns=tuple(
                TileColumns(
                    event=p.event,
                    hop_ms=p.hop_ms,
                    entities=tuple(p.entities),
                    starts_ms=tuple(p.starts_ms.tolist()),
                    slots=tuple(p.slots.ravel().tolist()),
                )
                for p in pieces.get(partition, ())
            ),
            traceparents=tuple(traceparents),
        )
        for partition in range(feature_set.partitions)
    }
