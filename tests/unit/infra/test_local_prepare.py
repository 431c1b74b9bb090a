"""What is checked and made before a start."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headrace.client import local_stack
from headrace_local import dist, keys, postgres, prepare
from headrace_local.authority import Authority
from headrace_local.components import client_env
from headrace_local.errors import LauncherError
from headrace_local.settings import SERVICES, Layout, LocalSettings, Ports
from headrace_local.stack import Stack


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout.of(tmp_path, tmp_path / "home")
    found.make()
    return found


def test_a_taken_port_is_reported_with_its_number_component_and_holder(layout: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = LocalSettings(ports=replace(Ports.free(), zipkin=port))
        with pytest.raises(LauncherError, match=rf"port taken: {port} \(zipkin\) is held by .*pid {os.getpid()}") as caught:
            prepare.check_ports(layout, settings, ("zipkin",))
        assert "PORT_BASE" in caught.value.hint


def test_ports_of_components_that_are_not_started_do_not_matter(layout: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = LocalSettings(ports=replace(Ports.free(), zipkin=server.getsockname()[1]))
        prepare.check_ports(layout, settings, ("kafka", "registry"))


def test_a_full_disk_stops_the_start(layout: Layout) -> None:
    with pytest.raises(LauncherError, match="GiB free on the disk of"):
        prepare.check_disk(layout, LocalSettings(min_free_gib=1e9))


def test_a_data_folder_keeps_its_id(layout: Layout) -> None:
    assert prepare.check_data(layout) == prepare.check_data(layout)


def test_data_of_another_version_is_refused_with_the_way_out(layout: Layout) -> None:
    prepare.check_data(layout)
    stamp = layout.data / "stamp.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"kafka": "3.9.0"}))
    with pytest.raises(LauncherError, match=r"made by kafka 3\.9\.0") as caught:
        prepare.check_data(layout)
    assert "make clean" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_damaged_stamp_is_refused(layout: Layout, text: str) -> None:
    (layout.data / "stamp.json").write_text(text)
    with pytest.raises(LauncherError, match=r"stamp\.json is damaged"):
        prepare.check_data(layout)


def test_data_without_a_stamp_is_refused(layout: Layout) -> None:
    (layout.data / "kafka").mkdir()
    with pytest.raises(LauncherError, match="unknown version"):
        prepare.check_data(layout)


def test_a_broker_log_of_another_cluster_is_refused(layout: Layout) -> None:
    prepare.check_data(layout)
    log = layout.data / "kafka" / "log"
    log.mkdir(parents=True)
    (log / "meta.properties").write_text("cluster.id=MkU3OEVBNTcwNTJENDM2Qk\n")
    with pytest.raises(LauncherError, match="belongs to another cluster"):
        prepare.check_data(layout)


def test_a_database_that_was_swept_away_is_noticed(layout: Layout) -> None:
    prepare.check_data(layout)
    postgres.made_mark(layout).touch()
    with pytest.raises(LauncherError, match="is gone, the rest of the data is there"):
        prepare.check_data(layout)


def test_the_broker_listens_on_this_machine_only() -> None:
    lines = prepare.broker_properties(Path("/x"), 19092, 19093).splitlines()
    listeners = next(line for line in lines if line.startswith("listeners="))
    assert listeners == "listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093"


def test_key_pairs_match_are_private_and_stay(tmp_path: Path) -> None:
    keys.ensure(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.rglob("*.p*")}
    keys.ensure(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.p*")} == first
    names = {path.stem for path in (tmp_path / "trusted").iterdir()}
    assert names == {"svc-governance", "svc-train", "ada", "grace", "ops"}
    for name in names:
        private_file = tmp_path / "private" / f"{name}.pem"
        assert stat.S_IMODE(private_file.stat().st_mode) == 0o600
        private = serialization.load_pem_private_key(private_file.read_bytes(), password=None)
        public = serialization.load_pem_public_key((tmp_path / "trusted" / f"{name}.pub").read_bytes())
        assert isinstance(private, Ed25519PrivateKey)
        assert isinstance(public, Ed25519PublicKey)
        public.verify(private.sign(b"x"), b"x")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


def test_a_lost_public_key_is_derived_again(tmp_path: Path) -> None:
    keys.ensure(tmp_path)
    public = tmp_path / "trusted" / "ada.pub"
    before = public.read_bytes()
    public.unlink()
    keys.ensure(tmp_path)
    assert public.read_bytes() == before


def test_fetched_files_that_differ_from_the_recorded_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = tmp_path / "sums"
    sums.write_text("2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  kafka/a.jar\n")  # of "x"
    monkeypatch.setattr(dist, "CHECKSUMS", sums)
    fetched = tmp_path / "fetched"
    (fetched / "kafka").mkdir(parents=True)
    (fetched / "kafka" / "a.jar").write_text("x")
    dist.verify(fetched)
    (fetched / "kafka" / "b.jar").write_text("x")
    with pytest.raises(LauncherError, match=r"first kafka/b\.jar"):
        dist.verify(fetched)
    (fetched / "kafka" / "b.jar").unlink()
    (fetched / "kafka" / "a.jar").write_text("y")
    with pytest.raises(LauncherError, match=r"first kafka/a\.jar"):
        dist.verify(fetched)


def test_without_maven_the_message_names_the_command(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LauncherError, match="no Maven client") as caught:
        dist.fetch(layout)
    assert "apt-get install -y maven" in caught.value.hint
    assert not list(layout.dist.glob("*.partial-*"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[ERROR] Could not transfer artifact x from/to central: Unknown host repo", "cannot reach its repository"),
        ("[ERROR] PKIX path building failed: unable to find valid certification path", "does not trust the certificate"),
        ("[ERROR] Non-readable POM", "Maven failed: Non-readable POM"),
        ("Killed", "it said nothing"),
    ],
)
def test_mavens_failure_is_told_apart(tmp_path: Path, line: str, says: str) -> None:
    log = tmp_path / "maven.log"
    log.write_text(f"[INFO] Scanning\n{line}\n")
    error = dist.maven_error(log)
    assert says in error.message
    assert error.hint


def test_data_made_with_walls_is_not_opened_without_nor_the_other_way(layout: Layout) -> None:
    prepare.check_data(layout, secure=True)
    with pytest.raises(LauncherError, match="made by a secure stack") as caught:
        prepare.check_data(layout)
    assert "--secure" in caught.value.hint
    assert prepare.made_secure(layout)
    assert prepare.check_data(layout, secure=True) == prepare.check_data(layout, secure=True)


def test_data_of_a_stack_from_before_there_were_walls_opens_as_one_without(layout: Layout) -> None:
    assert not prepare.made_secure(layout)
    ident = prepare.check_data(layout)
    stamp = layout.data / "stamp.json"
    old = json.loads(stamp.read_text())
    del old["secure"]
    stamp.write_text(json.dumps(old))
    assert prepare.check_data(layout) == ident
    with pytest.raises(LauncherError, match="without TLS, rights and passwords"):
        prepare.check_data(layout, secure=True)


def test_a_secure_broker_has_no_listener_without_tls_and_no_right_by_default(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    text = prepare.secured(prepare.broker_properties(tmp_path / "log", 1, 2), authority)
    found = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert "PLAINTEXT" not in text
    protocols = dict(pair.split(":") for pair in found["listener.security.protocol.map"].split(","))
    assert {protocols[listener.partition("://")[0]] for listener in found["listeners"].split(",")} == {"SSL"}
    assert found["ssl.client.auth"] == "required"
    assert found["allow.everyone.if.no.acl.found"] == "false"
    assert found["super.users"].split(";") == ["User:broker", "User:admin"]


@pytest.mark.parametrize(
    ("subject", "principal"),
    [("CN=svc-stream", "svc-stream"), ("CN=svc-stream,O=other", None), ("CN=SVC-STREAM", None), ("O=x,CN=svc-stream", None)],
)
def test_only_the_bare_name_of_a_certificate_becomes_a_principal(tmp_path: Path, subject: str, principal: str | None) -> None:
    """Kafka matches the whole name against the rule, in Java's syntax, here the same as Python's."""
    text = prepare.secured("", Authority(tmp_path))
    rule = next(line for line in text.splitlines() if line.startswith("ssl.principal.mapping.rules=RULE:"))
    pattern = rule.partition("RULE:")[2].partition("/$1/")[0]
    found = re.fullmatch(pattern, subject)
    assert (None if found is None else found[1]) == principal


def test_what_a_shell_is_told_holds_names_of_files_and_no_secret(layout: Layout) -> None:
    keys.ensure(layout.keys)
    keys.ensure_password(layout.database_password)
    prepare.write_operator_env(layout, client_env(layout, LocalSettings(secure=True)))
    assert stat.S_IMODE(layout.operator_env.stat().st_mode) == 0o600
    text = layout.operator_env.read_text()
    assert "HEADRACE_KAFKA_KEY_FILE=" in text
    assert layout.database_password.read_text() not in text
    assert stat.S_IMODE(layout.database_password.stat().st_mode) == 0o600


def test_a_password_is_made_once(layout: Layout) -> None:
    keys.ensure(layout.keys)
    keys.ensure_password(layout.database_password)
    first = layout.database_password.read_text()
    keys.ensure_password(layout.database_password)
    assert layout.database_password.read_text() == first
    assert len(first) == 64


@pytest.mark.parametrize("ports", [Ports(), Ports.from_base(23000)])
def test_clients_find_the_stack_by_the_addresses_it_wrote_down(
    ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in local_stack.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    stack = Stack(root=tmp_path, ports=ports)
    stack.layout.home.mkdir()
    stack.layout.make()
    prepare.write_addresses(stack.layout, stack.settings, stack.client_env())
    monkeypatch.chdir(tmp_path)
    assert local_stack.written().keys() == local_stack.DEFAULTS.keys()
    assert local_stack.address(local_stack.BOOTSTRAP) == stack.bootstrap
    assert local_stack.address(local_stack.REGISTRY_URL) == stack.registry_url
    assert local_stack.address(local_stack.ZIPKIN_URL) == stack.zipkin_url
    for service in SERVICES:
        assert local_stack.address(local_stack.variable(service)) == stack.url(service)
    if ports == Ports():
        assert local_stack.written() == local_stack.DEFAULTS
    stack.stop()
    assert local_stack.written() == {}
