"""Control topics are read whole before ready and followed after, on a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import pytest

from headrace.chassis.bus import Record, TopicSpec
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.control import ControlReader
from headrace.chassis.errors import Poison, Reason
from headrace.chassis.health import Health
from headrace.chassis.metrics import ChassisMetrics

PATIENCE_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  another process decides
            await asyncio.sleep(0.02)


@pytest.fixture
def topic(kafka: str) -> str:
    name = f"control-{uuid.uuid4().hex[:8]}.v1"
    ConfluentBus(kafka).admin().ensure_topics([TopicSpec(name, 2, compacted=True)])
    return name


def reader(kafka: str, topic: str, seen: Callable[[Record], None], health: Health, metrics: ChassisMetrics) -> ControlReader:
    return ControlReader(kafka, [topic], seen, health, metrics)


def test_the_newest_of_each_key_comes_before_ready_and_the_rest_as_it_happens(kafka: str, topic: str) -> None:
    """The log ends in an aborted transaction, whose marker must not be waited for; tombstones are records too."""

    async def scenario() -> None:
        bus, seen, health = ConfluentBus(kafka), [], Health()
        producer = bus.producer("test", transactional_id=topic)
        producer.init_transactions()
        producer.begin()
        for key, value in ((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1"), (b"b", None)):
            producer.produce(topic, value, key, partition=0)
        producer.commit()
        producer.begin()
        producer.produce(topic, b"9", b"a", partition=0)
        producer.flush(10)
        producer.abort()
        part = reader(kafka, topic, seen.append, health, ChassisMetrics())
        await part.start()
        assert [(r.key, r.value) for r in seen] == [(b"a", b"2"), (b"c", b"1"), (b"b", None)]
        assert "control" not in health.report().reasons
        producer.begin()
        producer.produce(topic, b"3", b"a", partition=0, headers=[("traceparent", b"x")])
        producer.produce(topic, None, b"c", partition=1)
        producer.commit()
        await until(lambda: len(seen) == 5)
        assert {(r.key, r.value) for r in seen[3:]} == {(b"a", b"3"), (b"c", None)}
        assert next(r for r in seen[3:] if r.key == b"a").headers == (("traceparent", b"x"),)
        await part.stop()

    asyncio.run(scenario())


def test_an_empty_topic_is_read_at_once(kafka: str, topic: str) -> None:
    """A new platform has no control records; its services must become ready all the same."""

    async def scenario() -> None:
        health = Health()
        part = reader(kafka, topic, lambda _: None, health, ChassisMetrics())
        async with asyncio.timeout(PATIENCE_S):
            await part.start()
        assert "control" not in health.report().reasons
        await part.stop()

    asyncio.run(scenario())


def test_a_refused_record_is_counted_and_the_others_apply(kafka: str, topic: str) -> None:
    """An unsigned record stops nothing."""

    async def scenario() -> None:
        applied, metrics = [], ChassisMetrics()

        def check(record: Record) -> None:
            if record.value == b"unsigned":
                raise Poison(Reason.UNSIGNED, "no envelope")
            applied.append(record.value)

        producer = ConfluentBus(kafka).producer("test")
        producer.produce(topic, b"unsigned", b"a")
        producer.produce(topic, b"signed", b"b")
        producer.flush(10)
        part = reader(kafka, topic, check, Health(), metrics)
        await part.start()
        await part.stop()
        assert applied == [b"signed"]
        count = metrics.registry.get_sample_value
        assert count("control_records_total", {"topic": topic, "outcome": "refused"}) == 1
        assert count("control_records_total", {"topic": topic, "outcome": "applied"}) == 1

    asyncio.run(scenario())


def test_a_failing_callback_ends_the_part(kafka: str, topic: str) -> None:
    """A bug while applying control is not survived in silence."""

    async def scenario() -> None:
        def broken(record: Record) -> None:
            if record.value == b"bug":
                raise KeyError("bug")

        part = reader(kafka, topic, broken, Health(), ChassisMetrics())
        await part.start()
        producer = ConfluentBus(kafka).producer("test")
        producer.produce(topic, b"bug", b"a")
        producer.flush(10)
        with pytest.raises(Exception, match="bug"):
            async with asyncio.timeout(PATIENCE_S):
                await part.wait()
        await part.stop()

    asyncio.run(scenario())
