"""The audit topic as event store: read whole at the start, then written in transactions with what each entry announces."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.bus import Bus, Producer, TopicPartition
from headrace.chassis.errors import OutcomeUnknown
from headrace.chassis.whole import read_between
from headrace.contracts.catalogue import AUDIT_ENTRIES, FINDINGS, PIPELINES, ROLLOUTS, TRAINING_REQUESTS, dlq_topic
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Fatal, HeadraceError, Retryable
from headrace.contracts.records import (
    AuditEntryAppended,
    FindingRaised,
    PipelineAdmitted,
    PipelineRetired,
    RecordRejected,
    RolloutChanged,
    TrainingRequested,
)
from headrace.contracts.signing import sign_control
from svc_governance.ports import Commit, Rejected

GROUP = "svc-governance"
# One id for all replicas, not one each: a second replica started by mistake fences the first instead of forking the chain.
TRANSACTIONAL_ID = "svc-governance.chain"
VALUE_BYTES_MAX = 1 << 20  # of a dead letter's original

Message = tuple[str, bytes, bytes]  # topic, key, value


class KafkaJournal:
    """One transactional producer; not thread-safe, owned by the writer thread."""

    def __init__(self, bus: Bus, codec: Codec, private: Ed25519PrivateKey) -> None:
        self._bus, self._codec, self._private = bus, codec, private
        self._producer: Producer | None = None

    def open(self) -> list[AuditEntryAppended]:
        """Fencing first: after it no other writer's transaction can still land behind what is read here."""
        self.close()
        self._producer = self._bus.producer(GROUP, transactional_id=TRANSACTIONAL_ID)
        self._producer.init_transactions()
        return list(self._read())

    def _read(self) -> Iterator[AuditEntryAppended]:
        consumer = self._bus.consumer(None, f"{GROUP}.chain")
        partition = TopicPartition(AUDIT_ENTRIES, 0)
        try:
            start, end = consumer.watermarks(partition)
            if start > 0:
                raise Fatal(f"the audit topic begins at offset {start}: its first entries are gone, restore them from a backup")
            for records in read_between(consumer, partition, 0, end):
                for record in records:
                    yield self._codec.decode(record.value, AuditEntryAppended)
        finally:
            consumer.close()

    def write(self, commit: Commit) -> None:
        if self._producer is None:
            raise Fatal("journal is not open")
        messages = [*self._entries(commit), *self._controls(commit), *self._letters(commit)]  # nothing below may fail to encode
        try:
            self._producer.begin()
            for topic, key, value in messages:
                self._producer.produce(topic, value, key)
            if commit.offsets and commit.consumer is not None:
                self._producer.send_offsets(commit.offsets, commit.consumer)
            self._producer.commit()
        except OutcomeUnknown:
            raise
        except Retryable:
            self._abort()
            raise

    def _abort(self) -> None:
        """Best effort: the caller opens again, and that ends whatever is left."""
        try:
            if self._producer is not None:
                self._producer.abort()
        except HeadraceError:
            self.close()

    def _entries(self, commit: Commit) -> Iterator[Message]:
        for entry in commit.entries:
            yield AUDIT_ENTRIES, str(entry.sequence).encode(), self._codec.encode(AUDIT_ENTRIES, entry)

    def _controls(self, commit: Commit) -> Iterator[Message]:
        for record in commit.announced:
            if isinstance(record, TrainingRequested):
                key = f"{record.pipeline}/{record.model}"
                yield TRAINING_REQUESTS, key.encode(), self._codec.encode(TRAINING_REQUESTS, record)
            elif isinstance(record, FindingRaised):
                yield FINDINGS, record.pipeline.encode(), self._codec.encode(FINDINGS, record)
            else:
                yield self._signed(record)

    def _signed(self, record: PipelineAdmitted | PipelineRetired | RolloutChanged) -> Message:
        is_rollout = isinstance(record, RolloutChanged)
        topic = ROLLOUTS if is_rollout else PIPELINES
        key = f"{record.pipeline}/{record.model}" if is_rollout else record.pipeline
        envelope = sign_control(self._private, GROUP, topic, key, self._codec.encode(topic, record))
        return topic, key.encode(), self._codec.encode(topic, envelope)

    def _letters(self, commit: Commit) -> Iterator[Message]:
        for rejected in commit.rejected:
            topic = dlq_topic(rejected.record.topic, GROUP)
            yield topic, rejected.record.key or b"", self._codec.encode(topic, _letter(rejected))

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None


def _letter(rejected: Rejected) -> RecordRejected:
    record = rejected.record
    return RecordRejected(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        append_time_ms=record.append_time_ms,
        group=GROUP,
        reason=rejected.fault.reason.value,
        detail=rejected.fault.detail,
        key=record.key,
        value=None if record.value is None else record.value[:VALUE_BYTES_MAX],
        origin_id=f"{record.topic}-{record.partition}-{record.offset}",
        lateness_ms=None,
    )
