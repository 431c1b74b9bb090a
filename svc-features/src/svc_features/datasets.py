"""Data sets on request: pin a cut, wait for the archive, build in a process of its own, answer once per request id."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import orjson

from headrace.chassis.bus import Bus, Record, TopicPartition
from headrace.chassis.logs import logger
from headrace.chassis.objects import ObjectStore
from headrace.chassis.records import Outgoing
from headrace.chassis.whole import read_whole
from headrace.contracts.catalogue import DATASETS, PREDICTIONS, topics
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Reason, Retryable
from headrace.contracts.records import DatasetBuilt, DatasetCut, DatasetRequested
from headrace.plan.hashes import to_json
from headrace.plan.ir import Model, Plan
from headrace.plan.topics import predictions_topic
from svc_features import dataset_job
from svc_features.archive import Reached
from svc_features.jobs import run_module
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics

POLL_S = 0.2
PLAN_WAIT_S = 30.0  # a request may overtake its plan, but not for long
JOB_TIMEOUT_S = 500.0  # below the queue's longest handling time
_log = logger(__name__)

FindPlan = Callable[[str, str], Plan | None]
Ends = Mapping[TopicPartition, int]


class Datasets:
    """Handler of features.dataset-requests.v1."""

    def __init__(
        self, codec: Codec, bus: Bus, find: FindPlan, reached: Reached, objects: ObjectStore, settings: FeaturesSettings,
        metrics: FeaturesMetrics,
    ) -> None:  # fmt: skip
        """find: the plan in force by (pipeline, plan hash)."""
        self._codec, self._bus, self._find, self._reached = codec, bus, find, reached
        self._objects, self._settings, self._metrics = objects, settings, metrics

    async def requested(self, record: Record) -> Iterable[Outgoing]:
        """One answer per request id, the same again if asked again. Raises Retryable while the archive is behind."""
        request = self._codec.decode(record.value, DatasetRequested)
        if request.from_ms >= request.until_ms:
            raise Poison(Reason.OUT_OF_RANGE, f"the window is empty: {request.from_ms} .. {request.until_ms}")
        if (request.validation_from_ms is None) != (request.test_from_ms is None):
            raise Poison(Reason.OUT_OF_RANGE, "a validation split and a test split are asked for together or not at all")
        known = await asyncio.to_thread(self._answered, request.request_id)
        built = known or await self._build(request)
        outcome = "repeated" if known else "built" if built.ok else "failed"
        self._metrics.datasets.labels(outcome).inc()
        _log.info(
            "dataset_answered", request=request.request_id[:12], outcome=outcome, rows=built.rows,
            as_served=built.as_served_rows, error=built.error,
        )  # fmt: skip
        return [Outgoing(DATASETS, self._codec.encode(DATASETS, built), f"{request.pipeline}/{request.model}".encode())]

    async def build(self, request: DatasetRequested) -> DatasetBuilt:
        """A data set for a person: built now, kept by its digest, said on no topic. Raises Retryable as `requested`."""
        return await self._build(request)

    async def _build(self, request: DatasetRequested) -> DatasetBuilt:
        failed = DatasetBuilt(
            request_id=request.request_id, pipeline=request.pipeline, model=request.model, plan_hash=request.plan_hash, ok=False
        )
        found = await self._plan(request)
        if found is None:
            return replace(
                failed, error=f"plan {request.plan_hash[:8]} of {request.pipeline}/{request.model} is not in force here"
            )
        plan, model = found
        ends = await asyncio.to_thread(self._ends, plan)
        await self._wait_for(ends)
        started = time.monotonic()
        try:
            return await self._run(failed, plan, model, request, ends)
        finally:
            self._metrics.dataset_seconds.observe(time.monotonic() - started)

    async def _plan(self, request: DatasetRequested) -> tuple[Plan, Model] | None:
        deadline = time.monotonic() + PLAN_WAIT_S
        while (plan := self._find(request.pipeline, request.plan_hash)) is None:
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(POLL_S)
        model = next((m for m in plan.models if m.name == request.model), None)
        return None if model is None else (plan, model)

    def _ends(self, plan: Plan) -> Ends:
        """Read-committed ends of all event topics and of the passports, now: the cut of the data set."""
        partitions = {e.topic: e.partitions for e in plan.events}
        partitions[predictions_topic(plan.pipeline)] = topics()[PREDICTIONS].partitions
        consumer = self._bus.consumer(None, "svc-features.ends")
        try:
            places = [TopicPartition(topic, p) for topic, n in partitions.items() for p in range(n)]
            return {place: consumer.watermarks(place)[1] for place in places}
        finally:
            consumer.close()

    async def _wait_for(self, ends: Ends) -> None:
        deadline = time.monotonic() + self._settings.dataset_wait_s
        while missing := self._reached.missing(dict(ends)):
            if time.monotonic() >= deadline:
                first, end = next(iter(missing.items()))
                raise Retryable(
                    f"the archive has not reached {len(missing)} ends, such as {first.topic}-{first.partition} at {end}"
                )
            await asyncio.sleep(POLL_S)

    async def _run(self, failed: DatasetBuilt, plan: Plan, model: Model, request: DatasetRequested, ends: Ends) -> DatasetBuilt:
        with tempfile.TemporaryDirectory(prefix="headrace-dataset-") as name:
            folder = Path(name)
            (folder / "plan.json").write_bytes(to_json(plan))
            (folder / "job.json").write_bytes(orjson.dumps(self._job(model, request, ends)))
            ended = await run_module(dataset_job.__name__, [str(folder)], JOB_TIMEOUT_S)
            if ended.code:  # a bug of ours in one build must not end the service, again and again
                _log.error("dataset_job_failed", request=request.request_id[:12], complaint=ended.complaint)
                return replace(failed, error=f"the build failed: {ended.complaint[-300:]}")
            result = orjson.loads((folder / "result.json").read_bytes())
            if "error" in result:
                return replace(failed, error=result["error"])
            data = self._objects.put((folder / "data.parquet").read_bytes(), ".parquet")
            profile = self._objects.put((folder / "profile.json").read_bytes(), ".json")
        return replace(
            failed, ok=True, reference=data.reference, digest=data.digest, profile_reference=profile.reference,
            profile_digest=profile.digest, cut=self._cut(plan, ends), columns=tuple(result.pop("columns")), **result,
        )  # fmt: skip

    def _job(self, model: Model, request: DatasetRequested, ends: Ends) -> dict[str, object]:
        cut: dict[str, dict[str, int]] = {}
        for place, end in ends.items():
            cut.setdefault(place.topic, {})[str(place.partition)] = end
        window = {"from_ms": request.from_ms, "until_ms": request.until_ms, "mature_until_ms": request.mature_until_ms}
        return {
            "model": model.name, "cut": cut, "window": window, "splits": _splits(request, model),
            "lake": str(self._settings.lake.absolute()),
            "threads": self._settings.job_threads, "memory_mb": self._settings.job_memory_mb,
            "engine": self._settings.offline_engine, "spark": self._spark(),
        }  # fmt: skip

    def _spark(self) -> dict[str, object]:
        scratch = self._settings.spark_scratch
        return {
            "master": self._settings.spark_master, "settings": self._settings.spark_settings,
            "scratch": None if scratch is None else str(scratch.absolute()),
        }  # fmt: skip

    def _cut(self, plan: Plan, ends: Ends) -> tuple[DatasetCut, ...]:
        """By event name; the passports' topic, which is no event, by its own name (events' names have no dots)."""
        names = {e.topic: e.name for e in plan.events}
        ids = {topic: facts.topic_id for topic, facts in self._reached.facts.items()}
        found = [
            DatasetCut(
                event=names.get(place.topic, place.topic), partition=place.partition, next_offset=end,
                topic_id=ids.get(place.topic, ""),
            )
            for place, end in ends.items()
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda c: (c.event, c.partition)))

    def _answered(self, request_id: str) -> DatasetBuilt | None:
        """The first answer to this request in the log; few records, read whole."""
        for records in read_whole(self._bus, DATASETS, "svc-features.answers"):
            for record in records:
                built = self._codec.decode(record.value, DatasetBuilt)
                if built.request_id == request_id:
                    return built
        return None


def _splits(request: DatasetRequested, model: Model) -> dict[str, int] | None:
    """None unless both later splits are asked for."""
    if request.validation_from_ms is None or request.test_from_ms is None:
        return None
    embargo = model.label.mature_ms if request.embargo_ms is None else request.embargo_ms
    return {"validation_from_ms": request.validation_from_ms, "test_from_ms": request.test_from_ms, "embargo_ms": embargo}
