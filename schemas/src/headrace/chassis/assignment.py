"""A subscribed consumer that never gives out records of an assignment it no longer holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from headrace.chassis.bus import Consumer, Record, TopicPartition
from headrace.chassis.logs import logger

_log = logger("headrace.assignment")


class AssignedConsumer:
    """Follows the group. When the assignment changes inside a consume call, what that call returned may mix two generations:
    it is dropped and read again from the committed offset (without one: from the log's start, so not for from_latest), so
    that no commit ever skips a record."""

    def __init__(
        self, consumer: Consumer, topics: Sequence[str], on_revoke: Callable[[Sequence[TopicPartition]], None] | None = None
    ) -> None:
        self.consumer = consumer
        self.generation = 0  # of assignments seen here, not the group's
        self._on_revoke = on_revoke
        self._unsettled: set[TopicPartition] = set()  # to be read again before anything else
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked)

    def consume(self, records_max: int, timeout_s: float) -> list[Record]:
        self._settle()
        before = self.generation
        records = self.consumer.consume(records_max, timeout_s)
        if before == self.generation:
            return records
        self._unsettled.update(TopicPartition(r.topic, r.partition) for r in records)
        self._settle()
        return []

    def rewind(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Go back to these offsets where the partition is still ours."""
        held = set(self.consumer.assignment())
        for partition in sorted(offsets.keys() & held):
            self.consumer.seek(partition, offsets[partition])

    def _settle(self) -> None:
        """Raises Retryable while the committed offsets are not to be had; then nothing is consumed until they are."""
        mine = sorted(self._unsettled & set(self.consumer.assignment())) if self._unsettled else []
        if mine:
            committed = self.consumer.committed(mine)
            self.rewind({p: self.consumer.watermarks(p)[0] if c is None else c.offset for p, c in committed.items()})
        self._unsettled.clear()

    def _assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self.generation += 1
        _log.info(
            "partitions_assigned", count=len(partitions), partitions=[f"{p.topic}/{p.partition}" for p in partitions[:16]]
        )

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.generation += 1
        _log.info("partitions_revoked", count=len(partitions))
        if self._on_revoke is not None:
            self._on_revoke(partitions)
