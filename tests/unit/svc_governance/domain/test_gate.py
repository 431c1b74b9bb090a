"""The gate: each term alone, against the comparison written out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_governance.domain.gate import ManifestEvidence, judge, parse_condition
from svc_governance.domain.state import State
from unit.svc_governance.worlds import GOOD_MANIFEST, PIPELINE, Story, a_candidate, a_plan

NAN = float("nan")


def failed(
    metrics: dict[str, float] | None = None, evidence: ManifestEvidence = GOOD_MANIFEST, state: State | None = None
) -> set[str]:
    pipeline = (state or Story().admitted().state).pipelines.get(PIPELINE)
    return {term.name for term in judge(a_candidate(metrics=metrics), pipeline, evidence) if not term.passed}


@pytest.mark.parametrize(
    ("metrics", "terms"),
    [
        ({}, set()),
        ({"auc": 0.64}, {"auc"}),  # no champion: below the rule
        ({"auc": 0.65}, set()),  # equal to the rule is enough
        ({"auc": 0.759, "champion_auc": 0.76}, set()),  # within the margin
        ({"auc": 0.757, "champion_auc": 0.76}, {"auc"}),
        ({"auc": 0.7, "champion_auc": 0.6, "rule_auc": 0.9}, set()),  # with a champion the rule does not matter
        ({"auc": NAN}, {"auc"}),
        ({"auc": math.inf}, {"auc"}),
        ({"rule_auc": NAN}, {"auc"}),  # neither champion nor rule: nothing to compare with
        ({"parity_decisions_differing": 1.0}, {"parity"}),
        ({"parity_decisions_differing": NAN}, {"parity"}),
        ({"parity_max_difference": 2e-5}, {"parity"}),
        ({"parity_rows": 0.0}, {"parity"}),
    ],
)
def test_metrics_pass_or_fail_their_terms(metrics, terms):
    assert failed(metrics) == terms


@pytest.mark.parametrize(
    ("evidence", "terms"),
    [
        (ManifestEvidence(None, False, "gone"), {"manifest"}),
        (ManifestEvidence(GOOD_MANIFEST.content, False, "bad signature"), {"signature"}),
        (ManifestEvidence((GOOD_MANIFEST.content or b"").replace(b"d" * 64, b"e" * 64), True), {"manifest"}),
        (ManifestEvidence((GOOD_MANIFEST.content or b"").replace(b"returns", b"refunds"), True), {"manifest"}),
        (ManifestEvidence(b'{"model": 3}', True), {"manifest"}),
        (ManifestEvidence(b"[]", True), {"manifest"}),
        (ManifestEvidence(b"not json", True), {"manifest"}),
    ],
)
def test_a_manifest_must_be_there_signed_and_name_the_model(evidence, terms):
    assert failed(evidence=evidence) == terms


def test_a_candidate_of_an_older_declaration_fails():
    assert failed(state=Story().admitted(a_plan(window_hours=2)).state) == {"plan"}


def test_a_candidate_of_an_unknown_pipeline_fails():
    assert "plan" in failed(state=State())


@pytest.mark.parametrize("text", ["champion - 0.002", ">= winner", "> champion", ">= champion * 2", "", ">= -1", "exact"])
def test_a_condition_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="gate auc"):
        parse_condition("auc", text)


@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([">=", "<="]), st.sampled_from("+-"), st.integers(0, 1000))
def test_a_condition_compares_as_it_reads(value, reference, operator, sign, margin):
    """Oracle: the same comparison in integers, thousandths."""
    text = f"{operator} {reference / 1000} {sign} {margin / 1000}"
    condition = parse_condition("auc", text)
    bound = reference + (margin if sign == "+" else -margin)
    expected = value >= bound if operator == ">=" else value <= bound
    exact = float(condition.reference) + condition.margin
    measured = value / 1000 >= exact if operator == ">=" else value / 1000 <= exact
    assert measured == expected or math.isclose(value / 1000, exact)
