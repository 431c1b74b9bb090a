"""Work queues redeliver what failed and lose nothing, on a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable

import pytest

from headrace.chassis.bus import Committed, Record, TopicPartition, TopicSpec
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.errors import Fatal, Poison, Reason, Retryable
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.queue import TaskHandler, WorkQueue
from headrace.chassis.records import Outgoing, Rejected, dead_letter_topic
from headrace.chassis.retry import RetryPolicy
from headrace.chassis.tracing import Tracing

PATIENCE_S = 30.0
GROUP = "svc-test"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  another process decides
            await asyncio.sleep(0.02)


@pytest.fixture
def topic(kafka: str) -> str:
    name = f"queue-{uuid.uuid4().hex[:8]}.v1"
    specs = [TopicSpec(name, 2), TopicSpec(dead_letter_topic(name, GROUP), 1), TopicSpec(f"{name}-out", 1)]
    ConfluentBus(kafka).admin().ensure_topics(specs)
    return name


def encode(rejected: Rejected) -> bytes:
    return b"|".join([rejected.reason.encode(), rejected.record.value or b"", b"%d" % rejected.record.offset])


def queue(kafka: str, topic: str, handle: TaskHandler, retry: RetryPolicy | None = None) -> WorkQueue:
    made = WorkQueue(
        bootstrap=kafka,
        group=GROUP,
        producer=ConfluentBus(kafka).producer("test"),
        encode_rejected=encode,
        clock=SystemClock(),
        metrics=ChassisMetrics(),
        tracing=Tracing("test", "0", None),
        retry=retry or RetryPolicy(base_s=0.05, cap_s=0.1),
    )
    made.on(topic, handle)
    return made


def send(kafka: str, topic: str, partition: int, *values: bytes | None) -> None:
    producer = ConfluentBus(kafka).producer("feed")
    for value in values:
        producer.produce(topic, value, b"key", partition=partition, headers=[("event-id", b"1")])
    producer.flush(10)


def values_of(kafka: str, topic: str) -> list[Record]:
    reader, where = ConfluentBus(kafka).consumer(None, "reader"), TopicPartition(topic, 0)
    reader.assign({where: -2})
    found: list[Record] = []
    end = reader.watermarks(where)[1]
    while len(found) < end:
        found += reader.consume(100, 0.2)
    reader.close()
    return found


def committed(kafka: str, topic: str) -> dict[int, Committed | None]:
    reader = ConfluentBus(kafka).consumer(GROUP, "reader")
    answer = reader.committed([TopicPartition(topic, p) for p in range(2)])
    reader.close()
    return {p.partition: c for p, c in answer.items()}


def test_a_failed_record_comes_again_before_the_next_one(kafka: str, topic: str) -> None:
    """Order within the partition holds; what the handler returns is produced before the record counts as done."""

    async def scenario() -> None:
        tries: list[bytes | None] = []

        async def handle(record: Record) -> Iterable[Outgoing]:
            tries.append(record.value)
            if record.value == b"2" and tries.count(b"2") < 3:
                raise Retryable("database away")
            return [Outgoing(f"{topic}-out", record.value, record.key)]

        send(kafka, topic, 0, b"1", b"2", b"3", None)
        part = queue(kafka, topic, handle)
        await part.start()
        await until(lambda: len(tries) == 6)
        await until(lambda: committed(kafka, topic)[0] == Committed(4))
        await part.stop()
        assert tries == [b"1", b"2", b"2", b"2", b"3", None]
        assert [r.value for r in values_of(kafka, f"{topic}-out")] == [b"1", b"2", b"3", None]

    asyncio.run(scenario())


def test_a_record_that_keeps_failing_is_never_committed_by_the_success_of_others(kafka: str, topic: str) -> None:
    """Acknowledgements on partition 1 must not carry the position of partition 0 past the record that fails there; a
    new member gets it again."""

    async def scenario() -> None:
        done: list[bytes | None] = []

        async def handle(record: Record) -> None:
            if record.partition == 0:
                raise Retryable("always")
            done.append(record.value)

        send(kafka, topic, 0, b"stuck", b"behind")
        part = queue(kafka, topic, handle)
        await part.start()
        for i in range(5):
            send(kafka, topic, 1, b"%d" % i)
            await until(lambda i=i: len(done) == i + 1)
        await until(lambda: committed(kafka, topic)[1] == Committed(5))
        assert committed(kafka, topic)[0] is None
        await part.stop()

        async def take(record: Record) -> None:
            done.append(record.value)

        after = queue(kafka, topic, take)
        await after.start()
        await until(lambda: len(done) == 7)
        await after.stop()
        assert done[5:] == [b"stuck", b"behind"]

    asyncio.run(scenario())


def test_poison_goes_to_the_dead_letters_with_its_origin(kafka: str, topic: str) -> None:
    """Raw value, key and headers survive; the queue goes on."""

    async def scenario() -> None:
        done: list[bytes | None] = []

        async def handle(record: Record) -> None:
            if record.value == b"bad":
                raise Poison(Reason.WRONG_TYPE, "not a request")
            done.append(record.value)

        send(kafka, topic, 0, b"good", b"bad", b"better")
        part = queue(kafka, topic, handle)
        await part.start()
        await until(lambda: len(done) == 2)
        await part.stop()
        (letter,) = values_of(kafka, dead_letter_topic(topic, GROUP))
        assert (letter.value, letter.key, letter.headers) == (b"wrong_type|bad|1", b"key", (("event-id", b"1"),))

    asyncio.run(scenario())


def test_a_bug_in_the_handler_ends_the_part_and_commits_nothing(kafka: str, topic: str) -> None:
    """Unclassified means Fatal."""

    async def scenario() -> None:
        async def handle(_record: Record) -> None:
            raise KeyError("bug")

        send(kafka, topic, 0, b"1")
        part = queue(kafka, topic, handle)
        await part.start()
        with pytest.raises(Fatal, match="bug"):
            async with asyncio.timeout(PATIENCE_S):
                await part.wait()
        await part.stop()
        assert committed(kafka, topic)[0] is None

    asyncio.run(scenario())


def test_a_spent_budget_ends_the_part(kafka: str, topic: str) -> None:
    """A dead database must not be hammered for ever, and its records never go to the dead letters."""

    async def scenario() -> None:
        async def handle(_record: Record) -> None:
            raise Retryable("database away")

        send(kafka, topic, 0, b"1")
        part = queue(kafka, topic, handle, RetryPolicy(budget_s=0.3, base_s=0.05, cap_s=0.1))
        await part.start()
        with pytest.raises(Fatal, match="gave up"):
            async with asyncio.timeout(PATIENCE_S):
                await part.wait()
        await part.stop()
        assert committed(kafka, topic)[0] is None
        assert values_of(kafka, dead_letter_topic(topic, GROUP)) == []

    asyncio.run(scenario())
