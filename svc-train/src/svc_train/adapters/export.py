"""From a native booster to ONNX."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import xgboost as xgb
from numpy.typing import NDArray
from onnxmltools.convert import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

OPSET = 15
GRAPH_NAME = "model"  # the converter's default is random, and would change the digest


def to_onnx(booster: xgb.Booster, width: int) -> bytes:
    """ONNX graph with one input (n, width) float32 and outputs label, probabilities (n, 2); equal bytes for equal boosters."""
    types = [("input", FloatTensorType([None, width]))]
    model = convert_xgboost(booster, GRAPH_NAME, initial_types=types, target_opset=OPSET)
    return model.SerializeToString()


def native_bytes(booster: xgb.Booster) -> bytes:
    """The booster in UBJSON: data only, nothing in it is executed on load."""
    return bytes(booster.save_raw("ubj"))


def onnx_scores(graph: bytes, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (n,) of the positive class."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[1], dtype=np.float64)[:, 1]
