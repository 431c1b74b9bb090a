"""Wiring: the one file that sees settings, adapters, the writer and its doors together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from headrace.chassis.app import Chassis, Part
from headrace.chassis.codecs import plan_codec
from headrace.chassis.grants_confluent import ConfluentGrants
from headrace.chassis.health import Heartbeat
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.errors import Fatal
from headrace.contracts.signing import TrustedKeys, authenticate, load_private
from svc_governance.adapters.heads import HeadsFile
from svc_governance.adapters.journal import KafkaJournal
from svc_governance.adapters.manifests import StoredManifests
from svc_governance.adapters.resources import KafkaResources
from svc_governance.api import AUDIENCE, Door, build_routes
from svc_governance.handlers import Handlers
from svc_governance.settings import Settings, read_people
from svc_governance.telemetry import Telemetry
from svc_governance.writer import Writer

OPENED_POLL_S = 0.02


class WriterPart:
    """The writer's thread as a part of the service: started when the chain is read and the inputs are taken up."""

    name = "writer"

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._stop = threading.Event()
        self._running: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Waits for a broker that is not up yet. Raises: Fatal, e.g. for a chain that does not verify."""
        self._running = asyncio.ensure_future(asyncio.to_thread(self._writer.run, self._stop))
        while not self._writer.opened.is_set():
            if self._running.done():
                self._running.result()
                return
            await asyncio.sleep(OPENED_POLL_S)

    async def wait(self) -> None:
        if self._running is not None:
            await asyncio.shield(self._running)

    async def stop(self) -> None:
        """Finishes the round under way: nothing that was answered is lost, nothing that was not is kept back."""
        self._stop.set()
        if self._running is not None:
            await asyncio.wait({self._running})


def build(chassis: Chassis[Settings]) -> Sequence[Part]:
    """Raises: Fatal for missing keys or roles."""
    settings = chassis.settings
    private = load_private(_given(settings.key_file, "HEADRACE_KEY_FILE"))
    trusted = TrustedKeys(_given(settings.trusted_keys, "HEADRACE_TRUSTED_KEYS"))
    codec = plan_codec(settings)
    heartbeat = Heartbeat("writer", chassis.clock)
    writer = Writer(
        bus=chassis.bus,
        journal=KafkaJournal(chassis.bus, codec, private),
        handlers=Handlers(codec, StoredManifests(FolderObjectStore(settings.object_store), trusted)),
        resources=KafkaResources(chassis.bus, codec, _grants(settings)),
        private=private,
        heads=HeadsFile(settings.heads_path()),
        clock=chassis.clock,
        telemetry=Telemetry(chassis.metrics.registry),
        progress=heartbeat.beat,
    )
    chassis.health.watch(heartbeat)
    people = read_people(settings.roles_file)
    door = Door(writer, partial(authenticate, trusted, audience=AUDIENCE), people, settings.hold_s * 1000)
    chassis.http.include_router(build_routes(door))
    return [WriterPart(writer)]


def _grants(settings: Settings) -> ConfluentGrants | None:
    return ConfluentGrants(settings.bootstrap, settings.kafka()) if settings.grant_rights else None


def _given(path: Path | None, name: str) -> Path:
    if path is None:
        raise Fatal(f"{name} is not set: svc-governance signs and authenticates, it needs keys")
    return path
