"""One pipeline's life against the real service: admitted, approved, killed -9 in between, its audit verified outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.objects import FolderObjectStore
from headrace.chassis.whole import read_whole
from headrace.cli import apply as apply_cli
from headrace.cli import approve as approve_cli
from headrace.cli import audit as audit_cli
from headrace.client.governance import GovernanceClient, Refused, Unreachable
from headrace.contracts.audit import Head, read_export, verify_chain
from headrace.contracts.catalogue import FINDINGS, MODEL_CANDIDATES, PIPELINES, ROLLOUT_VERDICTS, ROLLOUTS, TRAINING_REQUESTS
from headrace.contracts.codec import AvroRecord, Codec
from headrace.contracts.records import PipelineAdmitted, RolloutChanged, SignedControl, TrainingRequested, Verdict
from headrace.contracts.registry import ConfluentRegistry
from headrace.contracts.signing import TrustedKeys, load_private, open_control, sign_bytes
from headrace.plan.hashes import to_json
from headrace_local import Stack
from headrace_local.stack import clone_root
from unit.svc_governance.worlds import MODEL, PIPELINE, a_candidate, a_finding, a_manifest, a_plan, a_verdict

PATIENCE_S = 30.0


class World:
    """What the other services do, by hand."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        env = stack.service_env("svc-governance")
        self.keys = Path(env["HEADRACE_KEY_FILE"]).parent
        self.trusted = TrustedKeys(env["HEADRACE_TRUSTED_KEYS"])
        self.objects = FolderObjectStore(env["HEADRACE_OBJECT_STORE"])
        self.heads = Path(env["HEADRACE_STATE_DIR"]) / "audit-heads.jsonl"
        self.bus = ConfluentBus(stack.bootstrap)
        self.codec = Codec(ConfluentRegistry(stack.registry_url))

    def client(self, name: str = "") -> GovernanceClient:
        key = load_private(self.keys / f"{name}.pem") if name else None
        return GovernanceClient(self.stack.url("svc-governance"), name, key)

    def send(self, topic: str, record: AvroRecord) -> None:
        producer = self.bus.producer("test")
        producer.produce(topic, self.codec.encode(topic, record), f"{PIPELINE}/{MODEL}".encode())
        producer.flush(10.0)
        producer.close()

    def values(self, topic: str, at_least: int) -> list[bytes]:
        """All committed values of partition 0, once there are so many: a commit is answered before its marker is written."""
        eventually(lambda: len(self._values(topic)) >= at_least)
        return self._values(topic)

    def _values(self, topic: str) -> list[bytes]:
        whole = read_whole(self.bus, topic, "test")
        return [record.value for records in whole for record in records if record.value is not None]

    def rollouts(self) -> list[RolloutChanged]:
        envelopes = [self.codec.decode(value, SignedControl) for value in self.values(ROLLOUTS, 4)]
        payloads = [open_control(self.trusted, ROLLOUTS, f"{PIPELINE}/{MODEL}", envelope) for envelope in envelopes]
        return [self.codec.decode(payload, RolloutChanged) for payload in payloads]

    def candidate(self, candidate_id: str) -> None:
        content = a_manifest(a_plan())
        stored = self.objects.put(content, ".json")
        signature = sign_bytes(load_private(self.keys / "svc-train.pem"), content)
        manifest = {"manifest_reference": stored.reference, "manifest_digest": stored.digest, "signature": signature}
        self.send(MODEL_CANDIDATES, replace(a_candidate(candidate_id), **manifest))
        eventually(lambda: candidate_id in {view["candidate_id"] for view in self.client().candidates()})


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def world(stack: Stack) -> World:
    return World(stack)


def test_a_pipelines_life_with_a_kill_in_between(world: World, tmp_path: Path):
    """Goal: the loop's control side on a real broker. Method: every answer is checked against topic, state and chain."""
    ada, grace = world.client("ada"), world.client("grace")

    first = ada.apply(to_json(a_plan()))
    assert first["epoch"] == 1
    (envelope,) = [world.codec.decode(value, SignedControl) for value in world.values(PIPELINES, 1)]
    admitted = world.codec.decode(open_control(world.trusted, PIPELINES, PIPELINE, envelope), PipelineAdmitted)
    assert admitted.plan_hash == a_plan().hash
    assert world.bus.admin().partitions(a_plan().events[0].topic) == 2

    world.candidate("run-1")
    with pytest.raises(Refused, match="four eyes"):
        ada.approve("run-1")
    with pytest.raises(Refused) as nobody:
        world.client().approve("run-1")
    assert nobody.value.status == 401
    assert grace.approve("run-1", "looks right")["state"] == "CANARY"

    before = world.client().rollouts()
    world.stack.kill("svc-governance")
    world.stack.wait_ready()
    assert world.client().rollouts() == before

    for step in (5, 20):
        (rollout,) = world.client().rollouts()
        world.send(ROLLOUT_VERDICTS, a_verdict(rollout["epoch"], Verdict.PASS, step))
        eventually(lambda epoch=rollout["epoch"]: world.client().rollouts()[0]["epoch"] > epoch)
    assert world.client().rollouts()[0]["state"] == "PROMOTED"

    world.send(FINDINGS, a_finding("f-1"))
    world.send(FINDINGS, a_finding("f-1"))
    world.send(FINDINGS, a_finding("f-2"))
    eventually(lambda: len(world.client().findings()) == 2)
    requests = [world.codec.decode(value, TrainingRequested) for value in world.values(TRAINING_REQUESTS, 1)]
    assert [request.finding_id for request in requests] == ["f-1"]

    assert world.client("ops").kill(PIPELINE, MODEL)["state"] == "KILLED"
    epochs = [record.epoch for record in world.rollouts()]
    assert epochs == [1, 2, 3, 4]

    entries = read_export(world.client().export())
    heads = [Head.from_json(line) for line in world.heads.read_text().splitlines()]
    public = world.trusted.public("svc-governance")
    assert verify_chain(entries, heads, public).ok
    assert "truncated" in verify_chain(entries[:-1], heads, public).problem
    assert ("ada", "approval.refused") in {(entry.actor, entry.action) for entry in entries}


def test_commands_come_through_a_kill_at_any_moment_once_or_not_at_all(world: World):
    """Goal: exactly-once over kill -9. Method: training orders with fixed ids, repeated until answered, while it is killed."""
    known = len(world.client().trainings())
    for number in range(6):
        if number in (1, 3):
            world.stack.kill("svc-governance")
        eventually(lambda number=number: _asked(world, f"order-{number}"))
    assert len(world.client().trainings()) == known + 6
    trigger_ids = [
        world.codec.decode(value, TrainingRequested).trigger_id for value in world.values(TRAINING_REQUESTS, known + 6)
    ]
    assert len(trigger_ids) == len(set(trigger_ids)) == known + 6
    assert verify_chain(read_export(world.client().export())).ok


def _asked(world: World, request_id: str) -> bool:
    try:
        world.client("ada").train(PIPELINE, MODEL, 1000, 2000, request_id)
    except Unreachable:
        return False
    except Refused as refusal:
        if refusal.status == 503:
            return False
        raise
    return True


def test_the_commands_do_what_they_say(world: World, tmp_path: Path):
    """Goal: the command line against the real service. Method: exit codes and what they print, own keys, own address."""
    root = typer.Typer()
    for part in (apply_cli, approve_cli, audit_cli):
        part.register(root)
    url = ["--url", world.stack.url("svc-governance")]

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(root, [*arguments])
        return result.exit_code, result.output

    def key(name: str) -> list[str]:
        return ["--as", name, "--key", str(world.keys / f"{name}.pem")]

    flights = str(clone_root() / "schemas" / "pipelines" / "flights")
    assert run("apply", flights, "--wait", "0", *key("ada"), *url)[0] == 0
    code, output = run("apply", flights, "--wait", "0.5", *key("ada"), *url)
    assert (code, "no answer within" in output) == (1, True)  # the other services are not here
    code, output = run("apply", flights, *key("grace"), *url)
    assert (code, "403" in output) == (1, True)
    assert run("apply", str(tmp_path), *key("ada"), *url)[0] == 1

    world.candidate("run-cli")
    code, output = run("approve", "run-cli", *key("ada"), *url)
    assert (code, "four eyes" in output) == (1, True)
    assert run("approve", "run-cli", *key("grace"), *url)[0] == 0
    assert run("kill", f"{PIPELINE}/{MODEL}", *key("ops"), *url)[0] == 0
    for command in ("pipelines", "candidates", "rollouts"):
        assert run(command, *url)[0] == 0

    export = str(tmp_path / "export.jsonl")
    assert run("audit", "export", export, *url)[0] == 0
    public = ["--key", str(world.keys.parent / "trusted" / "svc-governance.pub"), "--heads", str(world.heads)]
    assert run("audit", "verify", export, *public)[0] == 0
    Path(export).write_text("".join(Path(export).read_text().splitlines(keepends=True)[:-1]))
    code, output = run("audit", "verify", export, *public)
    assert (code, "truncated" in output) == (1, True)
