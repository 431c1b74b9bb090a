"""What people and services did to a pipeline, from the archived audit chain: every plan admitted, every model judged.

Decisions name plans and models by digest only. Their content is found here with the stack down, and what is found is
verified by what it is: a plan by its own hash, a model by the signature over its manifest.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc

from headrace.chassis.signed_models import Signed
from headrace.contracts.catalogue import AUDIT_ENTRIES
from headrace.plan.hashes import PlanFormatError, from_json, sealed
from headrace.plan.ir import Plan
from headrace.plan.retained import declared
from svc_features.adapters.lake import LakeReader

_TOLD = ("pipeline.admitted", "candidate.gated", "rollout.changed")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model svc-governance has heard of. fitted_until_ms: end of its training window, event time; 0 if not told."""

    candidate_id: str
    model: str
    signed: Signed
    fitted_until_ms: int = 0


@dataclass(slots=True)
class History:
    """plans: by every hash a decision may name (admitted, as declared, retained). models: by digest of the graph."""

    plans: dict[str, Plan] = field(default_factory=dict)
    models: dict[str, KnownModel] = field(default_factory=dict)

    def find(self, text: str, model: str = "") -> KnownModel:
        """By candidate id, digest, or the beginning of one. Raises: ValueError if none or several are meant."""
        mine = [m for m in self.models.values() if model in ("", m.model)]
        found = [m for m in mine if m.candidate_id.startswith(text) or m.signed.model_digest.startswith(text)]
        if len(found) != 1:
            known = ", ".join(sorted(f"{m.model} {m.signed.model_digest[:8]} (run {m.candidate_id[:8]})" for m in mine))
            raise ValueError(f"{text!r} means {'no' if not found else 'more than one'} model; known are {known or 'none'}")
        return found[0]


def history_of(lake: Path, pipeline: str) -> History:
    """Empty where the audit chain was never archived."""
    reader = LakeReader(lake, pc.field("action").isin(list(_TOLD)))
    found = History()
    if not reader.exists(AUDIT_ENTRIES):
        return found
    for batch in reader.batches(AUDIT_ENTRIES, ["action", "subject", "body"]):
        for entry in batch.to_pylist():
            _add(found, pipeline, entry["action"], entry["subject"], orjson.loads(entry["body"]))
    return found


def _add(found: History, pipeline: str, action: str, subject: str, body: Mapping[str, Any]) -> None:
    if action == "pipeline.admitted" and subject == pipeline:
        for plan in _plans(body["plan"].encode()):
            found.plans[plan.hash] = plan
    elif action == "candidate.gated" and body["candidate"]["pipeline"] == pipeline:
        told = body["candidate"]
        until = int(told.get("until_ms") or 0)
        _keep(found, KnownModel(told["candidate_id"], told["model"], _signed(told, "key_id"), until))
    elif action == "rollout.changed" and body["pipeline"] == pipeline:
        for arm in body["arms"]:
            if arm["model_digest"]:
                _keep(found, KnownModel(arm["candidate_id"], body["model"], _signed(arm, "signature_key_id")))


def _keep(found: History, known: KnownModel) -> None:
    """The entry that says how far the training window reached is kept, whichever comes first."""
    digest = known.signed.model_digest
    if digest not in found.models or known.fitted_until_ms:
        found.models[digest] = known


def _plans(data: bytes) -> list[Plan]:
    """The plan, the declaration in it and what it retains; none of it if it is not what its hash says."""
    try:
        plan = from_json(data)
    except PlanFormatError:
        return []  # admitted by a version that spelled plans otherwise
    return [p for p in (plan, declared(plan), *plan.retained) if p == sealed(p)]


def _signed(told: Mapping[str, Any], key: str) -> Signed:
    signature = told["signature"]
    raw = base64.b64decode(signature["base64"]) if isinstance(signature, dict) else b""
    return Signed(told["manifest_reference"], told["manifest_digest"], raw, told[key], told["model_digest"])
