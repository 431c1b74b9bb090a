"""Three who should not get in, tried on purpose at a secure stack: each must be refused, by the right one, and counted there.

stranger   shows a certificate in the name of svc-governance, signed by an authority of its own: the broker ends the handshake
trespasser svc-monitor, with its true certificate, writes a rollout: the broker denies the right
forger     has svc-governance's certificate but not its signing key: the broker takes the record, every reader refuses it
"""

from __future__ import annotations

import socket
import ssl
import struct
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from headrace.chassis.access import AccessSettings
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.contracts.catalogue import ROLLOUTS
from headrace.contracts.codec import Codec
from headrace.contracts.errors import HeadraceError
from headrace.contracts.records import ArmServed, RolloutChanged, RolloutState
from headrace.contracts.signing import load_private, sign_control
from headrace_demo.waiting import GaveUp, until
from headrace_local import Stack
from headrace_local.authority import Authority
from headrace_local.settings import HOST

FORGED_EPOCH = 1_000_000  # above every honest one: nothing but the signature stands in its way
READERS = ("svc-serve", "svc-monitor", "svc-train")  # of rollouts
ANSWER_S = 30.0
CONNECT_S = 5.0
DETAIL_CHARACTERS_MAX = 160


@dataclass(frozen=True, slots=True)
class Refusal:
    """One attempt. by: who refused it, nobody if it was let through. counted: how often the refusing side counted it."""

    who: str
    by: str
    detail: str
    counted: int


class Intruders:
    """Against one running secure stack."""

    def __init__(self, stack: Stack, codec: Codec, pipeline: str, model: str, readers: tuple[str, ...] = READERS) -> None:
        """readers: services that run here and read rollouts."""
        self._stack, self._codec, self._pipeline, self._model = stack, codec, pipeline, model
        self._readers = readers

    def all(self) -> dict[str, Any]:
        """What became of each, as plain data."""
        return {found.who: asdict(found) for found in (self.stranger(), self.trespasser(), self.forger())}

    def stranger(self) -> Refusal:
        """A certificate of another authority. Asked the same way with a true one, the broker answers."""
        access = AccessSettings.of(self._stack.client_env("svc-governance"))
        with tempfile.TemporaryDirectory() as folder:
            own, name = Authority(Path(folder)), "svc-governance"
            own.ensure()
            false = access.model_copy(
                update={
                    "kafka_certificate_file": own.certificate(name),
                    "kafka_key_file": own.key(name),
                }
            )
            before = self._said_by_broker("Failed authentication", HOST)
            served = handshake(access, self._stack.bootstrap)
            refused = handshake(false, self._stack.bootstrap)
        if served or not refused:
            return Refusal("stranger", "nobody", served or "it was let in", 0)
        return Refusal("stranger", "broker", refused, self._counted("Failed authentication", HOST, before))

    def trespasser(self) -> Refusal:
        """A service of ours on a topic that is not its own."""
        before = self._said_by_broker("User:svc-monitor is Denied operation = WRITE", ROLLOUTS)
        problem = self._write("svc-monitor", self._forged())
        if "TOPIC_AUTHORIZATION_FAILED" not in problem:
            return Refusal("trespasser", "nobody", problem or "it was written", 0)
        return Refusal(
            "trespasser", "broker", problem, self._counted("User:svc-monitor is Denied operation = WRITE", ROLLOUTS, before)
        )

    def forger(self) -> Refusal:
        """A rollout in svc-governance's name, written with its certificate, signed with another's key."""
        before = {name: self._refused(name) for name in self._readers}
        problem = self._write("svc-governance", self._forged())
        if problem:
            return Refusal("forger", "nobody", f"it could not even be written: {problem}", 0)

        def noticed() -> int | None:
            grown = sum(self._refused(name) > before[name] for name in self._readers)
            return grown if grown == len(self._readers) else None

        try:
            counted = until("every reader to refuse the forged rollout", noticed, ANSWER_S, every_s=0.2)
        except GaveUp as error:
            return Refusal("forger", "nobody", str(error), 0)
        return Refusal("forger", "readers", f"bad signature, refused by {', '.join(self._readers)}", counted)

    def _write(self, principal: str, value: bytes) -> str:
        """Write to the rollouts' topic as somebody; what went wrong, empty if it was acknowledged."""
        access = AccessSettings.of(self._stack.client_env(principal))
        producer = ConfluentBus(self._stack.bootstrap, access.kafka()).producer(f"{principal}.intruder")
        try:
            producer.produce(ROLLOUTS, value, self._key.encode())
            producer.flush(ANSWER_S)
        except HeadraceError as error:
            return str(error)[:DETAIL_CHARACTERS_MAX]
        finally:
            producer.close()
        return ""

    @property
    def _key(self) -> str:
        return f"{self._pipeline}/{self._model}"

    def _forged(self) -> bytes:
        """All decisions to the rules, says ada's key in svc-governance's name."""
        rollout = RolloutChanged(
            pipeline=self._pipeline, model=self._model, epoch=FORGED_EPOCH, plan_hash="", salt="forged",
            arms=(ArmServed(name="rules", weight=10_000),), step=0, state=RolloutState.ROLLED_BACK, hold_ms=0,
            reason="forged", approved_by="grace", changed_ms=0,
        )  # fmt: skip
        key = load_private(self._stack.layout.keys / "private" / "ada.pem")
        envelope = sign_control(key, "svc-governance", ROLLOUTS, self._key, self._codec.encode(ROLLOUTS, rollout))
        return self._codec.encode(ROLLOUTS, envelope)

    def _refused(self, service: str) -> int:
        """Control records of the rollouts' topic a service has refused, by its own counter."""
        text = httpx.get(self._stack.url(service) + "/metrics", timeout=CONNECT_S, trust_env=False).raise_for_status().text
        labels = {"topic": ROLLOUTS, "outcome": "refused"}
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return int(sum(s.value for s in samples if s.name == "control_records_total" and labels.items() <= s.labels.items()))

    def _said_by_broker(self, *words: str) -> int:
        """Lines of the broker's log that hold all of these."""
        text = self._stack.layout.log("kafka").read_text(errors="replace")
        return sum(all(word in line for word in words) for line in text.splitlines())

    def _counted(self, phrase: str, word: str, before: int) -> int:
        """How many lines the broker wrote about it; its log is a moment behind its answer."""
        try:
            return until("its log", lambda: self._said_by_broker(phrase, word) - before or None, CONNECT_S, every_s=0.05)
        except GaveUp:
            return 0


def handshake(access: AccessSettings, bootstrap: str) -> str:
    """Connect and ask one question (ApiVersions); empty if the broker answered, else how it refused.

    In TLS 1.3 a client is done before the server has judged its certificate: only an answer proves that it was let in.
    """
    context = access.kafka_context()
    assert context is not None, "a secure stack"
    host, _, port = bootstrap.rpartition(":")
    client = b"headrace-demo"
    question = struct.pack(">hhih", 18, 0, 1, len(client)) + client
    try:
        with (
            socket.create_connection((host, int(port)), timeout=CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as conn,
        ):
            conn.sendall(struct.pack(">i", len(question)) + question)
            return "" if conn.recv(4) else "closed without an answer"
    except (ssl.SSLError, ConnectionError) as error:
        return str(error)[:DETAIL_CHARACTERS_MAX]
