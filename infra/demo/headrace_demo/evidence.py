"""What the run left behind, read back: archive, dead letters, audit, traces. Figures are made of this, not of what was sent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import polars as pl
from deltalake import DeltaTable

from headrace.chassis.bus import Bus
from headrace.client.letters import SUFFIX, read_letters
from headrace.contracts.audit import Head, read_export, verify_chain
from headrace.contracts.catalogue import predictions_topic
from headrace.contracts.codec import Codec
from headrace.contracts.signing import TrustedKeys

PARITY_TIMEOUT_S = 300.0
LATE_MINUTES = 15  # the label: arr_delay > 15
SERVICES_OF_A_TRACE = ("svc-ingest", "svc-stream", "svc-serve", "svc-monitor")
_PASSPORT = [
    "request_id", "t_ms", "decision_source", "arm", "epoch", "model_digest", "score", "rule_score", "decision", "trace_id",
    "request_append_ms", "append_ms", "door",
]  # fmt: skip


def archived(lake: Path, topic: str, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of a topic's archive; what the table lacks is left out. Raises FileNotFoundError if there is no such table."""
    folder = lake / topic
    if not DeltaTable.is_deltatable(str(folder)):
        raise FileNotFoundError(f"no archive of {topic} in {lake}")
    dataset = DeltaTable(str(folder)).to_pyarrow_dataset()
    names = set(dataset.schema.names)
    frame = pl.from_arrow(dataset.to_table(columns=[name for name in columns if name in names]))
    assert isinstance(frame, pl.DataFrame)
    return frame


def count_archived(lake: Path, topic: str) -> int:
    """Rows in a topic's archive; 0 if there is none yet."""
    folder = lake / topic
    return DeltaTable(str(folder)).to_pyarrow_dataset().count_rows() if DeltaTable.is_deltatable(str(folder)) else 0


def passports(lake: Path, pipeline: str) -> pl.DataFrame:
    """One row per archived passport."""
    frame = archived(lake, predictions_topic(pipeline), _PASSPORT)
    return frame.with_columns(pl.col("decision_source").str.to_lowercase(), pl.col("door").str.to_lowercase())


def outcomes(lake: Path) -> pl.DataFrame:
    """flight_id, late: the first outcome per flight; cancelled and diverted flights have none."""
    rows = archived(lake, "flights.arrivals.v1", ["flight_id", "outcome", "arr_delay", "decodable", "part", "off"])
    first = rows.filter(pl.col("decodable")).sort("off").unique("flight_id", keep="first", maintain_order=True)
    arrived = first.filter((pl.col("outcome") == "arrived") & pl.col("arr_delay").is_not_null())
    return arrived.select("flight_id", late=pl.col("arr_delay") > LATE_MINUTES)


def auc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Probability that a late flight ranks above a punctual one, ties half; None if one kind is missing.

    Source: Mann and Whitney 1947; midranks.
    """
    late = int(truth.sum())
    if not late or late == len(truth):
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    midranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((midranks[truth].sum() - late * (late + 1) / 2) / (late * (len(truth) - late)))


@dataclass(frozen=True, slots=True)
class MonthAuc:
    """Of decisions a model made in a month it was not trained on; the rule on the same rows."""

    month: str
    labelled: int
    model: float | None
    rule: float | None


def auc_by_month(decisions: pl.DataFrame, late: pl.DataFrame, trained_until: Mapping[str, int]) -> list[MonthAuc]:
    """Months of request time, UTC. trained_until: by model digest, ms UTC; decisions before it are left out."""
    until = [trained_until.get(digest or "", 0) for digest in decisions["model_digest"]]
    scored = decisions.with_columns(until=pl.Series(until, dtype=pl.Int64)).filter(
        pl.col("score").is_not_null() & pl.col("rule_score").is_not_null() & (pl.col("t_ms") >= pl.col("until"))
    )
    joined = scored.join(late, left_on="request_id", right_on="flight_id").with_columns(
        month=pl.from_epoch("t_ms", time_unit="ms").dt.strftime("%Y-%m")
    )
    found = []
    for (month,), part in sorted(joined.group_by(["month"]), key=lambda item: str(item[0][0])):
        truth = part["late"].to_numpy()
        found.append(
            MonthAuc(str(month), len(truth), auc(part["score"].to_numpy(), truth), auc(part["rule_score"].to_numpy(), truth))
        )
    return found


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """{p50, p99}, nearest rank; empty without values."""
    if not len(values):
        return {}
    ranked = np.sort(np.asarray(values, dtype=float))
    return {f"p{q}": round(float(ranked[min(len(ranked) - 1, int(np.ceil(q / 100 * len(ranked))) - 1)]), 1) for q in (50, 99)}


def dead_letters(bus: Bus, codec: Codec, topics: Sequence[str]) -> Counter[str]:
    """Letters by reason in the dead-letter topics among these."""
    found: Counter[str] = Counter()
    for topic in topics:
        if topic.endswith(SUFFIX):
            found.update(letter.record.reason for letter in read_letters(bus, codec, topic))
    return found


def parity(lake: Path, plan: Path, root: Path) -> dict[str, Any]:
    """All decisions recomputed from the archive in a process of its own. Raises RuntimeError if it cannot be judged."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(str(root / name / "src") for name in ("svc-features", "schemas")))
    command = [sys.executable, "-m", "svc_features.parity", "--lake", str(lake), "--plan", str(plan), "--wait-s", "60"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PARITY_TIMEOUT_S, env=env)
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise RuntimeError(f"parity ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    return orjson.loads(done.stdout)


def audit(export: Path, heads: Path, trusted: Path) -> dict[str, Any]:
    """The exported chain against itself and against the heads kept outside."""
    kept = [Head.from_json(line) for line in heads.read_text().splitlines() if line.strip()] if heads.exists() else []
    with export.open(encoding="utf-8") as lines:
        entries = read_export(lines)
    public = TrustedKeys(trusted).public("svc-governance")
    verdict = verify_chain(entries, kept, public) if public is not None and kept else verify_chain(entries)
    return {"entries": len(entries), "verified": verdict.ok, "heads": verdict.heads if kept else 0, "problem": verdict.problem}


def trace(zipkin: str, trace_id: str) -> list[dict[str, Any]]:
    """Spans of a trace as the trace store has them, by start; empty if it does not know it."""
    try:
        answer = httpx.get(f"{zipkin}/api/v2/trace/{trace_id}", timeout=10.0, trust_env=False)
    except httpx.TransportError:
        return []
    return sorted(answer.json(), key=lambda span: span.get("timestamp", 0)) if answer.status_code == 200 else []


def services_of(spans: Sequence[Mapping[str, Any]]) -> set[str]:
    return {span.get("localEndpoint", {}).get("serviceName", "") for span in spans}
