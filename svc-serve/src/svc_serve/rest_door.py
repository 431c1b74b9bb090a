"""The REST door: requests wait in a bounded queue, are decided in small batches, and replied once the passport is durable."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from headrace.chassis.bus import Producer
from headrace.chassis.clock import Clock
from headrace.chassis.errors import Fatal, OutcomeUnknown, Retryable
from headrace.chassis.health import Heartbeat
from headrace.contracts.codec import Codec
from headrace.plan.topics import predictions_topic
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.domain.reply import reply_of
from svc_serve.domain.request import Request
from svc_serve.telemetry import ServeMetrics

BATCH_MAX = 32
WAIT_S = 0.2  # how soon a stop is noticed


class Overloaded(Retryable):
    """Too many requests wait: try again later."""


class NotDurable(Retryable):
    """The decision could not be made durable: nothing was decided, ask again with the same id."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    loop: asyncio.AbstractEventLoop
    reply: asyncio.Future[bytes]

    def answer(self, body: bytes) -> None:
        self.loop.call_soon_threadsafe(lambda: None if self.reply.done() else self.reply.set_result(body))

    def refuse(self, error: Exception) -> None:
        self.loop.call_soon_threadsafe(lambda: None if self.reply.done() else self.reply.set_exception(error))


class RestQueue:
    """Hand-over from the event loop to the door's thread; outlives restarts of the loop."""

    def __init__(self, in_flight_max: int) -> None:
        self.waiting: queue.Queue[_Waiting] = queue.Queue(in_flight_max)

    async def decide(self, request: Request) -> bytes:
        """The reply, once its passport is durable. Raises Overloaded or NotDurable."""
        loop = asyncio.get_running_loop()
        entry = _Waiting(request, loop, loop.create_future())
        try:
            self.waiting.put_nowait(entry)
        except queue.Full:
            raise Overloaded(f"{self.waiting.maxsize} requests wait: slow down") from None
        return await entry.reply


class RestDoor:
    """One model's REST requests. `step` in a loop from one thread."""

    def __init__(
        self, decider: Decider, codec: Codec, answered: Answered, source: RestQueue, make_producer: Callable[[], Producer],
        metrics: ServeMetrics, clock: Clock,
    ) -> None:  # fmt: skip
        self.name = f"rest {decider.plan.pipeline}/{decider.model.name}"
        self.heartbeat = Heartbeat(self.name, clock)
        self._decider, self._codec, self._answered, self._source, self._metrics = decider, codec, answered, source, metrics
        self._topic = predictions_topic(decider.plan.pipeline)
        self._producer = make_producer()
        self._producer.init_transactions()

    def step(self) -> int:
        """Decide what waits. Raises Fatal when nobody can say whether a transaction holds: the restart reads it back."""
        self.heartbeat.beat()
        try:
            batch = [self._source.waiting.get(timeout=WAIT_S)]
        except queue.Empty:
            return 0
        while len(batch) < BATCH_MAX and not self._source.waiting.empty():
            batch.append(self._source.waiting.get_nowait())
        started = time.perf_counter()
        try:
            replies = self._decide([w.request for w in batch])
        except (Retryable, TimeoutError) as error:
            for waiting in batch:
                waiting.refuse(NotDurable(f"passport not written: {error}"))
            return 0
        for waiting in batch:
            waiting.answer(replies[waiting.request.request_id])
            self._metrics.rest_seconds.observe(time.perf_counter() - started)
        return len(batch)

    def _decide(self, requests: list[Request]) -> dict[str, bytes]:
        claimed = self._answered.claim([r.request_id for r in requests])
        replies = dict(claimed.known)
        fresh = {r.request_id: r for r in requests if r.request_id in claimed.new}
        self._metrics.repeated(len(requests) - len(fresh))
        if not fresh:
            return replies
        try:
            passports = self._decider.decide(list(fresh.values()))
            self._producer.begin()
            for passport in passports:
                value = self._codec.encode(self._topic, passport)
                self._producer.produce(
                    self._topic, value, passport.request_id.encode(), None, (("event-id", passport.request_id.encode()),)
                )
            self._producer.commit()
        except OutcomeUnknown as error:
            raise Fatal(f"passports of {len(fresh)} requests: outcome unknown: {error}") from error
        except Exception:
            self._answered.release(fresh)
            self._producer.abort()
            raise
        done = {p.request_id: reply_of(p) for p in passports}
        self._answered.settle(done)
        self._metrics.durable(done.keys())
        for passport in passports:
            self._metrics.decided(passport)
        return replies | done

    def close(self) -> None:
        while not self._source.waiting.empty():
            self._source.waiting.get_nowait().refuse(NotDurable("the service stops: ask again"))
        self._producer.close()
