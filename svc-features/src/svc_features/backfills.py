"""Backfills: orders come in from people, run one after the other in processes of their own, bases are announced.

    POST /v1/backfills --> order.json --job (resumed after any death)--> result.json --> features.bases.v1 --> announced

An order pins its cut at what the archive holds. Its folder is all there is to it: after a restart the service goes on
with every order that is not announced yet. An announcement may be written twice; both name the same digest.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import Body, FastAPI
from fastapi.responses import JSONResponse

from headrace.chassis.bus import Bus, Producer, TopicPartition
from headrace.chassis.clock import Clock
from headrace.chassis.logs import logger
from headrace.contracts.catalogue import BASES
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Retryable
from headrace.contracts.records import StateImported
from headrace.plan.hashes import PlanFormatError, encode, from_json, sealed, to_json
from headrace.plan.ir import EventType, FeatureSet, Plan
from svc_features import backfill_job
from svc_features.adapters.lake import LakeReader
from svc_features.backfill import SourcePin
from svc_features.files import write_whole
from svc_features.jobs import run_module
from svc_features.settings import FeaturesSettings

JOB_TIMEOUT_S = 24 * 3600.0  # a job that takes longer is started again and goes on where it was
AGAIN_S = 2.0
FLUSH_S = 30.0
_KEPT = frozenset({"order.json", "plan.json", "progress.json", "result.json", "announced"})
_DECODING = frozenset({"unit", "doc"})  # of a field: these do not change how it is decoded
_log = logger(__name__)


class Backfills:
    """A part of the service."""

    name = "backfills"

    def __init__(
        self, codec: Codec, bus: Bus, in_force: Mapping[str, Plan], settings: FeaturesSettings, clock: Clock, producer: Producer
    ) -> None:
        """in_force: by pipeline; its events say how the archive was decoded."""
        self._codec, self._bus, self._in_force, self._settings, self._clock = codec, bus, in_force, settings, clock
        self._producer, self._folder = producer, settings.state_dir / "backfills"
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- orders

    def order(self, plan: Plan, set_name: str) -> str:
        """Take an order; the id of the one under way if the same set is being computed.

        Raises: ValueError if the archive cannot say what that set would hold; Retryable if the broker does not answer.
        """
        feature_set = self._checked(plan, set_name)
        for folder in self._open():
            if orjson.loads((folder / "order.json").read_bytes())["set_hash"] == feature_set.hash:
                return folder.name
        pins = self._pins([e for e in plan.events if e.name in feature_set.events])
        identity = f"{self._clock.now_ms()}-{feature_set.name}-{feature_set.hash[:8]}"
        folder = self._folder / identity
        folder.mkdir(parents=True)
        write_whole(folder / "plan.json", to_json(plan))
        order = {
            "pipeline": plan.pipeline, "set": set_name, "set_hash": feature_set.hash, "sources": [asdict(p) for p in pins],
            "lake": str(self._settings.lake.absolute()), "objects": str(self._settings.object_store.absolute()),
            "threads": self._settings.job_threads, "memory_mb": self._settings.job_memory_mb,
        }  # fmt: skip
        write_whole(folder / "order.json", orjson.dumps(order))
        return identity

    def _checked(self, plan: Plan, set_name: str) -> FeatureSet:
        if plan != sealed(plan):
            raise ValueError("the plan's hashes do not match its content")
        feature_set = next((s for s in plan.feature_sets if s.name == set_name), None)
        if feature_set is None:
            raise ValueError(f"no feature set {set_name} in this plan: it has {[s.name for s in plan.feature_sets]}")
        if feature_set.placement == "owned":
            raise ValueError(f"{set_name} is owned: it reads its logs from the beginning, and starts from no base")
        live = self._in_force.get(plan.pipeline)
        if live is None:
            raise ValueError(f"no plan of {plan.pipeline} is in force here: its events are not archived")
        known = {e.topic: e for e in live.events}
        for event in plan.events:
            if event.name in feature_set.events and not _decodes_alike(event, known.get(event.topic)):
                raise ValueError(
                    f"{event.name} is declared otherwise than it was archived: apply the event first, then backfill"
                )
        return feature_set

    def _pins(self, events: list[EventType]) -> list[SourcePin]:
        """The cut: what the archive holds now."""
        reader, admin = LakeReader(self._settings.lake), self._bus.admin()
        consumer = self._bus.consumer(None, "svc-features.backfills")
        try:
            pins = []
            for event in events:
                topic_id, positions = admin.topic_id(event.topic), reader.positions(event.topic, event.partitions)
                archived = reader.topic_id(event.topic)
                if archived and archived != topic_id:
                    raise ValueError(
                        f"topic {event.topic} was made anew: the lake holds {archived}, the broker {topic_id}; "
                        "nothing can be imported at a cut of both: see what the archive says"
                    )
                for p in range(event.partitions):
                    low, _ = consumer.watermarks(TopicPartition(event.topic, p))
                    pins.append(SourcePin(event.name, p, topic_id, positions.get(p, 0), low == 0))
            return pins
        finally:
            consumer.close()

    def _orders(self) -> list[Path]:
        return sorted(p.parent for p in self._folder.glob("*/order.json"))

    def _open(self) -> list[Path]:
        return [f for f in self._orders() if not (f / "announced").exists()]

    def page(self, folder: Path) -> dict[str, Any]:
        """Where an order is: its state is waiting, running, done or failed."""
        order = orjson.loads((folder / "order.json").read_bytes())
        shown: dict[str, Any] = {"id": folder.name, **{name: order[name] for name in ("pipeline", "set", "set_hash")}}
        shown["cut"] = [{k: s[k] for k in ("event", "partition", "next_offset")} for s in order["sources"]]
        if (folder / "progress.json").exists():
            shown["progress"] = orjson.loads((folder / "progress.json").read_bytes())
        if (folder / "announced").exists():
            result = orjson.loads((folder / "result.json").read_bytes())
            return {**shown, **result, "state": "failed" if "error" in result else "done"}
        return {**shown, "state": "running" if "progress" in shown else "waiting"}

    # -- the part

    async def start(self) -> None:
        """Go on with what an earlier life has not ended."""
        self._something.set()
        self._task = asyncio.create_task(self._run(), name="backfills")

    async def wait(self) -> None:
        assert self._task is not None, "started"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._producer.close)

    def wake(self) -> None:
        """There is an order."""
        self._something.set()

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                await self.work_off()
            except Retryable as error:
                _log.warning("backfill_to_be_retried", error=str(error))
                await asyncio.sleep(AGAIN_S)
                self._something.set()

    async def work_off(self) -> None:
        """End every order there is, the oldest first. Raises: Retryable if one has to be gone on with later."""
        for folder in self._open():
            await self._one(folder)

    async def _one(self, folder: Path) -> None:
        if not (folder / "result.json").exists():
            ended = await run_module(backfill_job.__name__, [str(folder)], JOB_TIMEOUT_S)
            if ended.code:
                _log.error("backfill_failed", order=folder.name, complaint=ended.complaint)
                write_whole(folder / "result.json", orjson.dumps({"error": f"the job failed: {ended.complaint[-300:]}"}))
        order, result = (orjson.loads((folder / name).read_bytes()) for name in ("order.json", "result.json"))
        if "error" not in result:
            record = StateImported(
                pipeline=order["pipeline"], set=order["set"], set_hash=order["set_hash"], reference=result["reference"],
                digest=result["digest"], records=result["records"], blocks=result["blocks"], floor_ms=result["floor_ms"],
            )  # fmt: skip
            await asyncio.to_thread(self._announce, record)
        await asyncio.to_thread(_end, folder)
        _log.info("backfill_ended", order=folder.name, **result)

    def _announce(self, record: StateImported) -> None:
        self._producer.produce(BASES, self._codec.encode(BASES, record), f"{record.pipeline}/{record.set}".encode())
        self._producer.flush(FLUSH_S)

    # -- the outer edge

    def add_routes(self, http: FastAPI) -> None:
        """Mount the routes."""

        @http.post("/v1/backfills")
        async def take(plan: Annotated[dict[str, Any], Body()], feature_set: Annotated[str, Body()]) -> JSONResponse:
            """Order the state of a feature set of a plan, which need not be in force yet."""
            try:
                identity = await asyncio.to_thread(self.order, from_json(orjson.dumps(plan)), feature_set)
            except (ValueError, PlanFormatError) as error:
                return JSONResponse({"error": str(error), "hint": "see `headrace plan`"}, 409)
            except Retryable as error:
                return JSONResponse({"error": str(error), "hint": "ask again"}, 503)
            self.wake()
            return JSONResponse({"id": identity}, 202)

        @http.get("/v1/backfills")
        async def orders() -> list[dict[str, Any]]:
            """All orders, the oldest first."""
            return [self.page(folder) for folder in self._orders()]

        @http.get("/v1/backfills/{identity}")
        async def one(identity: str) -> JSONResponse:
            """Where one order is."""
            folder = next((f for f in self._orders() if f.name == identity), None)
            return (
                JSONResponse({"error": f"no backfill {identity}"}, 404) if folder is None else JSONResponse(self.page(folder))
            )


def _end(folder: Path) -> None:
    """The order is done; what only a resumed job would need may go."""
    write_whole(folder / "announced", b"")
    for path in folder.iterdir():
        if path.name not in _KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _decodes_alike(event: EventType, known: EventType | None) -> bool:
    if known is None or (event.partitions, event.time) != (known.partitions, known.time):
        return False
    if [(r.path, r.nullable, r.required) for r in event.records] != [(r.path, r.nullable, r.required) for r in known.records]:
        return False
    return [encode(f, _DECODING) for f in event.fields] == [encode(f, _DECODING) for f in known.fields]
