"""svc-train as a process on a real broker, registry and database: triggers, kills, failures."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.contracts.catalogue import DATASET_REQUESTS, DATASETS, MODEL_CANDIDATES, TRAINING_RUNS
from headrace.contracts.records import DatasetRequested, ModelTrained, RunState, TrainingRunChanged
from headrace.contracts.signing import verify_bytes
from integration.svc_train.process import TrainProcess
from unit.svc_train.worlds import COLUMNS, a_dataset, a_frame, a_request


@pytest.fixture
def train(tmp_path: Path, kafka: str, registry_url: str, database: str) -> Iterator[TrainProcess]:
    process = TrainProcess(tmp_path, kafka, registry_url, database)
    process.admit()
    process.start()
    yield process
    process.close()


def asked(train: TrainProcess, run: str = "") -> DatasetRequested:
    return train.await_said(DATASET_REQUESTS, DatasetRequested, lambda r: not run or r.request_id != run)


def state(train: TrainProcess, wanted: RunState, run: str) -> TrainingRunChanged:
    return train.await_said(TRAINING_RUNS, TrainingRunChanged, lambda r: r.state is wanted and r.run_id == run)


def test_one_trigger_is_one_model_through_repeats_and_a_kill(train: TrainProcess) -> None:
    """The same trigger five times at once; its data set; killed while it trains; started again: one run, one candidate.

    The candidate's manifest is signed and names what lies in the store; the tracking record names data, code, parameters.
    Then a run whose data set failed ends as FAILED with the reason, and the service goes on.
    """
    request = a_request(train.plan)
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda n: train.request(replace(request, requested_ms=n)), range(5)))
    run = asked(train).request_id
    dataset = a_dataset(train.objects, a_frame(3_000), run, train.plan)
    train.send(DATASETS, train.codec.encode(DATASETS, dataset))
    state(train, RunState.TRAINING, run)
    train.kill()
    train.start()
    done = state(train, RunState.DONE, run)
    assert done.fence >= 3, "asked for the data set, begun, begun again"
    candidates = train.said(MODEL_CANDIDATES, ModelTrained)
    assert {c.candidate_id for c in candidates} == {run}
    assert len({c.manifest_digest for c in candidates}) == 1
    assert {r.request_id for r in train.said(DATASET_REQUESTS, DatasetRequested)} == {run}
    told = train.said(TRAINING_RUNS, TrainingRunChanged)
    assert {r.run_id for r in told} == {run}
    assert sum(r.state is RunState.DUPLICATE for r in told) >= 4
    check_candidate(train, candidates[0])

    train.request(a_request(train.plan, "person-2"))
    second = asked(train, run).request_id
    failed = replace(dataset, request_id=second, ok=False, error="no rows in the window")
    train.send(DATASETS, train.codec.encode(DATASETS, failed))
    assert state(train, RunState.FAILED, second).detail == "data set: no rows in the window"
    assert {c.candidate_id for c in train.said(MODEL_CANDIDATES, ModelTrained)} == {run}


def check_candidate(train: TrainProcess, candidate: ModelTrained) -> None:
    body = train.objects.get(candidate.manifest_reference, candidate.manifest_digest)
    verify_bytes(train.trusted, "svc-train", body, candidate.signature)
    manifest = json.loads(body)
    assert manifest["columns"] == list(COLUMNS)
    assert train.objects.get(manifest["onnx"]["reference"], candidate.model_digest)
    assert candidate.metrics["auc"] > 0.8
    assert candidate.metrics["parity_decisions_differing"] == 0
    with sqlite3.connect(train.folder / "mlflow.db") as store:
        of_run = "where run_uuid = ?", (candidate.tracking_id,)
        tags = dict(store.execute(f"select key, value from tags {of_run[0]}", of_run[1]).fetchall())
        parameters = dict(store.execute(f"select key, value from params {of_run[0]}", of_run[1]).fetchall())
    assert (tags["run_id"], tags["code_digest"]) == (candidate.candidate_id, candidate.code_digest)
    assert (tags["dataset_digest"], tags["dataset_checksum"]) == (candidate.dataset_digest, candidate.content_checksum)
    assert tags["model_digest"] == candidate.model_digest
    assert tags["package.xgboost-cpu"]
    assert (parameters["rounds"], parameters["seed"], parameters["threads"]) == ("15", "1", "2")
