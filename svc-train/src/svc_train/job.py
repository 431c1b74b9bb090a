"""One training job in a process of its own: `python -m svc_train.job FOLDER`.

Reads FOLDER/job.json and data.parquet (and champion.onnx if there is one), writes model.onnx, model.ubj and
result.json. The service stays responsive meanwhile, and a killed job leaves nothing half done.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl

from svc_train.adapters.export import native_bytes, onnx_scores, to_onnx
from svc_train.adapters.tracking import record
from svc_train.domain.evaluate import PARITY_ROWS, auc, export_parity, log_loss
from svc_train.domain.fit import MAX_BIN, fit, parameters_of, scores
from svc_train.domain.manifest import known_answer
from svc_train.domain.rows import rows_of, split_by_day

KNOWN_ROWS = 8


def run(folder: Path) -> None:
    """Train, judge on the newest days, train again on all days, export, compare, record."""
    job = json.loads((folder / "job.json").read_text())
    rows = rows_of(pl.read_parquet(folder / "data.parquet"), job["columns"])
    parameters, threads = parameters_of(job["parameters"]), int(job["threads"])
    older, newer = split_by_day(rows, float(parameters["validation_share"]))
    judged = scores(fit(older, parameters, threads), newer.x)
    champion = folder / "champion.onnx"
    metrics = {
        "auc": auc(newer.y, judged),
        "logloss": log_loss(newer.y, judged),
        "rule_auc": auc(newer.y, newer.rule_score),
        "champion_auc": auc(newer.y, onnx_scores(champion.read_bytes(), newer.x)) if champion.exists() else math.nan,
        "training_rows": float(len(older)),
        "validation_rows": float(len(newer)),
    }
    booster = fit(rows, parameters, threads)  # what is served has seen the newest days too
    graph = to_onnx(booster, rows.x.shape[1])
    sample = rows.x[np.linspace(0, len(rows) - 1, min(PARITY_ROWS, len(rows)), dtype=int)]
    native, exported = scores(booster, sample), onnx_scores(graph, sample)
    parity = export_parity(native, exported, float(job["threshold"]))
    metrics |= {
        "parity_rows": float(parity.rows),
        "parity_max_difference": parity.max_difference,
        "parity_decisions_differing": float(parity.decisions_differing),
    }
    (folder / "model.onnx").write_bytes(graph)
    (folder / "model.ubj").write_bytes(native_bytes(booster))
    # with threads and bins the fit is repeated to the bit
    told = {**parameters, "threads": str(threads), "max_bin": str(MAX_BIN)}
    tags = {**job["tags"], "model_digest": hashlib.sha256(graph).hexdigest()}
    tracking_id = record(job["tracking_url"], job["experiment"], job["run_id"][:12], told, metrics, tags)
    known = known_answer(sample[:KNOWN_ROWS].tolist(), exported[:KNOWN_ROWS].tolist())
    result = {"metrics": metrics, "parity_ok": parity.ok, "known_answer": known, "tracking_id": tracking_id, "rows": len(rows)}
    (folder / "result.json").write_text(json.dumps(result))


def end_with_service() -> None:
    """The service holds our stdin: when it ends, the service has died, and nobody will take the result."""
    while os.read(0, 1):  # unbuffered: a reader's lock would be in the way of an orderly exit
        pass
    os._exit(1)


def main() -> None:
    """One job, by its folder; exits with 1 and the reason where the data or the declaration are at fault."""
    threading.Thread(target=end_with_service, daemon=True).start()
    try:
        run(Path(sys.argv[1]))
    except ValueError as error:  # the reason, without a traceback
        sys.exit(str(error))


if __name__ == "__main__":
    main()
