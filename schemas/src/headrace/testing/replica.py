"""The engine's own steps over a small log: decode, judge, lift, merge, read. No broker, no store, no threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from headrace.contracts.codec import Codec, EventSchema
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.lower import FeatureRows
from headrace.plan.read import read_features
from headrace.plan.tiles import Block, BlockKey, apply, lift
from headrace.plan.verdicts import NO_MAXIMUM, SourceState, Verdict, judge

Maxima = dict[tuple[str, int], int]  # (event, partition) -> largest event time that counts


@dataclass(frozen=True, slots=True)
class Written:
    """A record as it lies in the log."""

    event: str
    partition: int
    offset: int
    append_ms: int
    value: bytes


@dataclass(slots=True)
class Replica:
    """State of all sets of a plan after the records taken so far. Batches may be cut anywhere: nothing depends on it."""

    plan: Plan
    codec: Codec
    schemas: Mapping[str, EventSchema]  # by event name
    verdicts: dict[tuple[str, int, int], Verdict] = field(default_factory=dict)
    reasons: dict[tuple[str, int, int], str] = field(default_factory=dict)
    cut: dict[tuple[str, int], int] = field(default_factory=dict)
    _sources: dict[tuple[str, int], SourceState] = field(default_factory=dict)
    _maxima: Maxima = field(default_factory=dict)
    _blocks: dict[str, dict[BlockKey, Block]] = field(default_factory=dict)

    def take(self, records: Sequence[Written]) -> None:
        """One batch: of each partition in offset order."""
        for event in self.plan.events:
            mine = [record for record in records if record.event == event.name]
            frames = [self._judged(event, p, [r for r in mine if r.partition == p]) for p in {r.partition for r in mine}]
            accepted = [frame for frame in frames if frame.height]
            if not accepted:
                continue
            frame = pl.concat(accepted)
            for feature_set in self.plan.feature_sets:
                blocks = self._blocks.setdefault(feature_set.name, {})
                for piece in lift(feature_set, event, frame):
                    apply(feature_set, piece, blocks)

    def _judged(self, event: EventType, partition: int, records: Sequence[Written]) -> pl.DataFrame:
        """The rows that count. Notes every verdict."""
        decoded = self.codec.decode_events(self.schemas[event.name], [record.value for record in records])
        offsets = np.array([record.offset for record in records], np.int64)
        appended = np.array([record.append_ms for record in records], np.int64)
        times = decoded.frame[event.time].fill_null(0).to_numpy()
        ids = decoded.frame[event.dedup_id].to_list() if event.dedup_id else None
        state = self._sources.setdefault((event.name, partition), SourceState())
        judged = judge(state, event, offsets, times, appended, ids, decoded.decodable)
        for row, offset in enumerate(offsets.tolist()):
            self.verdicts[event.name, partition, offset] = Verdict(int(judged.verdicts[row]))
            if (error := decoded.errors.get(row)) is not None:
                self.reasons[event.name, partition, offset] = f"{error.reason.value}: {error.detail}"
        self.cut[event.name, partition] = records[-1].offset + 1
        if (maximum := int(judged.maximum_after_ms[-1])) != NO_MAXIMUM:
            self._maxima[event.name, partition] = maximum
        frame = decoded.frame.hstack(
            [
                pl.Series("__partition", np.full(len(records), partition, np.int64)),
                pl.Series("__offset", offsets),
                pl.Series("__time", times),
            ]
        )
        return frame.filter(pl.Series(judged.accepted))

    def read(self, feature_set: FeatureSet, entities: Sequence[str], times_ms: Sequence[int]) -> FeatureRows:
        """Features under the present cut."""
        blocks = self._blocks.get(feature_set.name, {})
        maxima: dict[str, int | None] = {}
        for (event, _), maximum in self._maxima.items():
            maxima[event] = max(maximum, maxima.get(event) or maximum)
        return read_features(feature_set, entities, times_ms, lambda keys: [blocks.get(key) for key in keys], maxima, None)

    def blocks(self, feature_set: FeatureSet) -> dict[BlockKey, Block]:
        """What there is of a set, a copy."""
        return dict(self._blocks.get(feature_set.name, {}))

    def entities(self, feature_set: FeatureSet) -> list[str]:
        """Every entity that has state, sorted."""
        return sorted({key.entity for key in self._blocks.get(feature_set.name, {})})
