"""Signed models: manifest, graph and known answer verified, from bytes read once; the executor that scores rows.

svc-serve answers with it, svc-features replays past decisions with it: the same checks, the same executor, the same bits.
What makes pickles and foreign operators impossible is here, once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from headrace.chassis.objects import ObjectStore
from headrace.contracts.errors import HeadraceError, Poison, Retryable
from headrace.contracts.signing import TrustedKeys, verify_bytes

SIGNER = "svc-train"  # the only principal whose manifests are served
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
KNOWN_ANSWER_TOLERANCE = 1e-5  # across executors, as the law of parity states


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


@dataclass(frozen=True, slots=True)
class Signed:
    """What a control record says of a model: where its manifest lies, who signed it, and the digest of its graph."""

    manifest_reference: str
    manifest_digest: str
    signature: bytes
    key_id: str
    model_digest: str


def read_manifest(signed: Signed, objects: ObjectStore, trusted: TrustedKeys) -> Manifest:
    """The verified manifest.

    Raises: Refused with the check that failed; Retryable if the object store does not answer.
    """
    if signed.key_id != SIGNER:
        raise Refused(f"manifest is signed by {signed.key_id!r}: only {SIGNER} may sign models")
    data = read_verified(objects, signed.manifest_reference, signed.manifest_digest, "manifest")
    try:
        verify_bytes(trusted, signed.key_id, data, signed.signature)
    except Poison as error:
        raise Refused(f"manifest signature: {error}") from error
    manifest = Manifest.parse(data)
    if manifest.model[1] != signed.model_digest:
        raise Refused("manifest names another model digest than the rollout")
    return manifest


def open_model(manifest: Manifest, objects: ObjectStore) -> OnnxExecutor:
    """The graph a manifest names, which gave its known answer.

    Raises: Refused; Retryable if the object store does not answer.
    """
    graph = read_verified(objects, *manifest.model, "model")
    executor = OnnxExecutor(manifest.model[1], _session(graph, len(manifest.columns)))
    try:
        check_scores("model", executor.scores(manifest.known_rows), manifest)
    except Retryable as error:  # an executor that fails on its own known answer will fail on requests
        raise Refused(f"model does not execute: {error}") from error
    return executor


def read_verified(objects: ObjectStore, reference: str, digest: str, what: str) -> bytes:
    """Bytes by their digest. Raises: Refused if they are other bytes; Retryable if the store does not answer."""
    try:
        return objects.get(reference, digest)
    except Poison as error:
        raise Refused(f"{what} {reference}: {error}") from error


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


def check_scores(what: str, scores: NDArray[np.float64], manifest: Manifest) -> None:
    """Raises: Refused if the scores of the known rows are not the signed ones."""
    difference = float(np.max(np.abs(scores - manifest.known_scores)))
    if not difference <= KNOWN_ANSWER_TOLERANCE:
        raise Refused(f"{what}: known answer differs by {difference:g}, allowed is {KNOWN_ANSWER_TOLERANCE:g}")
