"""Bases for every set of a world, computed from the archive at a cut and announced; then what came before is gone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import AdminClient

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import BASES, topics
from headrace.contracts.codec import Codec
from headrace.contracts.records import StateImported
from headrace.plan.ir import Plan
from svc_features.adapters.lake import LakeReader
from svc_features.backfill import Backfill, SourcePin
from svc_features.warehouse import connect

MEMORY_MB = 1_000
FOLD_ROWS = (200, 3_000, 50_000)
FLUSH_S = 30.0
ANSWER_S = 30.0


def import_bases(plan: Plan, bus: ConfluentBus, codec: Codec, lake: Path, folder: Path, rng: random.Random) -> dict[str, str]:
    """By set the digest of its base; they lie in `folder / "objects"`, and the cut is what the lake holds."""
    bus.admin().ensure_topics([topics()[BASES].spec()])
    reader, objects, producer = LakeReader(lake), FolderObjectStore(folder / "objects"), bus.producer("parity.bases")
    found: dict[str, str] = {}
    for feature_set in plan.feature_sets:
        pins = _pins(plan, bus, reader, feature_set.events)
        room = folder / "backfill" / feature_set.name
        room.mkdir(parents=True)
        connection = connect(2, MEMORY_MB, room / "spill", room / "lake.duckdb")
        try:
            base, stored, records = Backfill(
                plan, feature_set, pins, reader=reader, objects=objects, connection=connection, folder=room,
                fold_rows=rng.choice(FOLD_ROWS), merge_records=rng.choice(FOLD_ROWS),
            ).run()  # fmt: skip
        finally:
            connection.close()
        announced = StateImported(
            pipeline=plan.pipeline, set=feature_set.name, set_hash=feature_set.hash, reference=stored.reference,
            digest=stored.digest, records=records, blocks=base.blocks, floor_ms=base.floor_ms,
        )  # fmt: skip
        producer.produce(BASES, codec.encode(BASES, announced), f"{plan.pipeline}/{feature_set.name}".encode())
        found[feature_set.name] = stored.digest
    producer.flush(FLUSH_S)
    producer.close()
    return found


def _pins(plan: Plan, bus: ConfluentBus, reader: LakeReader, events: tuple[str, ...]) -> list[SourcePin]:
    pins: list[SourcePin] = []
    for event in (e for e in plan.events if e.name in events):
        topic_id, positions = bus.admin().topic_id(event.topic), reader.positions(event.topic, event.partitions)
        pins += [SourcePin(event.name, p, topic_id, positions.get(p, 0), True) for p in range(event.partitions)]
    return pins


def lose_history(bootstrap: str, plan: Plan, reader: LakeReader) -> Mapping[TopicPartition, int]:
    """Retention takes all that the lake holds; returns where the logs begin now."""
    ends = {TopicPartition(e.topic, p): n for e in plan.events for p, n in reader.positions(e.topic, e.partitions).items() if n}
    client = AdminClient({"bootstrap.servers": bootstrap})  # it must outlive its futures
    for future in client.delete_records([Position(tp.topic, tp.partition, n) for tp, n in ends.items()]).values():
        future.result(ANSWER_S)
    return ends
