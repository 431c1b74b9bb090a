"""One producer's transactions: opened when there is work, ended exactly once, settled anew after an indefinite answer.

At least once is the same without transactions: what was written stays written, and offsets follow it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from headrace.chassis.bus import Bus, Committed, Consumer, DeliveryCallback, Header, Producer, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.errors import OutcomeUnknown, Retryable
from headrace.chassis.logs import logger
from headrace.chassis.retry import Backoff, RetryPolicy

FLUSH_S = 30.0  # of a commit without transactions
_log = logger(__name__)


class Transactions:
    """Used by one thread."""

    def __init__(
        self, bus: Bus, member: str, timeout_ms: int, clock: Clock, retry: RetryPolicy, *, exactly_once: bool = True
    ) -> None:
        self._bus, self._member, self._timeout_ms = bus, member, timeout_ms
        self._clock, self._retry, self.exactly_once = clock, retry, exactly_once
        self._backoff: Backoff | None = None
        self._open = False
        self._lost = False  # a new producer must settle the last transaction
        self._producer = self._made()

    def _made(self) -> Producer:
        if not self.exactly_once:
            return self._bus.producer(self._member)
        made = self._bus.producer(self._member, transactional_id=self._member, transaction_timeout_ms=self._timeout_ms)
        made.init_transactions()
        return made

    def waiting(self) -> bool:
        """Whether the next try is not due yet."""
        return self._backoff is not None and self._clock.monotonic_s() < self._backoff.due_s

    def settle(self) -> None:
        """Before anything else after a failure: a new producer's init tells what became of the last transaction."""
        if self._lost:
            self._producer.close()
            self._producer = self._made()
            self._lost = False

    def begin(self) -> None:
        if self.exactly_once:
            self._producer.begin()
        self._open = True

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[Header] = (),
        on_delivery: DeliveryCallback | None = None,
    ) -> None:
        self._producer.produce(topic, value, key, partition, headers, on_delivery)

    def commit(self, offsets: Mapping[TopicPartition, Committed], consumer: Consumer) -> None:
        """All that was produced since `begin`, with the offsets."""
        if self.exactly_once:
            self._producer.send_offsets(offsets, consumer)
            self._producer.commit()
        else:
            self._producer.flush(FLUSH_S)
            consumer.commit(offsets)
        self._open = False

    def well(self) -> None:
        """Work went on: the next failure is a new one."""
        self._backoff = None

    def failed(self, error: Retryable, group: str) -> None:
        """Abort what is open and wait a while. Raises: Fatal when that has gone on for too long."""
        now_s = self._clock.monotonic_s()
        self._backoff = self._backoff or Backoff(self._retry, now_s, random.Random())
        self._backoff.failed(now_s, error)
        _log.warning("round_failed", group=group, attempt=self._backoff.attempts, error=str(error))
        unsettled, self._open = self._open, False
        if isinstance(error, OutcomeUnknown):
            self._lost = self.exactly_once
        elif unsettled and self.exactly_once:
            try:
                self._producer.abort()
            except Retryable as again:
                self._lost = True
                _log.warning("abort_unanswered", group=group, error=str(again))

    def close(self) -> None:
        """A transaction under way is aborted."""
        self._producer.close()
