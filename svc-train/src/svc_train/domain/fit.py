"""Gradient boosting with XGBoost: deterministic for given rows, parameters and thread count."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from svc_train.domain.rows import Rows

DEFAULTS: dict[str, str] = {
    "rounds": "200",
    "max_depth": "5",
    "learning_rate": "0.1",
    "min_child_weight": "20",
    "subsample": "0.8",
    "colsample": "0.8",
    "seed": "1",  # a run is repeated from its record alone
    "validation_share": "0.15",  # of the days, the newest
}
MAX_BIN = 128  # half of XGBoost's default: as good here, a third faster


def parameters_of(declared: Mapping[str, str]) -> dict[str, str]:
    """Defaults overlaid by the declaration. Raises: ValueError naming an unknown parameter."""
    unknown = sorted(declared.keys() - DEFAULTS.keys())
    if unknown:
        raise ValueError(f"unknown trainer parameters {unknown}: known are {sorted(DEFAULTS)}")
    return {**DEFAULTS, **declared}


def fit(rows: Rows, parameters: Mapping[str, str], threads: int) -> xgb.Booster:
    """Train on all rows. Inputs are named f0..fN, as the ONNX converter wants them."""
    names = [f"f{i}" for i in range(rows.x.shape[1])]
    matrix = xgb.QuantileDMatrix(rows.x, label=rows.y, feature_names=names, max_bin=MAX_BIN, nthread=threads)
    settings: dict[str, object] = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "seed": int(parameters["seed"]),
        "nthread": threads,
        "max_depth": int(parameters["max_depth"]),
        "eta": float(parameters["learning_rate"]),
        "min_child_weight": float(parameters["min_child_weight"]),
        "subsample": float(parameters["subsample"]),
        "colsample_bytree": float(parameters["colsample"]),
        "max_bin": MAX_BIN,
    }
    return xgb.train(settings, matrix, num_boost_round=int(parameters["rounds"]))


def scores(booster: xgb.Booster, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (n,) of the native model."""
    return booster.predict(xgb.DMatrix(x, feature_names=[f"f{i}" for i in range(x.shape[1])])).astype(np.float64)
