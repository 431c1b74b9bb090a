"""Loading a model: read once, verify signature, digests, name, columns and operators; known answer; warm.

Any check that fails refuses the model; what was loaded before goes on answering.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
            scores = np.asarray(outputs[1], dtype=np.float64)[:, 1]
        except Exception as error:  # the runtime raises its own unrelated classes
            raise Retryable(f"onnx runtime failed: {error}") from error
        if scores.shape != (len(rows),) or not np.isfinite(scores).all():
            raise Retryable(f"model {self.digest[:8]} gave no finite score for each row")
        return scores


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
    if arm.signature_key_id != SIGNER:
        raise Refused(f"manifest is signed by {arm.signature_key_id!r}: only {SIGNER} may sign models")
    manifest_bytes = _read(objects, arm.manifest_reference, arm.manifest_digest, "manifest")
    try:
        verify_bytes(trusted, arm.signature_key_id, manifest_bytes, arm.signature)
    except Poison as error:
        raise Refused(f"manifest signature: {error}") from error
    manifest = Manifest.parse(manifest_bytes)
    _check_names(manifest, plan, model, arm)
    executor = OnnxExecutor(arm.model_digest, _session(_read(objects, *manifest.model, "model"), len(manifest.columns)))
    explainer = TreeShap(_booster(_read(objects, *manifest.native, "native model"))) if manifest.native else None
    try:
        _check_known_answer(executor, explainer, manifest)
        _warm(executor, explainer, len(manifest.columns))
    except Retryable as error:  # an executor that fails on its own known answer will fail on requests
        raise Refused(f"model does not execute: {error}") from error
    return Loaded(arm.model_digest, executor, explainer, manifest.columns)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What svc-train signs; model and native are (reference, digest)."""

    names: dict[str, object]
    columns: tuple[str, ...]
    model: tuple[str, str]
    native: tuple[str, str] | None
    known_rows: NDArray[np.float32]
    known_scores: NDArray[np.float64]

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises: Refused if a part is missing or of another shape."""
        try:
            found = json.loads(data)
            native, known = found.get("native"), found["known_answer"]
            rows = [[np.nan if v is None else float(v) for v in row] for row in known["rows"]]
            manifest = cls(
                {name: found.get(name) for name in ("pipeline", "model", "columns", "sets")},
                tuple(str(c) for c in found["columns"]),
                (str(found["onnx"]["reference"]), str(found["onnx"]["digest"])),
                (str(native["reference"]), str(native["digest"])) if native else None,
                np.array(rows, dtype=np.float32),
                np.array([float(s) for s in known["scores"]], dtype=np.float64),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"manifest cannot be read: {type(error).__name__}: {error}") from error
        if not rows or manifest.known_rows.shape != (len(manifest.known_scores), len(manifest.columns)):
            raise Refused("manifest has no known answer for its columns")
        return manifest


def _read(objects: ObjectStore, reference: str, digest: str, what: str) -> bytes:
    try:
        return objects.get(reference, digest)
    except Poison as error:
        raise Refused(f"{what} {reference}: {error}") from error


def _check_names(manifest: Manifest, plan: Plan, model: Model, arm: ArmServed) -> None:
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
    if manifest.model[1] != arm.model_digest:
        raise Refused("manifest names another model digest than the rollout")


def _session(graph: bytes, width: int) -> ort.InferenceSession:
    _check_graph(graph)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises its own unrelated classes
        raise Refused(f"model does not load: {error}") from error
    shapes = [tuple(found.shape) for found in session.get_inputs()]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] != width:
        raise Refused(f"model takes {shapes}, the manifest has {width} columns")
    return session


def _check_graph(data: bytes) -> None:
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:
        raise Refused(f"model is not an ONNX graph: {error}") from error
    if not proto.graph.node:
        raise Refused("model is not an ONNX graph: it has no nodes")
    graphs = list(_graphs(proto.graph))
    nodes = [node for graph in graphs for node in graph.node] + [node for function in proto.functions for node in function.node]
    foreign = {node.domain for node in nodes} - ALLOWED_DOMAINS
    if foreign or proto.functions:
        raise Refused(f"model uses operators of {sorted(foreign)}: allowed are {sorted(ALLOWED_DOMAINS)}, and no functions")
    outside = [t.name for t in _tensors(graphs) if t.data_location == onnx.TensorProto.EXTERNAL or t.external_data]
    if outside:
        raise Refused(f"model keeps tensors outside its file: {outside}")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graphs: Sequence[onnx.GraphProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor a model can carry: initialisers, sparse ones, and constants."""
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (a for node in graph.node for a in node.attribute):
            yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)


def _booster(data: bytes) -> xgb.Booster:
    booster = xgb.Booster(params={"nthread": 1})
    try:
        booster.load_model(bytearray(data))
    except Exception as error:
        raise Refused(f"native model does not load: {error}") from error
    return booster


def _check_known_answer(executor: OnnxExecutor, explainer: TreeShap | None, manifest: Manifest) -> None:
    """The graph must give the signed scores, and the native model, which only explains, must be the same model."""
    _check_scores("model", executor.scores(manifest.known_rows), manifest)
    if explainer is not None:
        raw = explainer.contributions(manifest.known_rows).sum(axis=1)
        _check_scores("native model", 1 / (1 + np.exp(-raw)), manifest)


def _check_scores(what: str, scores: NDArray[np.float64], manifest: Manifest) -> None:
    difference = float(np.max(np.abs(scores - manifest.known_scores)))
    if not difference <= KNOWN_ANSWER_TOLERANCE:
        raise Refused(f"{what}: known answer differs by {difference:g}, allowed is {KNOWN_ANSWER_TOLERANCE:g}")


def _warm(executor: OnnxExecutor, explainer: TreeShap | None, width: int) -> None:
    for size in WARM_BATCHES:
        rows = np.zeros((size, width), dtype=np.float32)
        executor.scores(rows)
        if explainer:
            explainer.contributions(rows)
