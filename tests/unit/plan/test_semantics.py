"""The golden vectors: what every function and aggregate gives, bit for bit, under a version of the engine semantics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest

from headrace.plan import ir
from headrace.plan.expression_functions import FUNCTIONS
from headrace.plan.expressions import parse
from semantics import golden, vectors
from unit.plan.engines import FIELDS

CONSTANT = {"array_at(l, 0)", *(f"round(p, -3, '{mode}')" for mode in ("half_even", "half_up", "floor", "trunc"))}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return golden.load()


def test_the_file_is_of_the_version_the_code_states(document: dict[str, Any]) -> None:
    """A version raised without new vectors says nothing."""
    stated = document["semantics_version"]
    assert stated == ir.SEMANTICS_VERSION, f"the golden vectors are of version {stated}: {golden.WRITE}"


def test_no_value_moves_in_any_engine_under_one_version(document: dict[str, Any]) -> None:
    found = list(golden.moved(document))
    shown = "\n".join(map(str, found[:10]))
    assert not found, f"{len(found)} values moved:\n{shown}\n{golden.REMEDY}"


def test_every_function_operator_aggregate_and_step_has_vectors(document: dict[str, Any]) -> None:
    parsed = [parse(text, FIELDS, allow_float=True) for text in document["expressions"]]
    assert {name for expression in parsed for name in vectors.functions_of(expression)} == set(FUNCTIONS)
    nodes = {type(expression.root).__name__ for expression in parsed}
    assert nodes >= {"Binary", "Logic", "Inverted", "Negated", "Absolute", "Case", "Choice", "Call", "IsNull", "Column"}
    assert set(document["expressions"]) == set(vectors.EXPRESSIONS), golden.WRITE
    features = vectors.feature_set().features
    assert set(document["aggregates"]) == {feature.name for feature in features}, golden.WRITE
    assert {t.kind for f in features for t in f.terms} == set(get_args(ir.AggregateKind))
    assert {s.kind for f in features for s in f.steps} == set(get_args(ir.StepKind))


def test_the_vectors_are_not_all_null_or_all_alike(document: dict[str, Any]) -> None:
    """Else nothing could move them."""
    varied = {text for text, values in document["expressions"].items() if len({json.dumps(v) for v in values}) > 1}
    constant = {text for text in set(document["expressions"]) - varied if parse(text, FIELDS, allow_float=True).columns}
    assert constant <= CONSTANT, sorted(constant - CONSTANT)
    for name, answers in document["aggregates"].items():
        assert len({json.dumps(value) for value, _ in answers}) > 1, name


def test_a_changed_function_is_told_with_its_input_and_both_values(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    floored = pl.Expr.__floordiv__
    monkeypatch.setattr(pl.Expr, "__floordiv__", lambda self, other: floored(self, other) + 1)
    one = {**document, "expressions": {"d // 7": document["expressions"]["d // 7"]}, "aggregates": {}}
    found = [moved for moved in golden.moved(one) if moved.engine == "polars"]
    first = next(moved for moved in found if moved.old is not None)
    assert first.new == first.old + 1
    assert str(first) == f"polars: d // 7 of {first.given} was {first.old}, is {first.new}"
    assert json.loads(first.given).keys() == {"d"}


def test_writing_refuses_a_moved_value_under_the_same_version_and_takes_it_under_a_new_one(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "golden.json"
    monkeypatch.setattr(vectors, "EXPRESSIONS", ("d // 7", "upper(s)"))
    document = {**document, "expressions": {text: document["expressions"][text] for text in vectors.EXPRESSIONS}}
    altered = json.loads(json.dumps(document))
    altered["expressions"]["d // 7"][0] = 12_345
    file.write_text(json.dumps(altered), encoding="utf-8")
    with pytest.raises(SystemExit, match="raise SEMANTICS_VERSION"):
        golden.write(file)
    assert golden.load(file) == altered
    monkeypatch.setattr(golden, "SEMANTICS_VERSION", ir.SEMANTICS_VERSION + 1)
    golden.write(file)
    assert golden.load(file) == {**document, "semantics_version": ir.SEMANTICS_VERSION + 1}


def test_writing_again_changes_nothing(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "golden.json"
    golden.write(file)
    assert file.read_bytes() == golden.FILE.read_bytes()
    assert document["semantics_version"] == ir.SEMANTICS_VERSION
