"""A topic deleted and made anew on a real broker, whose log is longer than the archived one: no row of it enters the table."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.chassis.bus import TopicSpec
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.errors import Fatal
from headrace.contracts.catalogue import PREDICTIONS, topics
from integration.svc_features.town import eventually
from support.law_worlds import make_world
from svc_features.adapters.lake import LakeReader
from svc_features.archive import Archive
from unit.svc_features.worlds import EVENTS, PLAN, PREDICTIONS_TOPIC, Rig, played

SEED = 4
STEPS_MAX = 600
EVENT = EVENTS["departures"]


def rows(lake: Path) -> list[tuple[int, int]]:
    found = LakeReader(lake).batches(EVENT.topic, ["part", "off"]).read_all().to_pydict()
    return sorted(zip(found["part"], found["off"], strict=True))


def stepped(rig: Rig, archive: Archive) -> None:
    """Go round as the service's thread does, until it stops by itself or has had time enough."""
    for _ in range(STEPS_MAX):
        archive.step()
        rig.clock.advance(1_000)


@pytest.fixture
def bus(kafka: str) -> Iterator[ConfluentBus]:
    """With the world's topics, which are gone again when this ends: other tests of this broker use their names."""
    bus = ConfluentBus(kafka)
    specs = [TopicSpec(e.topic, e.partitions) for e in PLAN.events]
    specs.append(TopicSpec(PREDICTIONS_TOPIC, topics()[PREDICTIONS].partitions))
    admin, names = bus.admin(), [spec.name for spec in specs]
    admin.ensure_topics(specs)
    yield bus
    admin.delete_topics(names)
    eventually(lambda: not admin.topic_ids(names))


def test_on_a_real_broker_offsets_of_two_incarnations_never_meet(tmp_path: Path, bus: ConfluentBus) -> None:
    """Goal: nothing is read over. Method: the topic goes while one archive runs, and another starts after it: both stop."""
    rig = played(make_world(SEED, 60), random.Random(SEED), asks=0, rig=Rig(real=bus))
    sent = sorted((r.partition, r.offset) for r in rig.log if r.event == EVENT.name)
    archive = rig.archive(tmp_path, idle_s=0.05)
    while rows(tmp_path) != sent:
        archive.step()
        rig.clock.advance(1_000)

    bus.admin().delete_topics([EVENT.topic])
    bus.admin().ensure_topics([TopicSpec(EVENT.topic, EVENT.partitions)])
    producer = bus.producer("again")
    for number in range(2 * len(sent)):
        for partition in range(EVENT.partitions):
            producer.produce(EVENT.topic, b"other %d" % number, partition=partition)
    producer.flush(10.0)
    producer.close()
    with pytest.raises(Fatal, match=f"topic {EVENT.topic} was deleted and made anew"):
        stepped(rig, archive)
    with pytest.raises(Fatal, match="made anew"):
        rig.archive(tmp_path)
    assert rows(tmp_path) == sent
