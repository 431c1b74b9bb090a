"""Continuous proof: round after round a sample of the newest decisions is recomputed, in a process of its own.

    new passports in the lake --> proving (process) --> findings published --> positions saved --> rest
A round that dies, or whose findings are not taken, is done again from the saved positions: a finding has the same id then.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from headrace.chassis.clock import Clock
from headrace.chassis.logs import logger
from headrace.contracts.audit import canonical_json
from headrace.contracts.catalogue import FINDINGS
from headrace.contracts.errors import Retryable
from headrace.contracts.records import FindingRaised, Severity
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from headrace.plan.topics import predictions_topic
from svc_features import proving
from svc_features.archive import Reached
from svc_features.domain.gains import sums
from svc_features.jobs import Ended, run_module
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics

ROUND_TIMEOUT_S = 600.0
FINDINGS_MAX = 100  # told one by one in a round; the rest is counted in one more
KIND = "parity_mismatch"
COMPONENT = "svc-features"
_log = logger(__name__)

Publish = Callable[[str, str, Any], Awaitable[None]]
Run = Callable[[str, list[str], float], Awaitable[Ended]]


@dataclass(slots=True)
class Proven:
    """What the rounds of one pipeline have shown since this process started, and where the next one begins."""

    plan_hash: str = ""
    positions: dict[int, int] = field(default_factory=dict)
    topic_id: str = ""  # of the passports' topic the positions are of
    checked: int = 0
    values: int = 0
    unverifiable: int = 0
    other_plans: int = 0  # decisions of plans neither in force nor retained any more: `headrace parity PLAN` judges them
    differing: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)  # decisions recomputed, by the plan they name
    skew: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)  # by set, its hash, feature
    rounds: int = 0
    trouble: str = ""

    def page(self) -> dict[str, Any]:
        features: list[dict[str, Any]] = []
        for (feature_set, set_hash, feature), s in sorted(self.skew.items()):
            features.append({
                "set": feature_set, "set_hash": set_hash, "feature": feature, "compared": s["compared"],
                "differing": s["differing"], "share": s["differing"] / s["compared"] if s["compared"] else 0.0,
                "mean_difference": s["size"] / s["paired"] if s["paired"] else 0.0,
            })  # fmt: skip
        return {
            "plan_hash": self.plan_hash, "positions": {str(p): n for p, n in self.positions.items()},
            "checked": self.checked, "values": self.values,
            "unverifiable": self.unverifiable, "differing": self.differing,
            "versions": self.versions, "other_plans": self.other_plans, "rounds": self.rounds, "trouble": self.trouble,
            "lateness_skew": features,
        }  # fmt: skip


class Prover:
    """A part of the service. What goes wrong in a round is logged and tried again; it never ends the service."""

    name = "proof"

    def __init__(
        self, plans: Mapping[str, Plan], reached: Reached, settings: FeaturesSettings, metrics: FeaturesMetrics, clock: Clock,
        publish: Publish, run: Run = run_module,
    ) -> None:  # fmt: skip
        self._plans, self._reached, self._settings, self._metrics = plans, reached, settings, metrics
        self._clock, self._publish, self._run = clock, publish, run
        self._folder = settings.state_dir / "proof"
        self.proven: dict[str, Proven] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._settings.proof_sample_bp:
            self._task = asyncio.create_task(self._go_round(), name=self.name)

    async def wait(self) -> None:
        """Never ends by itself."""
        await (asyncio.shield(self._task) if self._task is not None else asyncio.Event().wait())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_round(self) -> None:
        while True:
            for plan in list(self._plans.values()):
                try:
                    await self.round(plan)
                except Exception as error:  # a bug in proving must not stop archive and readers
                    self._of(plan).trouble = f"{type(error).__name__}: {error}"
                    _log.error("proof_round_failed", pipeline=plan.pipeline, error=str(error), kind=type(error).__name__)
            await asyncio.sleep(self._settings.proof_interval_s)

    def page(self) -> dict[str, Any]:
        """By pipeline: decisions recomputed, what differs, lateness skew by feature."""
        return {name: proven.page() for name, proven in sorted(self.proven.items())}

    # -- one round

    async def round(self, plan: Plan) -> bool:
        """Prove what came since the last; False if nothing did. Raises: Retryable."""
        proven = self._of(plan)
        facts = self._reached.facts.get(predictions_topic(plan.pipeline))
        if facts is None:
            return False
        if proven.topic_id and facts.topic_id and proven.topic_id != facts.topic_id:
            proven.positions = {}  # another topic, another table: from its beginning
        proven.topic_id = facts.topic_id or proven.topic_id
        if all(proven.positions.get(p, 0) >= n for p, n in facts.positions.items()):
            return False
        started = time.monotonic()
        page = await self._prove(plan, proven)
        await self._tell(plan, page)
        self._add(plan, proven, page)
        self._save(plan.pipeline, proven)
        self._metrics.parity_seconds.observe(time.monotonic() - started)
        return True

    async def _prove(self, plan: Plan, proven: Proven) -> dict[str, Any]:
        settings = self._settings
        with tempfile.TemporaryDirectory(prefix="headrace-proof-") as name:
            folder = Path(name)
            (folder / "plan.json").write_bytes(to_json(plan))
            job = {
                "lake": str(settings.lake.absolute()), "plan": str(folder / "plan.json"),
                "kept": str((self._folder / plan.pipeline).absolute()),
                "positions": {str(p): n for p, n in proven.positions.items()}, "sample_bp": settings.proof_sample_bp,
                "passports_max": settings.proof_passports_max, "mismatches_max": FINDINGS_MAX,
                "rows_max": settings.proof_rows_max, "threads": 1, "memory_mb": settings.job_memory_mb,
            }  # fmt: skip
            (folder / "job.json").write_bytes(orjson.dumps(job))
            ended = await self._run(proving.__name__, [str(folder / "job.json")], ROUND_TIMEOUT_S)
        if ended.code:
            raise Retryable(ended.complaint)
        return orjson.loads(ended.out)

    async def _tell(self, plan: Plan, page: dict[str, Any]) -> None:
        """A finding for each disagreement, and one more per version that counts those beyond the bound."""
        for version in page["versions"]:
            made_under, told = version["plan_hash"], version["findings"]["mismatches"]
            for m in told:
                await self._publish(FINDINGS, plan.pipeline, self._finding(plan, made_under, m, m["t_ms"]))
            untold = sum(version["kinds"].values()) - len(told)
            if untold > 0:
                about = {"untold": untold, "kinds": version["kinds"], "positions": page["positions"]}
                await self._publish(FINDINGS, plan.pipeline, self._finding(plan, made_under, about, None))

    def _finding(self, plan: Plan, made_under: str, about: dict[str, Any], t_ms: int | None) -> FindingRaised:
        evidence = canonical_json({**about, "plan_hash": made_under})
        identity = "\x1f".join((COMPONENT, plan.pipeline, KIND, evidence))
        return FindingRaised(
            finding_id=hashlib.sha256(identity.encode()).hexdigest()[:32], pipeline=plan.pipeline, kind=KIND,
            severity=Severity.CRITICAL, component=COMPONENT, event_time_ms=t_ms, evidence=evidence,
            raised_ms=self._clock.now_ms(),
        )  # fmt: skip

    def _add(self, plan: Plan, proven: Proven, page: dict[str, Any]) -> None:
        proven.positions = {int(p): n for p, n in page["positions"].items()}
        proven.rounds += 1
        proven.other_plans += page["other_plans"]
        proven.trouble = ""
        for version in page["versions"]:
            self._count(plan, proven, version)
        kinds = sums([version["kinds"] for version in page["versions"]])
        _log.info(
            "proof_round", pipeline=plan.pipeline, checked=sum(v["findings"]["checked"] for v in page["versions"]),
            kinds=kinds, versions=len(page["versions"]), judged=page["judged"],
            unverifiable=sum(v["unverifiable"] for v in page["versions"]), other_plans=page["other_plans"],
        )  # fmt: skip

    def _count(self, plan: Plan, proven: Proven, version: dict[str, Any]) -> None:
        """Add what was found of the decisions of one version of the plan."""
        found, metrics = version["findings"], self._metrics
        proven.checked += found["checked"]
        proven.values += found["values"]
        proven.unverifiable += version["unverifiable"]
        by_version = proven.versions.setdefault(version["plan_hash"], 0)
        proven.versions[version["plan_hash"]] = by_version + found["checked"]
        metrics.parity_checked.labels(plan.pipeline).inc(found["checked"])
        metrics.parity_unverifiable.labels(plan.pipeline).inc(version["unverifiable"])
        for kind, count in version["kinds"].items():
            proven.differing[kind] = proven.differing.get(kind, 0) + count
            metrics.parity_differing.labels(plan.pipeline, kind).inc(count)
        in_force = {s.hash for s in plan.feature_sets}
        for s in version["skew"]:
            key = s["feature_set"], s["set_hash"], s["feature"]
            known = proven.skew.setdefault(key, {"compared": 0, "differing": 0, "size": 0.0, "paired": 0})
            known["compared"] += s["reads"]
            known["differing"] += s["reads"] - s["equal"]
            known["size"] += s["mean_difference"] * s["paired"]
            known["paired"] += s["paired"]
            if s["set_hash"] in in_force:  # an older one has the same name
                share = known["differing"] / known["compared"] if known["compared"] else 0.0
                metrics.skew.labels(plan.pipeline, s["feature_set"], s["feature"]).set(share)

    # -- where the next round begins

    def _of(self, plan: Plan) -> Proven:
        known = self.proven.get(plan.pipeline)
        if known is None:
            known = self.proven[plan.pipeline] = self._load(plan.pipeline)
        if known.plan_hash != plan.hash:
            known.plan_hash = plan.hash
        return known

    def _load(self, pipeline: str) -> Proven:
        try:
            saved = orjson.loads((self._folder / f"{pipeline}.json").read_bytes())
            positions = {int(p): int(n) for p, n in saved["positions"].items()}
            return Proven(positions=positions, topic_id=str(saved.get("topic_id", "")))
        except (OSError, ValueError, KeyError, TypeError):
            return Proven()  # from the beginning of the lake: nothing is skipped

    def _save(self, pipeline: str, proven: Proven) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / f"{pipeline}.json.new"
        positions = {str(p): n for p, n in proven.positions.items()}
        fresh.write_bytes(orjson.dumps({"positions": positions, "topic_id": proven.topic_id}))
        fresh.replace(self._folder / f"{pipeline}.json")
