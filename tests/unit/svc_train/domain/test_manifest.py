"""What is signed is canonical, and a run's identity is its work."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from svc_train.domain.manifest import known_answer, manifest_bytes, run_id
from unit.svc_train.worlds import COLUMNS, a_plan, a_request

REQUEST = a_request(a_plan())


def test_one_trigger_is_one_run() -> None:
    """The same trigger told again at another time is the same run."""
    assert run_id(REQUEST, "m", "c") == run_id(replace(REQUEST, requested_ms=9, requested_by="eve"), "m", "c")


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, trigger_id="person-2"),
        replace(REQUEST, trigger_kind="finding"),
        replace(REQUEST, plan_hash="p"),
        replace(REQUEST, model="other"),
        replace(REQUEST, from_ms=1),
        replace(REQUEST, until_ms=1),
    ],
)
def test_other_work_is_another_run(other: object) -> None:
    assert run_id(other, "m", "c") != run_id(REQUEST, "m", "c")  # type: ignore[arg-type]


def test_another_declaration_or_code_is_another_run() -> None:
    assert len({run_id(REQUEST, m, c) for m in "xy" for c in "xy"}) == 4


def test_a_manifest_has_one_spelling_and_names_everything_by_digest() -> None:
    plan = a_plan()
    model = plan.models[0]
    first = manifest_bytes(
        plan, model, {"digest": "1", "reference": "r"}, {"digest": "2"}, known_answer([], []), {"b": 1, "a": 2}
    )
    second = manifest_bytes(
        plan, model, {"reference": "r", "digest": "1"}, {"digest": "2"}, known_answer([], []), {"a": 2, "b": 1}
    )
    assert first == second
    body = json.loads(first)
    assert (body["plan_hash"], body["model_hash"], body["columns"]) == (plan.hash, model.hash, list(COLUMNS))
    assert (body["onnx"]["digest"], body["native"]["digest"]) == ("1", "2")
    assert list(body) == sorted(body)


def test_a_known_answer_survives_json_with_missing_values() -> None:
    known = known_answer([[1.0, math.nan]], [0.25])
    assert json.loads(json.dumps(known)) == {"rows": [[1.0, None]], "scores": [0.25]}
