"""Loading a model: read once, verify signature, digests, name, columns and operators; known answer; warm.

Any check that fails refuses the model; what was loaded before goes on answering.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from headrace.chassis.objects import ObjectStore
from headrace.chassis.signed_models import (
    Manifest,
    OnnxExecutor,
    Refused,
    Signed,
    check_scores,
    open_model,
    read_manifest,
    read_verified,
)
from headrace.contracts.errors import Retryable
from headrace.contracts.records import ArmServed
from headrace.contracts.signing import TrustedKeys
from headrace.plan.ir import Model, Plan

__all__ = ["Loaded", "OnnxExecutor", "Refused", "TreeShap", "load"]

WARM_BATCHES = (1, 8, 64)


@dataclass(slots=True)
class TreeShap:
    """Exact path-dependent TreeSHAP from the signed native model."""

    booster: xgb.Booster
    method: str = "tree_shap"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        # One thread: waking a pool costs a hundred times the work of a row.
        try:
            matrix = xgb.DMatrix(rows, feature_names=self.booster.feature_names, nthread=1)
            with self.lock:
                return np.asarray(self.booster.predict(matrix, pred_contribs=True), dtype=np.float64)
        except Exception as error:  # XGBoostError, and what its bindings trip over
            raise Retryable(f"tree shap failed: {error}") from error


@dataclass(frozen=True, slots=True)
class Loaded:
    digest: str
    executor: OnnxExecutor
    explainer: TreeShap | None
    columns: tuple[str, ...]


def load(arm: ArmServed, plan: Plan, model: Model, objects: ObjectStore, trusted: TrustedKeys) -> Loaded:
    """Verify and load one arm's model, from bytes read once.

    Raises: Refused with the check that failed; Retryable if the object store does not answer.
    """
    signed = Signed(
        arm.manifest_reference, arm.manifest_digest, arm.signature, arm.signature_key_id, arm.model_digest
    )  # fmt: skip
    manifest = read_manifest(signed, objects, trusted)
    _check_names(manifest, plan, model)
    executor = open_model(manifest, objects)
    native = manifest.native
    explainer = TreeShap(_booster(read_verified(objects, *native, "native model"))) if native else None
    try:
        _check_native(explainer, manifest)
        _warm(executor, explainer, len(manifest.columns))
    except Retryable as error:  # an explainer that fails on the known answer will fail on requests
        raise Refused(f"model does not execute: {error}") from error
    return Loaded(arm.model_digest, executor, explainer, manifest.columns)


def _check_names(manifest: Manifest, plan: Plan, model: Model) -> None:
    sets = {c.feature_set for c in model.inputs if c.feature_set}
    expected = {
        "pipeline": plan.pipeline,
        "model": model.name,
        "columns": [column.name for column in model.inputs],
        "sets": {s.name: s.hash for s in plan.feature_sets if s.name in sets},
    }
    for name, value in expected.items():
        if manifest.names[name] != value:
            raise Refused(f"manifest says {name} is {manifest.names[name]!r}, the plan in force {value!r}")


def _booster(data: bytes) -> xgb.Booster:
    booster = xgb.Booster(params={"nthread": 1})
    try:
        booster.load_model(bytearray(data))
    except Exception as error:
        raise Refused(f"native model does not load: {error}") from error
    return booster


def _check_native(explainer: TreeShap | None, manifest: Manifest) -> None:
    """The native model, which only explains, must be the same model."""
    if explainer is not None:
        raw = explainer.contributions(manifest.known_rows).sum(axis=1)
        check_scores("native model", 1 / (1 + np.exp(-raw)), manifest)


def _warm(executor: OnnxExecutor, explainer: TreeShap | None, width: int) -> None:
    for size in WARM_BATCHES:
        rows = np.zeros((size, width), dtype=np.float32)
        executor.scores(rows)
        if explainer:
            explainer.contributions(rows)
