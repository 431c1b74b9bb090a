"""The gate a candidate passes before a person is asked: metrics against champion or rule, parity, signature, plan.

Conditions are written `<op> <reference> [+|- <margin>]`, op >= or <=, reference `champion`, `rule` or a number;
`parity` knows the one word `exact`. Metrics are those of the candidate: `auc`, `champion_auc`, `rule_auc`, ...
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.contracts.records import ModelTrained
from headrace.plan.ir import Model
from svc_governance.domain.state import GateTerm, Pipeline

CONDITION = re.compile(r"^(>=|<=)\s*(champion|rule|\d+(?:\.\d+)?)(?:\s*([+-])\s*(\d+(?:\.\d+)?))?$")
PARITY_TOLERANCE = 1e-5  # across executors; within one, bits are equal


@dataclass(frozen=True, slots=True)
class Condition:
    """`reference` is champion, rule or a decimal text; `margin` is added to its value."""

    metric: str
    operator: str
    reference: str
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class ManifestEvidence:
    """What fetching the manifest showed: its bytes if they have the promised digest, and whether svc-train signed them."""

    content: bytes | None
    signature_ok: bool
    detail: str = ""


def parse_condition(metric: str, text: str) -> Condition:
    """Raises: ValueError naming the term, for a plan to be refused with."""
    if metric == "parity":
        if text != "exact":
            raise ValueError(f"gate parity: {text!r} is not 'exact'")
        return Condition("parity", "exact", "")
    match = CONDITION.match(text.strip())
    if match is None:
        raise ValueError(f"gate {metric}: {text!r} is not like '>= champion - 0.002' or '>= 0.7'")
    operator, reference, sign, margin = match.groups()
    return Condition(metric, operator, reference, float(f"{sign}{margin}") if sign else 0.0)


def judge(trained: ModelTrained, pipeline: Pipeline | None, evidence: ManifestEvidence) -> tuple[GateTerm, ...]:
    """All terms, failed ones included, so that a person reads every reason at once."""
    model = None if pipeline is None or pipeline.retired else pipeline.model(trained.model)
    terms = [_plan_term(trained, model), *_manifest_terms(trained, evidence)]
    for name, text in () if model is None else model.gate:
        condition = parse_condition(name, text)
        terms.append(_parity(trained.metrics) if name == "parity" else _metric(condition, trained.metrics))
    return tuple(terms)


def _plan_term(trained: ModelTrained, model: Model | None) -> GateTerm:
    if model is None:
        return GateTerm("plan", False, f"no model {trained.model} in force in pipeline {trained.pipeline}")
    same = model.hash == trained.model_hash
    return GateTerm("plan", same, f"trained for declaration {trained.model_hash[:8]}, in force is {model.hash[:8]}")


def _manifest_terms(trained: ModelTrained, evidence: ManifestEvidence) -> list[GateTerm]:
    if evidence.content is None:
        return [GateTerm("manifest", False, evidence.detail or "manifest cannot be read")]
    fault = _contradiction(trained, evidence.content)
    says = fault or f"manifest {trained.manifest_digest[:8]} names model {trained.model_digest[:8]}"
    return [
        GateTerm("manifest", not fault, says),
        GateTerm("signature", evidence.signature_ok, evidence.detail or f"signed by {trained.key_id}"),
    ]


def _contradiction(trained: ModelTrained, content: bytes) -> str:
    """What the signed manifest says otherwise than the candidate; a signature over another model's is worth nothing here."""
    try:
        document = json.loads(content)
        told = {
            "pipeline": document["pipeline"],
            "model": document["model"],
            "model_hash": document["model_hash"],
            "model_digest": document["onnx"]["digest"],
        }
    except (ValueError, KeyError, TypeError) as error:
        return f"manifest cannot be understood: {error!r}"
    differing = [name for name, value in told.items() if value != getattr(trained, name)]
    return f"manifest and candidate differ in {', '.join(differing)}" if differing else ""


def _parity(metrics: Mapping[str, float]) -> GateTerm:
    rows = _number(metrics, "parity_rows")
    differing = _number(metrics, "parity_decisions_differing")
    difference = _number(metrics, "parity_max_difference")
    passed = rows is not None and rows > 0 and differing == 0 and difference is not None and difference <= PARITY_TOLERANCE
    return GateTerm("parity", passed, f"{differing} of {rows} decisions differ, largest difference {difference}")


def _metric(condition: Condition, metrics: Mapping[str, float]) -> GateTerm:
    name = condition.metric
    value = _number(metrics, name)
    reference, margin, against = _reference(condition, metrics)
    if value is None or reference is None:
        return GateTerm(name, False, f"{name} is {value}, {against} is {reference}: nothing to compare")
    bound = reference + margin
    passed = value >= bound if condition.operator == ">=" else value <= bound
    return GateTerm(name, passed, f"{value:.4f} {condition.operator} {bound:.4f} ({against})")


def _reference(condition: Condition, metrics: Mapping[str, float]) -> tuple[float | None, float, str]:
    """Value, margin and name of what is compared with; without a champion the rule, and without its margin."""
    if condition.reference not in ("champion", "rule"):
        return float(condition.reference), condition.margin, "declared"
    value = _number(metrics, f"{condition.reference}_{condition.metric}")
    if condition.reference == "champion" and value is None:
        return _number(metrics, f"rule_{condition.metric}"), 0.0, "rule, there is no champion"
    return value, condition.margin, condition.reference


def _number(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(name)
    return None if value is None or not math.isfinite(value) else value
