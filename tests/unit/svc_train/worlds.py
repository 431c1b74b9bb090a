"""A tiny trade: one plan, data sets made by a known rule, and a runs table in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.records import DatasetBuilt, TrainingRequested
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, Field, Input, Label, Model, Plan, Rollout, Watch
from svc_train.ports import LeaseLost, Message, Run

HOUR, DAY_MS = 3_600_000, 86_400_000
PIPELINE, MODEL = "shop", "late"
COLUMNS = ("amount", "hour")


def a_plan(pipeline: str = PIPELINE, **parameters: str) -> Plan:
    trainer = {"rounds": "15", "min_child_weight": "5", "max_depth": "3", **parameters}
    event = EventType(
        name="orders", record="Ordered", topic=f"{pipeline}.orders.v1", key="order_id", time="ordered_at",
        fields=(Field("order_id", "string"), Field("ordered_at", "timestamp"), Field("amount", "long"), Field("hour", "long")),
        lateness_ms=HOUR, poison_bound_ms=HOUR,
    )  # fmt: skip
    model = Model(
        name=MODEL, request="orders", sample_bp=10_000, routing_key="order_id", request_id="order_id", when=None,
        label=Label("orders", "amount > 5", "order_id", DAY_MS),
        inputs=tuple(Input(c, "request", expression=c) for c in COLUMNS),
        trainer="gradient_boosting", trainer_parameters=tuple(sorted(trainer.items())), threshold="0.5", gate=(),
        deadline_ms=50,
        rules="amount > 30", rules_score="amount", default_decision=False, explain_top=2, rollout=Rollout((50, 100), 5),
        watch=Watch(("amount",), 7 * DAY_MS, 200, 500), owner="ops",
    )  # fmt: skip
    return sealed(Plan(pipeline, "ops", (event,), (), (), (model,)))


def a_request(plan: Plan, trigger: str = "person-1") -> TrainingRequested:
    return TrainingRequested(
        trigger_id=trigger, trigger_kind="person", pipeline=plan.pipeline, model=MODEL, plan_hash=plan.hash, requested_by="ada",
        from_ms=0, until_ms=20 * DAY_MS, requested_ms=1,
    )  # fmt: skip


def a_frame(rows: int = 600, days: int = 20, seed: int = 1) -> pl.DataFrame:
    """Labels follow the amount, noisily; a tenth of the amounts is missing."""
    rng = np.random.default_rng(seed)
    amount = rng.normal(size=rows).astype(np.float32)
    label = amount + rng.normal(scale=0.5, size=rows) > 0
    seen = [None if gone else float(a) for a, gone in zip(amount, rng.random(rows) < 0.1, strict=True)]
    return pl.DataFrame(
        {
            "amount": pl.Series(seen, dtype=pl.Float32),
            "hour": (np.arange(rows) % 24).astype(np.float32),
            "label": label,
            "rule_score": seen,
            "day": np.arange(rows) * days // rows,
        }
    )


def a_dataset(objects: FolderObjectStore, frame: pl.DataFrame, request_id: str, plan: Plan) -> DatasetBuilt:
    body = BytesIO()
    frame.write_parquet(body)
    stored = objects.put(body.getvalue(), ".parquet")
    profile = objects.put(b"{}", ".json")
    return DatasetBuilt(
        request_id=request_id, pipeline=plan.pipeline, model=MODEL, plan_hash=plan.hash, ok=True, reference=stored.reference,
        digest=stored.digest, content_checksum=hashlib.sha256(b"rows").hexdigest(), rows=len(frame), columns=COLUMNS,
        profile_reference=profile.reference, profile_digest=profile.digest,
    )  # fmt: skip


def lay_out_job(folder: Path, frame: pl.DataFrame, **parameters: str) -> None:
    """A job's folder without the service."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / "data.parquet")
    job = {
        "run_id": "r" * 64,
        "columns": list(COLUMNS),
        "parameters": {"rounds": "15", "min_child_weight": "5", **parameters},
        "threshold": "0.5",
        "threads": 1,
        "tracking_url": f"sqlite:///{folder.parent}/mlflow.db",
        "experiment": "shop/late",
        "tags": {"dataset_checksum": "c" * 64, "code_digest": "d" * 64, "dataset_digest": "e" * 64},
    }
    (folder / "job.json").write_text(json.dumps(job))


@dataclass
class MemoryJobs:
    """The runs table as a naive dictionary; leases end when told."""

    runs: dict[str, Run] = field(default_factory=dict)
    leased: set[str] = field(default_factory=set)
    outbox: list[Message] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)

    async def accept(
        self, run_id: str, pipeline: str, model: str, request: dict[str, object], messages: Sequence[Message]
    ) -> bool:
        if run_id in self.runs:
            return False
        self.runs[run_id] = Run(run_id, "ACCEPTED", 0, request, None)
        self.outbox += messages
        return True

    async def lease(self, lease_s: float, dataset_timeout_s: float) -> Run | None:
        for run in self.runs.values():
            waits = run.state == "DATASET" and run.dataset is None and dataset_timeout_s > 0
            if run.state in ("ACCEPTED", "DATASET", "TRAINING") and run.run_id not in self.leased and not waits:
                self.leased.add(run.run_id)
                self.runs[run.run_id] = replace(run, fence=run.fence + 1)
                return self.runs[run.run_id]
        return None

    async def renew(self, run: Run, lease_s: float) -> None:
        self._fence(run)

    async def change(self, run: Run, state: str, detail: str, messages: Sequence[Message], *, keep_lease: bool = False) -> None:
        self._fence(run)
        self.runs[run.run_id] = replace(self.runs[run.run_id], state=state)
        self.details[run.run_id] = detail
        self.outbox += messages
        if not keep_lease:
            self.leased.discard(run.run_id)

    async def deliver_dataset(self, run_id: str, dataset: dict[str, object]) -> bool:
        run = self.runs.get(run_id)
        if run is None or run.dataset is not None:
            return False
        self.runs[run_id] = replace(run, dataset=dataset)
        return True

    async def unsent(self, limit: int = 100) -> list[tuple[int, Message]]:
        return list(enumerate(self.outbox))

    async def sent(self, numbers: Sequence[int]) -> None:
        self.outbox = [m for n, m in enumerate(self.outbox) if n not in numbers]

    async def listing(self, limit: int = 50) -> list[dict[str, object]]:
        return []

    def _fence(self, run: Run) -> None:
        if self.runs[run.run_id].fence != run.fence:
            raise LeaseLost("taken over")
