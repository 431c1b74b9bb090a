"""The REST door: requests wait in a bounded queue, are decided in small batches, and replied once the passport is durable."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.chassis.bus import Producer
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, OutcomeUnknown, Retryable
from headrace.chassis.health import Heartbeat
from headrace.chassis.logs import logger
from headrace.contracts.codec import Codec
from headrace.contracts.records import PredictionMade
from headrace.plan.topics import predictions_topic
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.domain.reply import reply_of
from svc_serve.domain.request import Request
from svc_serve.telemetry import ServeMetrics

BATCH_MAX = 32
WAIT_S = 0.2  # how soon a stop is noticed
_log = logger(__name__)


class Overloaded(Retryable):
    """Too many requests wait: try again later."""


class NotDurable(Retryable):
    """The decision could not be made durable: nothing was decided, ask again with the same id."""


@dataclass(frozen=True, slots=True)
class Waiting:
    request: Request
    loop: asyncio.AbstractEventLoop
    reply: asyncio.Future[bytes]

    def answer(self, body: bytes) -> None:
        self.loop.call_soon_threadsafe(lambda: None if self.reply.done() else self.reply.set_result(body))

    def refuse(self, error: Exception) -> None:
        self.loop.call_soon_threadsafe(lambda: None if self.reply.done() else self.reply.set_exception(error))


class RestQueue:
    """Hand-over from the event loop to the door's thread."""

    def __init__(self, in_flight_max: int) -> None:
        self._waiting: queue.Queue[Waiting] = queue.Queue(in_flight_max)
        self._closed = False
        self._lock = threading.Lock()  # nobody may enter after the last one was sent away

    async def decide(self, request: Request) -> bytes:
        """The reply, once its passport is durable. Raises Overloaded or NotDurable."""
        loop = asyncio.get_running_loop()
        entry = Waiting(request, loop, loop.create_future())
        with self._lock:
            if self._closed:
                raise NotDurable("the model is being taken down: ask again")
            try:
                self._waiting.put_nowait(entry)
            except queue.Full:
                raise Overloaded(f"{self._waiting.maxsize} requests wait: slow down") from None
        return await entry.reply

    def take(self, wait_s: float, at_most: int = BATCH_MAX) -> list[Waiting]:
        """What waits now, at most so many, one or more; empty after wait_s."""
        batch: list[Waiting] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._waiting.get(timeout=wait_s))
            while len(batch) < at_most:
                batch.append(self._waiting.get_nowait())
        return batch

    def close(self, error: Exception) -> None:
        with self._lock:
            self._closed = True
        while not self._waiting.empty():
            self._waiting.get_nowait().refuse(error)


class RestDoor:
    """One model's REST requests. `step` in a loop from one thread."""

    def __init__(
        self, decider: Decider, codec: Codec, answered: Answered, source: RestQueue, make_producer: Callable[[], Producer],
        metrics: ServeMetrics, clock: Clock, wait_s: float = WAIT_S,
    ) -> None:  # fmt: skip
        self.name = f"rest {decider.plan.pipeline}/{decider.model.name}"
        self.heartbeat = Heartbeat(self.name, clock)
        self._decider, self._codec, self._answered, self._source, self._metrics = decider, codec, answered, source, metrics
        self._clock, self._wait_s, self._make_producer = clock, wait_s, make_producer
        self._topic = predictions_topic(decider.plan.pipeline)
        self._open = False  # a transaction
        self._producer = make_producer()
        self._producer.init_transactions()

    def step(self) -> int:
        """Decide what waits. Raises Fatal when nobody can say whether a transaction holds: the restart reads it back."""
        self.heartbeat.beat()
        batch = self._source.take(self._wait_s)
        return self._answer(batch) if batch else 0

    def _answer(self, batch: Sequence[Waiting]) -> int:
        """Decide these and reply; how many got a reply."""
        try:
            replies = self._decide([w.request for w in batch])
        except (Retryable, TimeoutError) as error:
            _log.warning("decisions_not_durable", requests=len(batch), error=str(error))
            for waiting in batch:
                waiting.refuse(NotDurable(f"passport not written: {error}"))
            return 0
        except BaseException:
            for waiting in batch:
                waiting.refuse(NotDurable("the service failed: ask again with the same id"))
            raise
        for waiting in batch:
            waiting.answer(replies[waiting.request.request_id])
        return len(batch)

    def _decide(self, requests: Sequence[Request]) -> dict[str, bytes]:
        claimed = self._answered.claim([r.request_id for r in requests])
        fresh = {r.request_id: r for r in requests if r.request_id in claimed.new}
        self._metrics.repeated(len(requests) - len(fresh))
        if not fresh:
            return dict(claimed.known)
        try:
            passports = self._decider.decide(list(fresh.values()))
            self._write(passports)
        except OutcomeUnknown as error:  # the ids stay claimed: they may be answered already
            raise Fatal(f"passports of {len(fresh)} requests: outcome unknown: {error}") from error
        except BaseException:
            try:
                self._abort()
            finally:
                self._answered.release(fresh)
            raise
        done = {p.request_id: reply_of(p) for p in passports}
        self._answered.settle(done)
        self._metrics.durable(done.keys())
        for passport in passports:
            self._metrics.decided(passport)
        return {**claimed.known, **done}

    def _write(self, passports: Sequence[PredictionMade]) -> None:
        self._producer.begin()
        self._open = True
        for passport in passports:
            request_id = passport.request_id.encode()
            value = self._codec.encode(self._topic, passport)
            self._producer.produce(self._topic, value, request_id, None, (("event-id", request_id),))
        self._producer.commit()
        self._open = False

    def _abort(self) -> None:
        """Leave the transaction; where the broker does not answer, a new incarnation does it. Raises Retryable."""
        if not self._open:
            return
        self._open = False
        try:
            self._producer.abort()
        except Retryable as error:
            _log.warning("abort_unanswered", error=str(error))
            self._producer.close()
            self._producer = self._make_producer()
            self._producer.init_transactions()

    def close(self) -> None:
        self._source.close(NotDurable("the service stops: ask again"))
        self._producer.close()
