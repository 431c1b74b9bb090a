"""The operator task of a stream: the rows of one partition, and exactly which records they come from.

rows taken at once --(chained ranges)--+--> pending --step--> operator --> results
rows from the log of rekeyed rows -----+                        |
                                        watermark = least of all sources
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.contracts.errors import Fatal
from headrace.contracts.records import RekeyedRows, SourceCut, SourceRange, StateSegment
from headrace.plan.ir import Stream
from headrace.plan.streams.operator import Batch, Operator, Outcome
from svc_stream.streams.columns import unpacked

Place = tuple[str, int]  # event, source partition
TRACEPARENTS_MAX = 16


@dataclass(slots=True)
class OperatorTask:
    """One partition. Whatever is in memory here and not committed is thrown away after a failure.

    sources: every source partition whose rows may come here; before each of them was heard of, event time does not begin.
    exact: ranges must chain. At least once they need not: what was not noted as read comes, and counts, again.
    """

    stream: Stream
    partition: int
    operator: Operator
    topic_ids: Mapping[str, str]
    sources: frozenset[Place]
    exact: bool = True
    sequence: int = 0
    rows_offset: int = 0
    watermark_ms: int | None = None
    cut: dict[Place, SourceCut] = field(default_factory=dict)
    traceparents: list[str] = field(default_factory=list)
    _pending: list[Batch] = field(default_factory=list)

    def restore(self, at: StateSegment) -> None:
        """Stand where the last part of a segment says. Raises: Fatal if it is not of these topics any more."""
        self.sequence, self.rows_offset, self.watermark_ms = at.sequence, at.rows_offset, at.watermark_ms
        self.cut = {(c.event, c.partition): c for c in at.cut}
        for c in at.cut:
            now = self.topic_ids.get(c.event, "")
            if c.topic_id and now and c.topic_id != now:
                raise Fatal(
                    f"state of {self.stream.name} contains {c.event} of topic {c.topic_id}, which is {now} now: "
                    "offsets mean other records"
                )

    def continues(self, ranges: Sequence[SourceRange]) -> bool:
        """Whether the state stands exactly where all these ranges begin: then they may be taken without the log between."""
        return not self.exact or all(self.next_offset((r.event, r.partition)) == r.from_offset for r in ranges)

    def next_offset(self, place: Place) -> int:
        at = self.cut.get(place)
        return at.next_offset if at else 0

    def take(self, ranges: Sequence[SourceRange], batches: Sequence[Batch], traceparents: Sequence[str]) -> None:
        """Add rows that hold everything of ranges which continue the cut."""
        self._pending += [batch for batch in batches if batch.rows.height]
        for r in ranges:
            place = (r.event, r.partition)
            if self.exact and r.from_offset != self.next_offset(place):
                raise Fatal(
                    f"gap in {self.stream.name}-{self.partition}: {r.event}-{r.partition} goes on at {r.from_offset}, "
                    f"the state ends at {self.next_offset(place)}"
                )
            before = self.cut.get(place)
            floor = before.watermark_ms if before else None
            risen = max((w for w in (floor, r.watermark_ms) if w is not None), default=None)
            self.cut[place] = SourceCut(
                event=r.event, topic_id=self.topic_ids.get(r.event, ""), partition=r.partition, next_offset=r.to_offset,
                maximum_ms=r.maximum_ms, watermark_ms=risen,
            )  # fmt: skip
        self.traceparents += traceparents[: TRACEPARENTS_MAX - len(self.traceparents)]

    def apply(self, record: RekeyedRows, offset: int) -> None:
        """Add what another worker, or an earlier transaction, wrote to the log of rekeyed rows.

        Raises: Fatal on a gap in the chain of ranges, or another stream's record.
        """
        if record.stream_hash != self.stream.hash:
            raise Fatal(f"rows of another stream: {record.stream_hash[:8]} in the topic of {self.stream.hash[:8]}")
        if offset < self.rows_offset:
            return
        self.rows_offset = offset + 1
        batches = [Batch(b.input, unpacked(b.columns, record.format)) for b in record.batches]
        known = [r.to_offset <= self.next_offset((r.event, r.partition)) for r in record.ranges if r.from_offset < r.to_offset]
        if self.exact and known and all(known):
            raise Fatal(f"rows at offset {offset} are contained already, though the offset is not")
        self.take(record.ranges, batches, record.traceparents)

    def step(self) -> Outcome:
        """Hand over what came, and let event time go on."""
        batches, self._pending = self._pending, []
        self.watermark_ms = self._watermark_ms()
        return self.operator.take(_joined(batches), self.watermark_ms)

    def _watermark_ms(self) -> int | None:
        """The least promise of all sources; never lower than before."""
        known = [c.watermark_ms for c in self.cut.values()]
        heard = [w for w in known if w is not None]
        if self.watermark_ms is None and (not self.sources <= self.cut.keys() or len(heard) < len(known)):
            return None
        return max((w for w in (self.watermark_ms, min(heard, default=None)) if w is not None), default=None)


def _joined(batches: Sequence[Batch]) -> list[Batch]:
    """One batch per input, in the order of the inputs."""
    found: dict[int, list[pl.DataFrame]] = {}
    for batch in batches:
        found.setdefault(batch.input, []).append(batch.rows)
    # Doubtful rows bring columns that others lack.
    return [Batch(i, rows[0] if len(rows) == 1 else pl.concat(rows, how="diagonal")) for i, rows in sorted(found.items())]
