"""One training job in a folder: what it leaves, and that its record repeats it."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svc_train import job
from svc_train.adapters.export import onnx_scores, to_onnx
from svc_train.adapters.process import JobFailed, run_job
from svc_train.domain.fit import DEFAULTS, fit, parameters_of, scores
from svc_train.domain.rows import rows_of
from unit.svc_train.worlds import COLUMNS, a_frame, lay_out_job


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[object, ...]]:
    """What would be recorded; a real record is made by the integration tests."""
    told: dict[str, tuple[object, ...]] = {}

    def record(*said: object) -> str:
        told["record"] = said
        return "tracked"

    monkeypatch.setattr(job, "record", record)
    return told


def run(folder: Path, seed: int = 1, champion: Path | None = None) -> dict[str, Any]:
    """Lay out and run a job; its result."""
    lay_out_job(folder, a_frame(seed=seed))
    if champion is not None:
        (folder / "champion.onnx").write_bytes(champion.read_bytes())
    job.run(folder)
    return json.loads((folder / "result.json").read_text())


@pytest.mark.usefixtures("untracked")
def test_the_model_is_judged_on_newer_days_and_its_export_says_the_same(tmp_path: Path) -> None:
    result = run(tmp_path / "job")
    metrics = result["metrics"]
    assert result["parity_ok"]
    assert metrics["parity_rows"] == result["rows"] == 600
    assert (metrics["training_rows"], metrics["validation_rows"]) == (510, 90)
    assert metrics["auc"] > 0.8
    assert math.isnan(metrics["champion_auc"]), "no champion"
    known = result["known_answer"]
    x = np.array([[np.nan if v is None else v for v in row] for row in known["rows"]], np.float32)
    assert onnx_scores((tmp_path / "job" / "model.onnx").read_bytes(), x).tolist() == known["scores"]


def test_what_is_recorded_repeats_the_model(tmp_path: Path, untracked: dict[str, tuple[object, ...]]) -> None:
    """Trained again from nothing but the recorded parameters and the data set: the same bytes."""
    run(tmp_path / "job")
    url, experiment, name, parameters, _, tags = untracked["record"]
    assert (url, experiment, name) == (f"sqlite:///{tmp_path}/mlflow.db", "shop/late", "r" * 12)
    assert isinstance(parameters, dict)
    assert isinstance(tags, dict)
    assert parameters.keys() == DEFAULTS.keys() | {"threads", "max_bin"}
    assert {"dataset_checksum", "dataset_digest", "code_digest", "model_digest"} <= tags.keys()
    booster = fit(rows_of(a_frame(), COLUMNS), parameters, int(parameters["threads"]))
    graph = to_onnx(booster, len(COLUMNS))
    assert graph == (tmp_path / "job" / "model.onnx").read_bytes()
    assert tags["model_digest"] == hashlib.sha256(graph).hexdigest()


@pytest.mark.usefixtures("untracked")
def test_a_champion_is_judged_beside_it_on_the_same_days(tmp_path: Path) -> None:
    """A champion that is the same model has the candidate's figures but for having seen the newest days too."""
    run(tmp_path / "first")
    metrics = run(tmp_path / "second", seed=2, champion=tmp_path / "first" / "model.onnx")["metrics"]
    assert 0.8 < metrics["champion_auc"] < 1
    assert metrics["champion_auc"] != metrics["auc"]


@pytest.mark.usefixtures("untracked")
def test_a_wrong_export_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that loses the last rounds."""
    monkeypatch.setattr(job, "to_onnx", lambda booster, width: to_onnx(booster[:5], width))
    assert not run(tmp_path / "job")["parity_ok"]


def test_fitting_again_gives_the_same_bits() -> None:
    rows, parameters = rows_of(a_frame(), COLUMNS), parameters_of({"rounds": "10"})
    first, second = (scores(fit(rows, parameters, 2), rows.x) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_unknown_parameters_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="learning_speed"):
        parameters_of({"learning_speed": "1"})


async def test_a_job_that_cannot_be_done_says_why_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p.endswith("src")))
    lay_out_job(tmp_path / "job", a_frame(days=1))
    with pytest.raises(JobFailed, match=r"ended with 1: 1 day of labelled requests") as told:
        await run_job(tmp_path / "job", 60.0)
    assert "Traceback" not in str(told.value)


async def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p.endswith("src")))
    with pytest.raises(JobFailed, match="longer than"):
        await run_job(tmp_path / "job", 0.05)


def test_a_job_ends_with_the_service_that_started_it() -> None:
    """Its stdin ends when the service dies, whatever killed it."""
    source = [p for p in sys.path if p.endswith("src")]
    code = "from svc_train.job import end_with_service; end_with_service()"  # waits for ever while stdin is open
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env={"PYTHONPATH": ":".join(source)})
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 1
