"""A subscribed consumer that never gives out records of an assignment it no longer holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.chassis.bus import Consumer, Record, TopicPartition
from headrace.chassis.logs import logger

_log = logger("headrace.assignment")


class AssignedConsumer:
    """Follows the group. When the assignment changes inside a consume call, what that call returned may mix two generations:
    it is dropped and read again from the committed offsets, so that no commit ever skips a record."""

    def __init__(
        self, consumer: Consumer, topics: Sequence[str], on_revoke: Callable[[Sequence[TopicPartition]], None] | None = None
    ) -> None:
        self.consumer = consumer
        self.generation = 0  # of assignments seen here, not the group's
        self._on_revoke = on_revoke
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked)

    def consume(self, records_max: int, timeout_s: float) -> list[Record]:
        before = self.generation
        records = self.consumer.consume(records_max, timeout_s)
        if records and before != self.generation:
            self._read_again(records)
            return []
        return records

    def rewind(self, offsets: dict[TopicPartition, int]) -> None:
        """Go back to these offsets where the partition is still ours."""
        held = set(self.consumer.assignment())
        for partition in sorted(offsets.keys() & held):
            self.consumer.seek(partition, offsets[partition])

    def _read_again(self, records: list[Record]) -> None:
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for partition, committed in self.consumer.committed(list(first)).items():
            if committed is not None:
                first[partition] = committed.offset
        self.rewind(first)

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
