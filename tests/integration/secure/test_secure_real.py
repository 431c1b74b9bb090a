"""TLS and rights on the real broker: one round trip for those who may, a refusal for those who may not."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx
import orjson
import pytest
from cryptography import x509
from typer.testing import CliRunner

from headrace.chassis.access import AccessSettings
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.grants_confluent import ConfluentGrants
from headrace.chassis.whole import read_whole
from headrace.cli.main import app
from headrace.client.governance import GovernanceClient, Refused
from headrace.client.ingest import IngestClient
from headrace.client.producer import publish
from headrace.contracts.catalogue import AUDIT_ENTRIES, FINDINGS, ROLLOUTS
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Fatal
from headrace.contracts.grants import Grant, platform_grants
from headrace.contracts.registry import ConfluentRegistry
from headrace.contracts.signing import load_private
from headrace.declare import compile, load
from headrace.plan.grants import plan_grants, set_grants
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan
from headrace_demo.intruders import Intruders, handshake
from headrace_local import Stack
from headrace_local.authority import CERTIFICATE_DAYS, Authority
from headrace_local.stack import clone_root
from svc_train.adapters.jobs import PostgresJobs

PIPELINE, MODEL = "flights", "late_arrival"
DEPARTURES = "flights.departures.v1"
AT_MS = 1_370_059_200_000  # 2013-06-01
PATIENCE_S = 60.0


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def access(stack: Stack, principal: str) -> AccessSettings:
    return AccessSettings.of(stack.client_env(principal))


def bus(stack: Stack, principal: str) -> ConfluentBus:
    return ConfluentBus(stack.bootstrap, access(stack, principal).kafka())


def row(number: int, prefix: str = "f") -> dict[str, object]:
    return {
        "flight_id": f"{prefix}{number}", "carrier": "UA", "tail": None, "origin": "EWR", "dest": "ORD", "departed_at": AT_MS,
        "dep_delay": 3, "outcome": "departed",
    }  # fmt: skip


def send(stack: Stack, prefix: str, count: int = 20) -> int:
    with IngestClient(stack.url("svc-ingest")) as client:
        return client.send(
            PIPELINE, "flights-departures", b"\n".join(orjson.dumps(row(n, prefix)) for n in range(count))
        ).accepted


def ids(stack: Stack) -> list[str]:
    """Flights in the topic, read as the archive may."""
    keys = (r.key for part in read_whole(bus(stack, "svc-features"), DEPARTURES, "svc-features.test") for r in part)
    return [key.decode() for key in keys if key]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile(load(clone_root() / "schemas" / "pipelines" / PIPELINE))


@pytest.fixture(scope="module")
def admitted(secure: Stack, plan: Plan) -> Iterator[Stack]:
    """The flights in force; svc-ingest and svc-serve have taken them up."""

    def applied() -> bool:
        try:
            client.apply(to_json(plan))
        except Refused as refusal:
            if refusal.status != 503:
                raise
            return False
        return True

    with GovernanceClient(secure.url("svc-governance"), "ada", load_private(secure.layout.keys / "private/ada.pem")) as client:
        eventually(applied, "the plan in force")
        eventually(lambda: not {"svc-ingest", "svc-serve"} & {*client.pipeline(PIPELINE)["waiting"]}, "answers to the plan")
        assert client.pipeline(PIPELINE)["parked"] == []
    yield secure


def test_a_service_makes_its_round_trip_with_tls_and_rights_on(admitted: Stack) -> None:
    """HTTP to svc-ingest, registry over TLS, the broker, and back out by a principal that may read."""
    assert send(admitted, "trip") == 20
    assert sorted(key for key in ids(admitted) if key.startswith("trip")) == sorted(f"trip{n}" for n in range(20))


def test_the_rights_in_force_are_exactly_those_the_files_and_the_plan_say(admitted: Stack, plan: Plan) -> None:
    given = ConfluentGrants(admitted.bootstrap, access(admitted, "admin").kafka()).listed()
    assert given == {*platform_grants(), *plan_grants(plan)}


def test_rights_of_a_set_are_taken_back_and_given_again(admitted: Stack, plan: Plan) -> None:
    """Of a set that nobody keeps up: a service that loses a right in use ends, and says so."""
    grants = ConfluentGrants(admitted.bootstrap, access(admitted, "admin").kafka())
    gone = set_grants(plan, [replace(plan.feature_sets[0], hash="0" * 64)])
    before = grants.listed()
    grants.give(gone)
    assert grants.listed() == before | {*gone}
    for _ in range(2):
        grants.take_back(gone)
        eventually(lambda: grants.listed() == before, "rights taken back")


def test_only_who_may_change_the_cluster_gives_rights(admitted: Stack) -> None:
    wanted = Grant("svc-ingest", "WRITE", "topic", ROLLOUTS)
    with pytest.raises(Fatal, match="CLUSTER_AUTHORIZATION_FAILED"):
        ConfluentGrants(admitted.bootstrap, access(admitted, "svc-ingest").kafka()).give([wanted])


def test_three_intruders_are_refused_by_the_right_one_and_counted(admitted: Stack) -> None:
    """A certificate of another authority; a service on another's topic; a rollout signed with another's key."""
    codec = Codec(ConfluentRegistry(admitted.registry_url, client_config=access(admitted, "operator").registry()))
    found = Intruders(admitted, codec, PIPELINE, MODEL, readers=("svc-serve",)).all()
    assert {who: (refusal["by"], refusal["counted"] > 0) for who, refusal in found.items()} == {
        "stranger": ("broker", True),
        "trespasser": ("broker", True),
        "forger": ("readers", True),
    }, found


@pytest.mark.parametrize(
    ("principal", "topic"),
    [
        ("svc-ingest", ROLLOUTS),
        ("svc-train", DEPARTURES),
        ("producer", FINDINGS),
        ("operator", ROLLOUTS),
        ("svc-serve", AUDIT_ENTRIES),
    ],
)
def test_nobody_writes_to_a_topic_that_is_not_its_own(admitted: Stack, principal: str, topic: str) -> None:
    producer = bus(admitted, principal).producer(f"{principal}.test")
    producer.produce(topic, b"x", b"k")
    with pytest.raises(Fatal, match="TOPIC_AUTHORIZATION_FAILED"):
        producer.flush(20.0)
    producer.close()


@pytest.mark.parametrize(
    ("principal", "topic"), [("svc-ingest", AUDIT_ENTRIES), ("svc-serve", DEPARTURES), ("producer", DEPARTURES)]
)
def test_nobody_reads_a_topic_it_has_no_business_with(admitted: Stack, principal: str, topic: str) -> None:
    with pytest.raises(Fatal, match="AUTHORIZATION_FAILED"):
        list(read_whole(bus(admitted, principal), topic, f"{principal}.test"))


def test_nobody_joins_a_group_of_another_service(admitted: Stack) -> None:
    consumer = bus(admitted, "svc-ingest").consumer("svc-features", "svc-ingest.test")
    consumer.subscribe([DEPARTURES])
    with pytest.raises(Fatal, match="GROUP_AUTHORIZATION_FAILED"):
        for _ in range(100):
            consumer.consume(1, 0.2)
    consumer.close()


def test_a_program_from_outside_publishes_events_with_its_own_certificate(admitted: Stack) -> None:
    rows = [row(n, "outside") for n in range(5)]
    where = (admitted.bootstrap, admitted.registry_url)
    assert publish(*where, DEPARTURES, "flight_id", rows, id_field="flight_id", access=access(admitted, "producer")) == 5
    assert len([key for key in ids(admitted) if key.startswith("outside")]) == 5


def test_people_see_dead_letters_as_the_operator_and_nobody_without_a_certificate_does(admitted: Stack) -> None:
    with IngestClient(admitted.url("svc-ingest")) as client:
        assert client.send(PIPELINE, "flights-departures", b"[1]").rejected
    where = ["--bootstrap", admitted.bootstrap, "--registry", admitted.registry_url]
    seen = CliRunner().invoke(app, ["dlq", "list", *where], env={"COLUMNS": "200", **admitted.client_env()})
    assert seen.exit_code == 0, seen.output
    assert "flights.departures.v1.svc-ingest.dlq" in seen.output
    unnamed = CliRunner().invoke(app, ["dlq", "list", *where], env={"COLUMNS": "200"})
    assert unnamed.exit_code == 1
    assert "no answer from" in unnamed.output


def test_rights_are_given_from_the_command_line_by_who_may(admitted: Stack) -> None:
    folder = str(clone_root() / "schemas" / "pipelines" / PIPELINE)
    given = CliRunner().invoke(app, ["rights", "give", folder], env=admitted.client_env("admin"))
    assert "rights are in force" in given.output, given.output
    refused = CliRunner().invoke(app, ["rights", "give", folder], env=admitted.client_env("svc-serve"))
    assert refused.exit_code == 1
    assert "CLUSTER_AUTHORIZATION_FAILED" in refused.output


def test_a_client_without_tls_gets_no_answer(admitted: Stack) -> None:
    question = struct.pack(">hhih", 18, 0, 1, 4) + b"test"
    with socket.create_connection(("127.0.0.1", admitted.settings.ports.kafka), timeout=20) as plain:
        plain.sendall(struct.pack(">i", len(question)) + question)
        try:
            answer = plain.recv(64)
        except ConnectionError:
            answer = b""
    assert answer[:1] in (b"", b"\x15"), "nothing, or an alert of TLS"


def test_the_controller_asks_for_a_certificate_too(admitted: Stack, tmp_path: Path) -> None:
    """Whoever reaches the controller's port unnamed would else be believed to be the broker."""
    stranger = Authority(tmp_path)
    stranger.ensure()
    false = {"kafka_certificate_file": stranger.certificate("broker"), "kafka_key_file": stranger.key("broker")}
    controller = f"127.0.0.1:{admitted.settings.ports.kafka_controller}"
    assert handshake(access(admitted, "broker"), controller) == ""
    assert handshake(access(admitted, "broker").model_copy(update=false), controller) != ""


def test_the_database_asks_for_the_password_of_its_file(admitted: Stack) -> None:
    async def connect(password: str | None) -> int:
        connection = await asyncpg.connect(admitted.postgres_dsn, password=password)
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()

    assert asyncio.run(connect(admitted.layout.database_password.read_text())) == 1
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(connect("guessed"))


def test_a_changed_password_is_taken_up_by_the_next_connection(admitted: Stack, tmp_path: Path) -> None:
    """The running service is told nothing: it asks the file each time it connects."""
    owner, file = admitted.layout.database_password.read_text(), tmp_path / "password"
    access, dsn = AccessSettings(postgres_password_file=file), admitted.postgres_dsn.replace("postgres@", "trainer@")

    async def change(statement: str, password: str) -> None:
        file.write_text(password)
        connection = await asyncpg.connect(admitted.postgres_dsn, password=owner)
        await connection.execute(f"{statement} role trainer login superuser password '{password}'")
        await connection.close()

    async def both() -> None:
        await change("create", "first")
        await PostgresJobs.connect(dsn, access.postgres_password)
        await change("alter", "second")
        await PostgresJobs.connect(dsn, access.postgres_password)
        file.write_text("first")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await PostgresJobs.connect(dsn, access.postgres_password)

    asyncio.run(both())


def test_a_certificate_is_replaced_service_by_service_while_the_others_go_on(admitted: Stack) -> None:
    """Its next life shows the new certificate (the old key is gone); nothing acknowledged is lost, nobody else restarts."""
    authority = Authority(admitted.layout.tls)
    before = x509.load_pem_x509_certificate(authority.certificate("svc-ingest").read_bytes())
    governance = admitted.service("svc-governance")
    assert send(admitted, "during") == 20
    admitted.rotate("svc-ingest")
    after = x509.load_pem_x509_certificate(authority.certificate("svc-ingest").read_bytes())
    assert after.serial_number != before.serial_number
    eventually(lambda: send(admitted, "after") in (0, 20), "an answer")
    assert len({key for key in ids(admitted) if key.startswith(("during", "after"))}) == 40
    assert admitted.service("svc-governance").pid == governance.pid
    page = httpx.get(f"{admitted.url('svc-ingest')}/metrics", trust_env=False).text
    left = {name: float(days) for name, days in re.findall(r'certificate_left_days\{certificate="([a-z-]+)"\} (\S+)', page)}
    assert CERTIFICATE_DAYS - 1 < left["kafka"] <= CERTIFICATE_DAYS < min(left["kafka-ca"], left["registry-ca"])


def test_no_log_and_no_state_file_shows_a_secret(admitted: Stack) -> None:
    password = admitted.layout.database_password.read_text()
    files = [*admitted.layout.logs.glob("*.log"), *admitted.layout.run.glob("*.json"), admitted.layout.operator_env]
    assert len(files) > len(admitted.components())
    for file in files:
        text = file.read_text(errors="replace")
        assert password not in text, file
        assert "PRIVATE KEY" not in text, file
