"""Loading a model: read once, verify signature, digests, name, columns and operators; known answer; warm.

Any check that fails refuses the model; what was loaded before goes on answering.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import xgboost as xgb
from numpy.typing import NDArray

from headrace.chassis.objects import ObjectStore
from headrace.contracts.errors import HeadraceError, Poison, Retryable
from headrace.contracts.records import ArmServed
from headrace.contracts.signing import TrustedKeys, verify_bytes
from headrace.plan.ir import Model, Plan

SIGNER = "svc-train"  # the only principal whose manifests are served
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
KNOWN_ANSWER_TOLERANCE = 1e-5  # across executors, as the law of parity states
WARM_BATCHES = (1, 8, 64)


class Refused(HeadraceError):
    """The artefact is not what was signed, or not what this plan serves."""


@dataclass(slots=True)
class OnnxExecutor:
    """ONNX Runtime in process, one thread: a row costs some 10 us, a hand-over to a pool costs more."""

    digest: str
    session: ort.InferenceSession

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        try:
            outputs = self.session.run(None, {self.session.get_inputs()[0].name: rows})
        except Exception as error:  # the runtime raises its own unrelated classes
            raise Retryable(f"onnx runtime failed: {error}") from error
        return np.asarray(outputs[1], dtype=np.float64)[:, 1]


@dataclass(slots=True)
class TreeShap:
    """Exact path-dependent TreeSHAP from the signed native model."""

    booster: xgb.Booster
    method: str = "tree_shap"

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(self.booster.predict(xgb.DMatrix(rows), pred_contribs=True), dtype=np.float64)


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
    manifest_bytes = _read(objects, arm.manifest_reference, arm.manifest_digest, "manifest")
    if arm.signature_key_id != SIGNER:
        raise Refused(f"manifest is signed by {arm.signature_key_id!r}: only {SIGNER} may sign models")
    try:
        verify_bytes(trusted, arm.signature_key_id, manifest_bytes, arm.signature)
    except Poison as error:
        raise Refused(f"manifest signature: {error}") from error
    manifest = json.loads(manifest_bytes)
    _check_names(manifest, plan, model, arm)
    graph = _read(objects, manifest["onnx"]["reference"], manifest["onnx"]["digest"], "model")
    _check_graph(graph)
    executor = OnnxExecutor(arm.model_digest, _session(graph))
    _check_known_answer(executor, manifest["known_answer"])
    explainer = None
    if manifest.get("native"):
        native = _read(objects, manifest["native"]["reference"], manifest["native"]["digest"], "native model")
        booster = xgb.Booster(params={"nthread": 1})
        booster.load_model(bytearray(native))
        explainer = TreeShap(booster)
    _warm(executor, explainer, len(manifest["columns"]))
    return Loaded(arm.model_digest, executor, explainer, tuple(manifest["columns"]))


def _read(objects: ObjectStore, reference: str, digest: str, what: str) -> bytes:
    try:
        return objects.get(reference, digest)
    except Poison as error:
        raise Refused(f"{what} {reference}: {error}") from error


def _check_names(manifest: dict[str, object], plan: Plan, model: Model, arm: ArmServed) -> None:
    sets = {c.feature_set for c in model.inputs if c.feature_set}
    expected = {
        "pipeline": plan.pipeline,
        "model": model.name,
        "columns": [column.name for column in model.inputs],
        "sets": {s.name: s.hash for s in plan.feature_sets if s.name in sets},
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise Refused(f"manifest says {name} is {manifest.get(name)!r}, the plan in force {value!r}")
    onnx_part = manifest.get("onnx")
    if not isinstance(onnx_part, dict) or onnx_part.get("digest") != arm.model_digest:
        raise Refused("manifest names another model digest than the rollout")


def _check_graph(graph: bytes) -> None:
    try:
        proto = onnx.load_model_from_string(graph)
    except Exception as error:
        raise Refused(f"model is not an ONNX graph: {error}") from error
    foreign = {node.domain for node in proto.graph.node} - ALLOWED_DOMAINS
    if foreign:
        raise Refused(f"model uses operators of {sorted(foreign)}: allowed are {sorted(ALLOWED_DOMAINS)}")
    external = [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise Refused(f"model keeps tensors outside its file: {external}")


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _check_known_answer(executor: OnnxExecutor, known: dict[str, list[object]]) -> None:
    rows = np.array([[np.nan if v is None else v for v in row] for row in known["rows"]], dtype=np.float32)  # type: ignore[union-attr]
    wanted = np.array(known["scores"], dtype=np.float64)
    difference = float(np.max(np.abs(executor.scores(rows) - wanted)))
    if not difference <= KNOWN_ANSWER_TOLERANCE:
        raise Refused(f"known answer differs by {difference:g}: allowed is {KNOWN_ANSWER_TOLERANCE:g}")


def _warm(executor: OnnxExecutor, explainer: TreeShap | None, width: int) -> None:
    for size in WARM_BATCHES:
        rows = np.zeros((size, width), dtype=np.float32)
        executor.scores(rows)
        if explainer:
            explainer.contributions(rows)
