"""A small world for governance: one plan, people, candidates, and a writer on the in-memory bus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.bus import Consumer, Record, TopicPartition
from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.clock import ManualClock
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.records import (
    AckStatus,
    FindingRaised,
    ModelTrained,
    PlanAcknowledged,
    RolloutAckStatus,
    RolloutApplied,
    RolloutJudged,
    RunState,
    Severity,
    TrainingRunChanged,
    Verdict,
)
from headrace.contracts.registry import MemoryRegistry
from headrace.contracts.signing import TrustedKeys, load_private, sign_bytes, write_key_pair
from headrace.plan.hashes import sealed
from headrace.plan.ir import (
    EventType,
    Feature,
    FeatureSet,
    Field,
    Input,
    Label,
    Measure,
    Model,
    Plan,
    Rollout,
    Term,
    Watch,
)
from svc_governance.adapters.heads import HeadsFile
from svc_governance.adapters.journal import KafkaJournal
from svc_governance.adapters.manifests import StoredManifests
from svc_governance.adapters.resources import KafkaResources
from svc_governance.chain import Extension
from svc_governance.domain.candidates import approve, on_candidate
from svc_governance.domain.facts import Decision
from svc_governance.domain.gate import ManifestEvidence
from svc_governance.domain.people import Caller, People, Role
from svc_governance.domain.pipelines import admit
from svc_governance.domain.state import State
from svc_governance.domain.training import TrainingOrder, request_training
from svc_governance.handlers import Handlers
from svc_governance.telemetry import Telemetry
from svc_governance.writer import Outcome, Writer

HOUR = 3_600_000
NOW = 1_700_000_000_000
HOLD = 60_000
PIPELINE, MODEL = "shop", "returns"
PEOPLE = People(
    {
        "ada": frozenset({Role.PROPOSER}),
        "grace": frozenset({Role.APPROVER}),
        "both": frozenset({Role.PROPOSER, Role.APPROVER}),
        "ops": frozenset({Role.OPERATOR, Role.PROPOSER}),
    }
)


def by(actor: str, now_ms: int = NOW) -> Caller:
    return Caller(PEOPLE, actor, now_ms)


def a_model(steps: tuple[int, ...] = (5, 20, 100), retrain: bool = True) -> Model:
    return Model(
        name=MODEL,
        request="orders",
        sample_bp=10_000,
        routing_key="order_id",
        request_id="order_id",
        when=None,
        label=Label("returns", "late > 15", "order_id", HOUR),
        inputs=(Input("orders_1h", "feature", "store_load", "orders_1h"), Input("amount", "request", expression="amount")),
        trainer="gradient_boosting",
        trainer_parameters=(),
        threshold="0.5",
        gate=(("auc", ">= champion - 0.002"), ("parity", "exact")),
        deadline_ms=50,
        rules="orders_1h > 30",
        rules_score="orders_1h",
        default_decision=False,
        explain_top=2,
        rollout=Rollout(steps, 100),
        watch=Watch(("orders_1h",), HOUR, 200, 500, retrain),
        owner="ops",
    )


def a_plan(model: Model | None = None, window_hours: int = 1, pipeline: str = PIPELINE) -> Plan:
    text = Field("order_id", "string")
    orders = EventType(
        name="orders",
        record="Ordered",
        topic=f"{pipeline}.orders.v1",
        key="order_id",
        time="ordered_at",
        fields=(
            text,
            Field("store", "string"),
            Field("ordered_at", "timestamp"),
            Field("amount", "long", minimum=0, maximum=10_000),
        ),
        lateness_ms=HOUR,
        poison_bound_ms=HOUR,
    )
    returns = EventType(
        name="returns",
        record="Returned",
        topic=f"{pipeline}.returns.v1",
        key="order_id",
        time="returned_at",
        fields=(text, Field("returned_at", "timestamp"), Field("late", "long", minimum=0, maximum=1000)),
        lateness_ms=HOUR,
        poison_bound_ms=HOUR,
    )
    load = FeatureSet(
        name="store_load",
        entity=("store",),
        events=("orders",),
        measures=(Measure("m0", "orders", None, None, ("rows",)),),
        features=(Feature("orders_1h", (Term("m0", "count", window_hours * HOUR, HOUR),)),),
        ttl_ms=48 * HOUR,
        stale_after_ms=HOUR,
    )
    return sealed(Plan(pipeline, "ops", (orders, returns), (), (load,), (model or a_model(),)))


def a_candidate(
    candidate_id: str = "run-1", plan: Plan | None = None, metrics: Mapping[str, float] | None = None
) -> ModelTrained:
    plan = plan or a_plan()
    known = {"auc": 0.76, "champion_auc": float("nan"), "rule_auc": 0.65}
    parity = {"parity_rows": 1000.0, "parity_max_difference": 4e-7, "parity_decisions_differing": 0.0}
    return ModelTrained(
        candidate_id=candidate_id,
        pipeline=plan.pipeline,
        model=MODEL,
        plan_hash=plan.hash,
        model_hash=plan.models[0].hash,
        trigger_id=f"trigger-{candidate_id}",
        requested_by="ada",
        manifest_reference="reference",
        manifest_digest="e" * 64,
        signature=b"signed",
        key_id="svc-train",
        model_digest="d" * 64,
        dataset_digest="a" * 64,
        content_checksum="b" * 64,
        tracking_id="mlflow",
        code_digest="c" * 64,
        metrics={**known, **parity, **(metrics or {})},
        from_ms=1000,
        until_ms=2000,
    )


def a_verdict(epoch: int, verdict: Verdict, step: int = 5) -> RolloutJudged:
    return RolloutJudged(
        verdict_id=f"{MODEL}-{epoch}",
        pipeline=PIPELINE,
        model=MODEL,
        epoch=epoch,
        step=step,
        verdict=verdict,
        challenger_decisions=100,
        control_decisions=100,
        evidence="{}",
        judged_ms=NOW,
    )


def a_finding(finding_id: str = "f-1", kind: str = "drift", event_time_ms: int | None = 9000) -> FindingRaised:
    return FindingRaised(
        finding_id=finding_id,
        pipeline=PIPELINE,
        model=MODEL,
        kind=kind,
        severity=Severity.WARNING,
        component="svc-monitor",
        event_time_ms=event_time_ms,
        evidence="{}",
        raised_ms=NOW,
    )


def a_run(trigger_id: str, state: RunState, detail: str = "") -> TrainingRunChanged:
    return TrainingRunChanged(
        run_id="run", trigger_id=trigger_id, pipeline=PIPELINE, model=MODEL, state=state, fence=1, detail=detail, changed_ms=NOW
    )


def an_ack(service: str, epoch: int, status: AckStatus = AckStatus.APPLIED, detail: str = "") -> PlanAcknowledged:
    return PlanAcknowledged(
        pipeline=PIPELINE,
        epoch=epoch,
        plan_hash=a_plan().hash,
        service=service,
        instance=f"{service}-0",
        status=status,
        detail=detail,
        acknowledged_ms=NOW,
    )


def an_answer(
    epoch: int, status: RolloutAckStatus = RolloutAckStatus.APPLIED, instance: str = "0", detail: str = ""
) -> RolloutApplied:
    return RolloutApplied(
        pipeline=PIPELINE, model=MODEL, epoch=epoch, instance=instance, status=status, detail=detail, load_ms=3, applied_ms=NOW
    )


def a_manifest(plan: Plan) -> bytes:
    """What svc-train signs, as far as the gate reads it."""
    model = plan.models[0]
    names = {"pipeline": plan.pipeline, "model": model.name, "model_hash": model.hash, "onnx": {"digest": "d" * 64}}
    return json.dumps(names).encode()


GOOD_MANIFEST = ManifestEvidence(a_manifest(a_plan()), True)


@dataclass
class Story:
    """State driven by decisions, entry by entry, as the writer does."""

    extension: Extension = field(default_factory=lambda: Extension(State()))

    @property
    def state(self) -> State:
        return self.extension.state

    def tell(self, decision: Decision) -> Decision:
        self.extension = self.extension.extend(decision.facts, NOW)
        return decision

    def admitted(self, plan: Plan | None = None) -> Story:
        self.tell(admit(self.state, by("ada"), plan or a_plan()))
        return self

    def gated(self, candidate_id: str = "run-1") -> Story:
        plan = self.state.pipelines[PIPELINE].plan
        evidence = ManifestEvidence(a_manifest(plan), True)
        self.tell(on_candidate(self.state, a_candidate(candidate_id, plan), evidence))
        return self

    def approved(self, candidate_id: str = "run-1") -> Story:
        self.tell(approve(self.state, by("grace"), candidate_id, "looks right", HOLD))
        return self

    def judged(self, *verdicts: Verdict) -> Story:
        from svc_governance.domain.rollout import on_verdict

        for verdict in verdicts:
            record = self.state.rollouts[PIPELINE, MODEL].record
            self.tell(on_verdict(self.state, a_verdict(record.epoch, verdict, record.step), NOW))
        return self

    def promoted(self, candidate_id: str = "run-1") -> Story:
        return self.gated(candidate_id).approved(candidate_id).judged(Verdict.PASS, Verdict.PASS)

    def trained(self, request_id: str = "r1") -> str:
        """Ask for training; returns the trigger id."""
        order = TrainingOrder(PIPELINE, MODEL, 1000, 2000, request_id)
        self.tell(request_training(self.state, by("ada"), order))
        return order.trigger_id(self.state.pipelines[PIPELINE].plan.hash)


@dataclass
class Town:
    """A writer on the in-memory bus with real keys and an object store, run round by round."""

    folder: Path
    bus: MemoryBus = field(default_factory=MemoryBus)
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    def __post_init__(self) -> None:
        (self.folder / "private").mkdir(parents=True, exist_ok=True)
        (self.folder / "trusted").mkdir(exist_ok=True)
        for name in ("svc-governance", "svc-train", "ada", "grace", "ops", "mallory"):
            trusted = self.folder / ("trusted" if name != "mallory" else "private")
            if not self.key_path(name).exists():
                write_key_pair(self.key_path(name), trusted / f"{name}.pub")
        self.trusted = TrustedKeys(self.folder / "trusted")
        self.codec = Codec(self.registry)
        self.objects = FolderObjectStore(self.folder / "objects")

    def key_path(self, name: str) -> Path:
        return self.folder / "private" / f"{name}.pem"

    def key(self, name: str) -> Ed25519PrivateKey:
        return load_private(self.key_path(name))

    @property
    def heads_path(self) -> Path:
        return self.folder / "heads.jsonl"

    def writer(self) -> Writer:
        private = self.key("svc-governance")
        return Writer(
            bus=self.bus,
            journal=KafkaJournal(self.bus, self.codec, private),
            handlers=Handlers(self.codec, StoredManifests(self.objects, self.trusted)),
            resources=KafkaResources(self.bus, self.codec),
            private=private,
            heads=HeadsFile(self.heads_path),
            clock=self.clock,
            telemetry=Telemetry(),
        )

    def opened(self) -> Writer:
        writer = self.writer()
        writer.open()
        return writer

    def signed_candidate(self, candidate_id: str = "run-1", **changes: object) -> ModelTrained:
        """A candidate whose manifest lies in the store and is signed by svc-train."""
        content = a_manifest(a_plan())
        stored = self.objects.put(content, ".json")
        candidate = replace(
            a_candidate(candidate_id),
            manifest_reference=stored.reference,
            manifest_digest=stored.digest,
            signature=sign_bytes(self.key("svc-train"), content),
        )
        return replace(candidate, **changes)  # type: ignore[arg-type]

    def send(self, topic: str, *records: AvroRecord | bytes) -> None:
        producer = self.bus.producer("test")
        for record in records:
            value = record if isinstance(record, bytes) else self.codec.encode(topic, record)
            producer.produce(topic, value, b"key")
        producer.flush(1.0)

    def read(self, topic: str) -> list[Record]:
        """Everything committed on partition 0."""
        consumer: Consumer = self.bus.consumer(None, "test")
        consumer.assign({TopicPartition(topic, 0): -2})
        found: list[Record] = []
        while records := consumer.consume(1000, 0.0):
            found += records
        consumer.close()
        return found


def command(writer: Writer, decide) -> Outcome:
    """Submit and run one round."""
    answer = writer.submit(decide)
    writer.round()
    return answer.result(0)
