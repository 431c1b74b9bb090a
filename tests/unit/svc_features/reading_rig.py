"""The views of a small world as svc-features holds them, and a caller of its door over ASGI: no port, no network."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicPartition
from headrace.chassis.clock import ManualClock
from headrace.chassis.state import MemoryStore
from headrace.chassis.view import StateView
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.partition import partition_for
from headrace.contracts.records import Progress, SourceCut
from headrace.contracts.signing import TrustedKeys, load_private, token, write_key_pair
from headrace.plan.blocks import record_of
from headrace.plan.ir import FeatureSet
from headrace.plan.tiles import encode_key
from headrace.plan.topics import state_topic
from support.law_worlds import World
from svc_features.read_door import AUDIENCE, Bearers, ReadDoor, add_read_routes
from svc_features.reading import SetReader, head_of
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics
from svc_features.viewing import Viewing
from unit.svc_features.worlds import EVENTS, PIPELINE, PLAN, SETS, View

NOW = 1_800_000_000_000


def state_of(world: World, feature_set: FeatureSet, share: float = 1.0) -> View:
    """The state after this share of each partition's log."""
    view = View(feature_set)
    for name in feature_set.events:
        event = EVENTS[name]
        for partition in range(event.partitions):
            records = [replace(r) for r in world.records(name, partition)]
            records = records[: round(len(records) * share)]
            if records:
                view.apply(event, records)
    return view


def reader_of(view: View, codec: Codec) -> SetReader:
    """The state on views, as they stand after following its topic."""
    one: FeatureSet = view.feature_set
    topic = state_topic(PLAN, one)
    cut = tuple(
        SourceCut(event=e, topic_id="t", partition=p, next_offset=n, maximum_ms=view.source[e, p].maximum_ms, watermark_ms=None)
        for (e, p), n in sorted(view.cut.items())
    )
    views: list[StateView] = []
    for number in range(one.partitions):
        store = StateView(TopicPartition(topic, number), MemoryStore(), lambda raw: codec.decode(raw, Progress))
        mine = {k: b for k, b in view.blocks.items() if partition_for(k.entity, one.partitions) == number}
        puts = {encode_key(one, k): codec.encode(topic, record_of(k, b)) for k, b in mine.items()}
        progress = Progress(
            set_hash=one.hash, partition=number, cut=cut, commit_sequence=7 + number, partials_offset=3, base_digest="empty",
            base_floor_ms=None, traceparents=(),
        )  # fmt: skip
        store.write(puts, [], codec.encode(topic, progress), 1)
        store.live = True
        views.append(store)
    return SetReader(one, views, codec, head_of(codec, topic))


@dataclass
class Desk:
    """The door over one world. Tokens are ada's."""

    folder: Path
    states: Sequence[View]
    settings: Mapping[str, Any] = field(default_factory=dict)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    def __post_init__(self) -> None:
        codec = Codec(MemoryRegistry())
        self.readers = {s.feature_set.name: reader_of(s, codec) for s in self.states}
        viewing = SimpleNamespace(plan=PLAN, readers=self.readers, trouble="")
        (self.folder / "keys").mkdir()
        write_key_pair(self.folder / "ada.pem", self.folder / "keys" / "ada.pub")
        settings = FeaturesSettings(**{"http_port": 0, **self.settings})
        trusted = TrustedKeys(self.folder / "keys")
        self.metrics = FeaturesMetrics(CollectorRegistry())
        viewings = {PIPELINE: cast(Viewing, viewing)}
        self.door = ReadDoor(viewings, Bearers(trusted), settings, self.clock, self.metrics)
        self.http = FastAPI(title="svc-features")
        add_read_routes(self.http, self.door, settings.read_body_bytes_max)

    @property
    def private(self) -> Ed25519PrivateKey:
        return load_private(self.folder / "ada.pem")

    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {token(self.private, 'ada', 60, AUDIENCE)}"}

    @asynccontextmanager
    async def caller(self, bearer: bool = True) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.http)
        async with httpx.AsyncClient(transport=transport, base_url="http://f", headers=self.bearer() if bearer else {}) as http:
            yield http


def desk_of(world: World, folder: Path, **settings: Any) -> Desk:
    return Desk(folder, [state_of(world, s) for s in SETS], settings)


def some_keys(rng: random.Random, number: int) -> list[dict[str, Any]]:
    return [{"origin": rng.choice(("EWR", "JFK", "LGA", "XXX")), "gate": rng.randint(0, 3)} for _ in range(number)]
