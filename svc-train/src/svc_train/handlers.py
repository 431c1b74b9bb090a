"""One function per consumed record: a training request becomes a run, a data set finds the run that waits for it."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.chassis.bus import Record
from headrace.chassis.clock import Clock
from headrace.chassis.logs import logger
from headrace.chassis.records import Outgoing
from headrace.contracts.catalogue import DATASET_REQUESTS, TRAINING_RUNS
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Reason, Retryable
from headrace.contracts.records import DatasetBuilt, DatasetRequested, RunState, TrainingRequested, TrainingRunChanged
from svc_train.domain.manifest import run_id
from svc_train.ports import FindModel, Jobs, Message

PLAN_WAIT_MS = 60_000  # a request may overtake its plan by moments; one this old names a plan that was replaced
_log = logger(__name__)


class Requests:
    """Takes training requests and data sets into the runs table. Idempotent: one trigger, one run."""

    def __init__(self, jobs: Jobs, codec: Codec, find: FindModel, code_digest: str, clock: Clock) -> None:
        self._jobs, self._codec, self._find, self._code_digest, self._clock = jobs, codec, find, code_digest, clock

    async def requested(self, record: Record) -> Iterable[Outgoing] | None:
        """Validate, insert the run, ask for its data set.

        A request for a plan that is not in force fails as a run of its own, so that whoever asked hears of it.
        Raises: Poison for an empty window; Retryable while its plan may still come.
        """
        request = self._codec.decode(record.value, TrainingRequested)
        if request.from_ms >= request.until_ms:
            raise Poison(Reason.OUT_OF_RANGE, f"training window is empty: {request.from_ms} .. {request.until_ms}")
        found = self._find(request.pipeline, request.plan_hash, request.model)
        if found is None:
            says = f"plan {request.plan_hash[:8]} of {request.pipeline}/{request.model} is not in force here"
            if self._clock.now_ms() - record.append_time_ms < PLAN_WAIT_MS:
                raise Retryable(says)
            _log.warning("training_refused", trigger=request.trigger_id, detail=says)
            return [self._said(run_id(request, "", self._code_digest), request, RunState.FAILED, says)]
        identity = run_id(request, found[1].hash, self._code_digest)
        ask = DatasetRequested(
            request_id=identity, pipeline=request.pipeline, model=request.model, plan_hash=request.plan_hash,
            from_ms=request.from_ms, until_ms=request.until_ms, mature_until_ms=request.until_ms,
        )  # fmt: skip
        key = key_of(request)
        accepted = self._said(identity, request, RunState.ACCEPTED, "")
        messages = [
            Message("accepted", TRAINING_RUNS, key, accepted.value or b""),
            Message("dataset", DATASET_REQUESTS, key, self._codec.encode(DATASET_REQUESTS, ask)),
        ]
        is_new = await self._jobs.accept(identity, request.pipeline, request.model, request.to_avro(), messages)
        _log.info("training_requested", run=identity[:12], trigger=request.trigger_id, new=is_new)
        return None if is_new else [self._said(identity, request, RunState.DUPLICATE, "this trigger has its run")]

    async def dataset_built(self, record: Record) -> Iterable[Outgoing] | None:
        """Hand the data set to its run; others' data sets are nobody's here."""
        built = self._codec.decode(record.value, DatasetBuilt)
        delivered = await self._jobs.deliver_dataset(built.request_id, built.to_avro())
        _log.info("dataset_built", run=built.request_id[:12], ok=built.ok, rows=built.rows, delivered=delivered)
        return None

    def _said(self, identity: str, request: TrainingRequested, state: RunState, detail: str) -> Outgoing:
        changed = changed_record(identity, request, state, 0, detail, self._clock.now_ms())
        return Outgoing(TRAINING_RUNS, self._codec.encode(TRAINING_RUNS, changed), key_of(request).encode())


def key_of(request: TrainingRequested) -> str:
    """The message key of all that a run says."""
    return f"{request.pipeline}/{request.model}"


def changed_record(
    identity: str, request: TrainingRequested, state: RunState, fence: int, detail: str, now_ms: int
) -> TrainingRunChanged:
    """A run went from one state to another."""
    return TrainingRunChanged(
        run_id=identity, trigger_id=request.trigger_id, pipeline=request.pipeline, model=request.model,
        state=state, fence=fence, detail=detail, changed_ms=now_ms,
    )  # fmt: skip
