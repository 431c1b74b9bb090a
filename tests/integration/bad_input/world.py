"""The platform seen from outside: how the bad-input table knocks at each door, and how it sees the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import fastavro
import httpx
import orjson
from confluent_kafka import Message, Producer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.bus import Consumer, Delivered, Record, TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.client.governance import AUDIENCE, GovernanceClient, Refused
from headrace.contracts.catalogue import FINDINGS, PLAN_ACKS, ROLLOUT_ACKS, ROLLOUTS, dlq_topic, late_topic, predictions_topic
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.errors import Poison
from headrace.contracts.events import EventSchema
from headrace.contracts.records import (
    ArmServed,
    FindingRaised,
    PlanAcknowledged,
    PredictionMade,
    RecordRejected,
    RolloutApplied,
    RolloutChanged,
    RolloutState,
)
from headrace.contracts.registry import ConfluentRegistry
from headrace.contracts.signing import load_private, sign_control, token
from headrace.contracts.wire import frame, plain, write_body
from headrace.declare import compile, load
from headrace.plan.avro import event_schema
from headrace.plan.hashes import to_json
from headrace_local import Stack
from headrace_local.stack import clone_root

PATIENCE_S = 60.0  # of a loaded machine; nothing here takes more than seconds
EARLIEST = -2
VALUE_BYTES_MAX = 2_000_000  # of our own producer: the broker is to say no, not the client
LEAVES_MS = 1_370_088_000_000  # 2013-06-01T12:00:00Z
HOUR_MS = 3_600_000
STRANGER = "ZZZ"  # origin, carrier and tail of everything that must not reach the feature state
FOLLOWERS = ("svc-ingest", "svc-serve", "svc-stream")

PIPELINE, MODEL = "flights", "late_arrival"
KEY = f"{PIPELINE}/{MODEL}"
DEPARTURES = f"{PIPELINE}.departures.v1"
SCHEDULED = f"{PIPELINE}.scheduled.v1"

Row = dict[str, Any]
R = TypeVar("R", bound=AvroRecord)


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until it is so. Raises: AssertionError naming what did not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"it did not come in {PATIENCE_S:g} s: {what}"
        time.sleep(0.1)


class Tail:
    """Every committed record of a topic."""

    def __init__(self, consumer: Consumer, topic: str, partitions: int) -> None:
        self._consumer, self.records = consumer, list[Record]()
        self._partitions = [TopicPartition(topic, p) for p in range(partitions)]
        self._consumer.assign(dict.fromkeys(self._partitions, EARLIEST))

    def read(self) -> list[Record]:
        """All there is as of now: up to the ends the broker names."""
        ends = {p: self._consumer.watermarks(p)[1] for p in self._partitions}
        deadline = time.monotonic() + PATIENCE_S
        while any((self._consumer.position(p) or 0) < end for p, end in ends.items()):
            assert time.monotonic() < deadline, f"{ends} not reached in {PATIENCE_S:g} s"
            self.records += self._consumer.consume(500, 0.05)
        return self.records

    def close(self) -> None:
        self._consumer.close()


@dataclass(frozen=True)
class Judged:
    """A dead letter or late record beside the bytes it is about."""

    letter: RecordRejected
    topic: str


class World:
    """A running stack with the flights pipeline in force."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        env = stack.service_env("svc-governance")
        self.keys = Path(env["HEADRACE_KEY_FILE"]).parent
        self.drop = stack.layout.home / "drop" / PIPELINE / "flights-weather"
        self.plan = compile(load(clone_root() / "schemas" / "pipelines" / PIPELINE))
        self.bus = ConfluentBus(stack.bootstrap)
        self.registry = ConfluentRegistry(stack.registry_url)
        self.codec = Codec(self.registry)
        self.schemas = {e.name: event_schema(self.plan, e) for e in self.plan.events}
        self.http = httpx.Client(timeout=30.0, trust_env=False)
        self.sent: set[tuple[str, int, int]] = set()  # records of event topics that must become letters
        self.good_departures = 0
        self.epochs = count(6)
        self._client = Producer(
            {"bootstrap.servers": stack.bootstrap, "message.max.bytes": VALUE_BYTES_MAX, "partitioner": "murmur2_random"}
        )
        self._tails: dict[str, Tail] = {}

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
        self.http.close()

    # Doors

    def key(self, principal: str) -> Ed25519PrivateKey:
        return load_private(self.keys / f"{principal}.pem")

    def governance(self, principal: str = "") -> GovernanceClient:
        return GovernanceClient(self.stack.url("svc-governance"), principal, self.key(principal) if principal else None)

    def admit(self) -> None:
        """Put the flights in force and wait for the services that are here."""
        with self.governance("ada") as client:
            eventually(lambda: self._applied(client), "the plan in force")
            eventually(lambda: not {*FOLLOWERS} & {*client.pipeline(PIPELINE)["waiting"]}, "answers to the plan")
            assert client.pipeline(PIPELINE)["parked"] == []

    def _applied(self, client: GovernanceClient) -> bool:
        """False while the registry is too busy to take the schemas."""
        try:
            client.apply(to_json(self.plan))
        except Refused as refusal:
            if refusal.status != 503:
                raise
            return False
        return True

    def post(self, service: str, path: str, body: bytes, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(self.stack.url(service) + path, content=body, headers=named)

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = b"bad",
        partition: int = -1,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Delivered:
        """Write past every service, straight into the log."""
        landed: list[Delivered] = []

        def told(error: object, message: Message) -> None:
            assert error is None, error
            landed.append(Delivered(topic, message.partition() or 0, message.offset() or 0))

        self._client.produce(topic, value, key, partition, on_delivery=told, headers=list(headers))
        self._client.flush(20)
        return landed[0]

    # What lies in topics

    def records(self, topic: str) -> list[Record]:
        tail = self._tails.get(topic)
        if tail is None:
            partitions = self.bus.admin().partitions(topic)
            assert partitions, f"{topic} does not exist"
            tail = self._tails[topic] = Tail(self.bus.consumer(None, f"test-{topic}"), topic, partitions)
        return tail.read()

    def decoded(self, topic: str, kind: type[R]) -> list[R]:
        """Readable records of a topic; what the table itself made unreadable is left out."""
        found: list[R] = []
        for record in self.records(topic):
            try:
                found.append(self.codec.decode(record.value, kind))
            except Poison:
                continue
        return found

    def letters(self) -> list[Judged]:
        """Every dead letter and late record of the event topics."""
        topics = [late_topic(PIPELINE), *(dlq_topic(e.topic, g) for e in self.plan.events for g in FOLLOWERS)]
        return [Judged(letter, topic) for topic in topics for letter in self.decoded(topic, RecordRejected)]

    def letter_of(self, at: Delivered, topics: tuple[str, ...]) -> RecordRejected:
        """The one letter of a record. Raises: AssertionError if there are several, or none in time."""
        place = (at.topic, at.partition, at.offset)
        found: list[RecordRejected] = []

        def seen() -> bool:
            letters = [x for topic in topics for x in self.decoded(topic, RecordRejected)]
            found[:] = [x for x in letters if (x.topic, x.partition, x.offset) == place]
            return bool(found)

        eventually(seen, f"letter of {place} in {topics}")
        assert len(found) == 1, f"{len(found)} letters of {place}"
        return found[0]

    def refusals_of(self, at: Delivered, services: tuple[str, ...]) -> dict[str, str]:
        """Reason by service of the findings that name a control record."""
        place = (at.topic, at.partition, at.offset)
        found: dict[str, str] = {}

        def seen() -> bool:
            for finding in self.decoded(FINDINGS, FindingRaised):
                facts = orjson.loads(finding.evidence)
                if finding.kind == "control_refused" and (facts["topic"], facts["partition"], facts["offset"]) == place:
                    found[finding.component] = facts["reason"]
            return found.keys() >= {*services}

        eventually(seen, f"findings of {services} about {place}")
        return found

    def answer_to(self, epoch: int) -> RolloutApplied:
        """What svc-serve said about a rollout."""
        found: list[RolloutApplied] = []

        def seen() -> bool:
            found[:] = [a for a in self.decoded(ROLLOUT_ACKS, RolloutApplied) if a.epoch == epoch]
            return bool(found)

        eventually(seen, f"answer to rollout {epoch}")
        return found[-1]

    def plan_answers(self, pipeline: str) -> dict[str, PlanAcknowledged]:
        found: dict[str, PlanAcknowledged] = {}

        def seen() -> bool:
            found.update({a.service: a for a in self.decoded(PLAN_ACKS, PlanAcknowledged) if a.pipeline == pipeline})
            return found.keys() >= {*FOLLOWERS}

        eventually(seen, f"answers to {pipeline}")
        return found

    def passport(self, request_id: str) -> PredictionMade:
        found: list[PredictionMade] = []

        def seen() -> bool:
            passports = self.decoded(predictions_topic(PIPELINE), PredictionMade)
            found[:] = [p for p in passports if p.request_id == request_id]
            return bool(found)

        eventually(seen, f"passport of {request_id}")
        assert len(found) == 1
        return found[0]

    # What is in force

    def table(self) -> dict[str, Any]:
        """svc-serve's routing table."""
        status = self.http.get(self.stack.url("svc-serve") + "/v1/status").raise_for_status().json()
        return {name: status["models"][KEY][name] for name in ("epoch", "arms")}

    def verdicts(self) -> dict[str, dict[str, int]]:
        """Verdicts on departures by feature set."""
        page = self.http.get(self.stack.url("svc-stream") + "/v1/status").raise_for_status().json()
        return {name: shown["verdicts"].get("departures", {}) for name, shown in page.items()}

    def accepted(self) -> int:
        """Departures in the state of every feature set that reads them."""
        reading = sum("departures" in s.events for s in self.plan.feature_sets)
        counts = [shown["ok"] for shown in self.verdicts().values() if shown.get("ok")]
        return min(counts) if len(counts) == reading else 0

    # Records to send

    def framed(self, event: str, row: Row) -> bytes:
        """A row on the wire, whatever values it holds: no declared range is looked at."""
        schema = self.schemas[event]
        return frame(self.codec.register_event(schema), write_body(parsed(schema), row))

    def signed(self, record: AvroRecord, signer: str = "svc-governance", topic: str = ROLLOUTS, key: str = KEY) -> bytes:
        """A control record signed for one topic and key by a principal of this stack."""
        envelope = sign_control(self.key(signer), signer, topic, key, self.codec.encode(topic, record))
        return self.codec.encode(topic, envelope)

    def rollout(self, epoch: int, *arms: ArmServed) -> RolloutChanged:
        return RolloutChanged(
            pipeline=PIPELINE, model=MODEL, epoch=epoch, plan_hash=self.plan.hash, salt="bad-input",
            arms=arms or (ArmServed(name="rules", weight=10_000),), step=0, state=RolloutState.ROLLED_BACK, hold_ms=0,
            reason="test", approved_by="grace", changed_ms=LEAVES_MS,
        )  # fmt: skip

    def bearer(self, principal: str, ttl_s: int = 60, audience: str = AUDIENCE, key: Ed25519PrivateKey | None = None) -> str:
        return "Bearer " + token(key or self.key(principal), principal, ttl_s, audience)

    def altered_plan(self) -> bytes:
        """The plan with one value changed and the hash it had."""
        first, *rest = self.plan.models
        return to_json(replace(self.plan, models=(replace(first, threshold="0.1"), *rest)))


def parsed(schema: EventSchema) -> Any:
    """An event's schema as the Avro library wants it: stored numbers only."""
    return fastavro.parse_schema(plain(schema.avro))


def departure(flight_id: str, place: str = STRANGER, **other: Any) -> Row:
    """A departure as it lies in the log; of the stranger's unless told otherwise."""
    row = {"flight_id": flight_id, "departed_at": LEAVES_MS, "carrier": place, "tail": place, "origin": place, "dest": place}
    return row | {"outcome": "departed", "dep_delay": 5} | other


def scheduled(flight_id: str, **other: Any) -> Row:
    """A request as svc-serve takes it."""
    row = {"flight_id": flight_id, "requested_at": LEAVES_MS, "carrier": "UA", "flight": 1, "tail": "N1", "origin": "EWR"}
    times = {"sched_dep": LEAVES_MS + 2 * HOUR_MS, "sched_arr": LEAVES_MS + 5 * HOUR_MS}
    return row | {"dest": "ORD", "distance": 700, "hour": 10, "ask": True} | times | other


@contextmanager
def world(home: Path, ports: Any) -> Iterator[World]:
    """The stack with everything the table knocks at, started and stopped."""
    env = {"svc-ingest": {"HEADRACE_DROP_DIR": str(home / "drop")}}
    with Stack(home=home, ports=ports, env=env, ephemeral=True) as stack:
        stack.start(("kafka", "registry", "svc-ingest", "svc-stream", "svc-serve", "svc-governance"))
        there = World(stack)
        try:
            there.admit()
            yield there
        finally:
            there.close()
