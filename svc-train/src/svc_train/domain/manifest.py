"""The manifest of a model: the one document that is signed, naming everything that is served by digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import orjson

from headrace.contracts.records import TrainingRequested
from headrace.plan.ir import Model, Plan

FORMAT = 1
Known = Mapping[str, Sequence[object]]


def run_id(request: TrainingRequested, model_hash: str, code_digest: str) -> str:
    """One trigger, one run: SHA-256 over what defines the work."""
    parts = [
        request.trigger_kind,
        request.trigger_id,
        request.pipeline,
        request.model,
        request.plan_hash,
        model_hash,
        code_digest,
    ]
    parts += [str(request.from_ms), str(request.until_ms)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def known_answer(rows: Sequence[Sequence[float]], scores: Sequence[float]) -> dict[str, list[object]]:
    """A few rows and their scores, kept with the model so that every loader can check itself; NaN becomes null."""
    return {"rows": [[None if math.isnan(v) else v for v in row] for row in rows], "scores": list(scores)}


def manifest_bytes(
    plan: Plan, model: Model, onnx: Mapping[str, str], native: Mapping[str, str], known: Known, facts: Mapping[str, object]
) -> bytes:
    """Canonical enough to sign: sorted keys, one spelling. Readers verify the bytes, never a re-serialisation."""
    used = {column.feature_set for column in model.inputs if column.feature_set}
    return orjson.dumps(
        {
            "format": FORMAT,
            "pipeline": plan.pipeline,
            "model": model.name,
            "plan_hash": plan.hash,
            "model_hash": model.hash,
            "semantics_version": plan.semantics_version,
            "columns": [column.name for column in model.inputs],
            "sets": {s.name: s.hash for s in plan.feature_sets if s.name in used},
            "threshold": model.threshold,
            "onnx": dict(onnx),
            "native": dict(native),
            "known_answer": dict(known),
            "facts": dict(facts),
        },
        option=orjson.OPT_SORT_KEYS,
    )
