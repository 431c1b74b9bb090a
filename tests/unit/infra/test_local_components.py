"""How components are started: addresses, settings, and nothing of the caller's environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace_local.components import SIGNERS, Spec, broker_probe, service_env, specs
from headrace_local.settings import SERVICES, Layout, LocalSettings
from headrace_local.state import ComponentState, StackState, read, write


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout.of(tmp_path, tmp_path / "home")
    found.make()
    return found


def one(layout: Layout, names: tuple[str, ...], name: str) -> Spec:
    return next(spec for spec in specs(layout, LocalSettings(), names, {}) if spec.name == name)


def test_services_wait_for_what_holds_their_data_but_not_for_traces(layout: Layout) -> None:
    assert one(layout, ("kafka", "zipkin", "postgres", "svc-serve"), "svc-serve").needs == ["kafka", "postgres"]


def test_without_a_trace_store_services_are_told_so(layout: Layout) -> None:
    assert one(layout, ("svc-serve",), "svc-serve").env["HEADRACE_ZIPKIN_URL"] == ""
    assert one(layout, ("zipkin", "svc-serve"), "svc-serve").env["HEADRACE_ZIPKIN_URL"] == "http://127.0.0.1:19411"


def test_only_signing_services_get_a_private_key(layout: Layout) -> None:
    holders = {name for name in SERVICES if "HEADRACE_KEY_FILE" in service_env(layout, LocalSettings(), name)}
    assert holders == set(SIGNERS)


def test_each_service_has_its_own_state_port_and_instance(layout: Layout) -> None:
    for setting in ("HEADRACE_STATE_DIR", "HEADRACE_HTTP_PORT", "HEADRACE_INSTANCE"):
        assert len({service_env(layout, LocalSettings(), name)[setting] for name in SERVICES}) == len(SERVICES)


def test_the_callers_own_settings_do_not_reach_a_service(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TYPO", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = one(layout, ("svc-serve",), "svc-serve").env
    assert "HEADRACE_TYPO" not in env
    assert "/elsewhere" not in env["PYTHONPATH"]


def test_additional_environment_goes_to_the_named_component_alone(layout: Layout) -> None:
    found = specs(layout, LocalSettings(), ("svc-serve", "svc-train"), {"svc-serve": {"HEADRACE_LOG_LEVEL": "debug"}})
    assert {spec.name: spec.env["HEADRACE_LOG_LEVEL"] for spec in found} == {"svc-serve": "debug", "svc-train": "info"}


def test_a_written_state_is_read_back_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = StackState(1, "b", {"kafka": ComponentState("kafka", pid=2, born="c", port=3)}, detached=True)
    write(path, state)
    assert read(path) == state
    path.write_text(path.read_text()[:-5])
    assert read(path) is None


SECURE = LocalSettings(secure=True)


def test_each_service_of_a_secure_stack_has_a_certificate_of_its_own_name(layout: Layout) -> None:
    for name in SERVICES:
        env = service_env(layout, SECURE, name)
        assert env["HEADRACE_KAFKA_PROTOCOL"] == "ssl"
        assert Path(env["HEADRACE_KAFKA_CERTIFICATE_FILE"]).stem == name
        assert Path(env["HEADRACE_KAFKA_KEY_FILE"]).stem == name
        assert env["HEADRACE_REGISTRY_URL"].startswith("https://")


def test_one_service_gives_rights_and_one_has_the_database_password(layout: Layout) -> None:
    holders = {
        setting: {name for name in SERVICES if setting in service_env(layout, SECURE, name)}
        for setting in ("HEADRACE_GRANT_RIGHTS", "HEADRACE_POSTGRES_PASSWORD_FILE")
    }
    assert holders == {"HEADRACE_GRANT_RIGHTS": {"svc-governance"}, "HEADRACE_POSTGRES_PASSWORD_FILE": {"svc-train"}}


def test_a_stack_without_walls_tells_nothing_about_identity(layout: Layout) -> None:
    for name in SERVICES:
        assert not [
            key for key in service_env(layout, LocalSettings(), name) if "KAFKA" in key or "PASSWORD" in key or "RIGHTS" in key
        ]


def test_a_secure_broker_is_ready_when_the_admin_has_given_the_first_rights(layout: Layout) -> None:
    kind, port, words = broker_probe(layout, SECURE)
    assert (kind, port) == ("command", SECURE.ports.kafka)
    command = json.loads(words)
    assert command["argv"][1:] == ["-m", "headrace_local.rights"]
    assert Path(command["env"]["HEADRACE_KAFKA_CERTIFICATE_FILE"]).stem == "admin"
