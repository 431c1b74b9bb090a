"""A tiny real model: XGBoost trained here, as ONNX and native bytes, with a manifest as svc-train signs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import orjson
import xgboost as xgb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnxmltools.convert import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from headrace.chassis.objects import ObjectStore
from headrace.contracts.records import ArmServed
from headrace.contracts.signing import sign_bytes
from headrace.plan.ir import Model, Plan


@dataclass(frozen=True)
class Trained:
    """onnx and native hold the same trees; rows and scores are its known answer."""

    onnx: bytes
    native: bytes
    rows: list[list[float]]
    scores: list[float]


@lru_cache(maxsize=8)
def trained(width: int, seed: int = 0, rounds: int = 5) -> Trained:
    """A model of `width` inputs; another seed, another model."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, width)).astype(np.float32) * 10
    y = (x[:, seed % width] + rng.normal(size=200) > 0).astype(np.int64)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "base_score": 0.5}
    names = [f"f{at}" for at in range(x.shape[1])]  # as svc-train names them
    booster = xgb.train(parameters, xgb.DMatrix(x, y, feature_names=names, nthread=1), rounds)
    graph = convert_xgboost(booster, initial_types=[("input", FloatTensorType([None, width]))])
    assert isinstance(graph, onnx.ModelProto)
    scores = booster.predict(xgb.DMatrix(x[:4], feature_names=names, nthread=1)).tolist()
    return Trained(graph.SerializeToString(), bytes(booster.save_raw("ubj")), x[:4].tolist(), scores)


def stored(
    objects: ObjectStore, key: Ed25519PrivateKey, plan: Plan, model: Model, made: Trained,
    *, name: str = "champion", weight: int = 10_000, manifest: Mapping[str, Any] | None = None, onnx_bytes: bytes | None = None,
) -> ArmServed:  # fmt: skip
    """Put artefacts and signed manifest into the store; `manifest` overrides its parts, `onnx_bytes` the graph."""
    graph, native = objects.put(onnx_bytes or made.onnx, ".onnx"), objects.put(made.native, ".ubj")
    used = {c.feature_set for c in model.inputs if c.feature_set}
    content: dict[str, Any] = {
        "pipeline": plan.pipeline,
        "model": model.name,
        "columns": [c.name for c in model.inputs],
        "sets": {s.name: s.hash for s in plan.feature_sets if s.name in used},
        "onnx": {"reference": graph.reference, "digest": graph.digest},
        "native": {"reference": native.reference, "digest": native.digest},
        "known_answer": {"rows": made.rows, "scores": made.scores},
    } | dict(manifest or {})
    data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    at = objects.put(data, ".json")
    return ArmServed(
        name=name, weight=weight, manifest_reference=at.reference, manifest_digest=at.digest, model_digest=graph.digest,
        signature=sign_bytes(key, data), signature_key_id="svc-train",
    )  # fmt: skip


def with_graph(made: Trained, change: Sequence[str]) -> bytes:
    """The graph spoiled in a named way."""
    proto = onnx.load_model_from_string(made.onnx)
    for what in change:
        if what == "foreign operator":
            proto.graph.node.append(onnx.helper.make_node("Shell", ["input"], ["never"], domain="com.example"))
        elif what == "foreign operator in a branch":
            inner = onnx.helper.make_graph([onnx.helper.make_node("Shell", [], ["y"], domain="com.example")], "then", [], [])
            proto.graph.node.append(onnx.helper.make_node("If", ["input"], ["never"], then_branch=inner, else_branch=inner))
        elif what == "external data":
            tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
            tensor.external_data.add(key="location", value="/etc/passwd")
            proto.graph.initializer.append(tensor)
        elif what == "external data in a constant":
            tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
            tensor.external_data.add(key="location", value="../../etc/passwd")
            proto.graph.node.append(onnx.helper.make_node("Constant", [], ["never"], value=tensor))
        else:
            raise AssertionError(what)
    return proto.SerializeToString()
