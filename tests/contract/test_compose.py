"""The compose files: pinned, hardened, on the loopback address only, and every setting one that its service reads."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.chassis.settings import PREFIX
from headrace_images import dockerfile
from headrace_local.prepare import broker_properties
from support.settings import settings_of
from support.source import ROOT, SERVICES

FOLDER = ROOT / "infra" / "compose"
LAYERS = ("core", "full", "observability", "gpu")
NAMES = [f"svc-{name}" for name in SERVICES]
# Images of one program without a shell: nothing in them could ask. Prometheus asks for their metrics instead.
NO_SHELL = {"otel-collector", "tempo", "loki"}
ONCE = {"tempo-volume"}
# What a service reads and compose leaves alone: the defaults are meant.
PLAIN_HTTP_DOORS = {"svc-ingest", "svc-features", "svc-serve", "svc-monitor", "svc-governance"}


@cache
def _layer(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return found


def _merged(*layers: str) -> dict[str, dict[str, Any]]:
    """Services of layers one on top of the other, as far as these tests need it: maps merge, all else is replaced."""
    found: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for name, service in _layer(layer)["services"].items():
            found[name] = _merge(found.get(name, {}), service)
    return found


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = dict(old)
    for key, value in new.items():
        both[key] = _merge(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


ALL = _merged(*LAYERS)


def _image(service: str) -> dockerfile.Stage:
    return dockerfile.read((ROOT / service / "Dockerfile").read_text()).image


def _told(service: str) -> dict[str, str]:
    """HEADRACE_* that a service is started with: its image's, compose's, and what its secret file holds."""
    told = _image(service).environment() | ALL[service].get("environment", {})
    if any("svc-train.env" in path for path in ALL[service].get("env_file", ())):
        told["HEADRACE_POSTGRES_DSN"] = "in secrets/svc-train.env"
    return {name: str(value) for name, value in told.items() if name.startswith(PREFIX)}


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_image_is_pinned_by_its_version(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?([.-][a-z0-9.-]+)?", ALL[name]["image"]), ALL[name]["image"]


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_container_has_no_rights_it_does_not_need(name: str) -> None:
    service = ALL[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert service.get("network_mode", "") != "host"
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))
    if name not in {"kafka", "registry", "postgres", *ONCE}:
        assert service["read_only"] is True


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_port_is_open_on_the_loopback_address_only(name: str) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ALL[name].get("ports", ()))


def test_no_two_containers_want_one_port_and_inner_services_want_none() -> None:
    ports = [port.split(":")[1] for service in ALL.values() for port in service.get("ports", ())]
    assert len(ports) == len(set(ports))
    assert {name for name in NAMES if ALL[name].get("ports")} == PLAIN_HTTP_DOORS
    for name in PLAIN_HTTP_DOORS:
        port = _image(name).environment()["HEADRACE_HTTP_PORT"]
        assert ALL[name]["ports"] == [f"127.0.0.1:{port}:{port}"]


@pytest.mark.parametrize("name", sorted(set(ALL) - ONCE - NO_SHELL))
def test_a_container_says_whether_it_is_healthy(name: str) -> None:
    """By compose, or by the image in our own Dockerfiles."""
    if name in NAMES:
        assert _image(name).last("HEALTHCHECK") is not None
        return
    check = ALL[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@pytest.mark.parametrize("name", sorted(ALL))
def test_memory_is_bounded(name: str) -> None:
    """One that grows is ended by itself, not with its neighbours."""
    service = ALL[name]
    assert name in ONCE | {"triton"} or re.fullmatch(r"\d+[mg]", service["mem_limit"])


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_one_that_its_service_reads(name: str) -> None:
    """A service refuses unknown ones at its start."""
    assert set(_told(name)) - set(settings_of(name).environment_names()) == set()


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_ones_that_its_settings_take(name: str) -> None:
    fields = {key.removeprefix(PREFIX).lower(): value for key, value in _told(name).items()}
    settings = settings_of(name).model_validate(fields)
    assert settings.bootstrap == "kafka:9092"
    assert settings.http_host == "0.0.0.0"  # inside its container


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_says_where_something_is_is_given(name: str) -> None:
    """No default of a laptop is left standing: addresses, folders and keys are said by image or compose."""
    laptop = {
        f"{PREFIX}{field.upper()}"
        for field, info in settings_of(name).model_fields.items()
        if isinstance(info.default, Path) or "127.0.0.1" in str(info.default) or "sqlite" in str(info.default)
    }
    own = {"svc-governance": {"HEADRACE_KEY_FILE"}, "svc-train": {"HEADRACE_KEY_FILE", "HEADRACE_POSTGRES_DSN"}}
    assert (laptop | {"HEADRACE_TRUSTED_KEYS", "HEADRACE_INSTANCE"} | own.get(name, set())) - set(_told(name)) == set()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_lies_on_a_volume(name: str) -> None:
    """The root is read-only: folders that settings name must lie below a mount."""
    targets = [volume.split(":")[1] for volume in ALL[name]["volumes"]]
    for key, value in _told(name).items():
        path = value.removeprefix("sqlite:///") if value.startswith("sqlite:") else value
        if path.startswith("/") and not path.startswith("/run/secrets/"):
            assert any(path == target or path.startswith(f"{target}/") for target in targets), f"{key}={value}"
    assert len({volume.split(":")[0] for volume in ALL[name]["volumes"]} & set(NAMES) - {name}) == 0, "another's state"


@pytest.mark.parametrize("name", sorted(ALL))
def test_no_secret_stands_in_a_compose_file(name: str) -> None:
    for key, value in (ALL[name].get("environment") or {}).items():
        if re.search(r"(?i)password|secret|token|dsn|key", key):
            assert str(value).startswith("/run/secrets/"), key


def test_secrets_are_files_of_the_folder_that_is_not_committed() -> None:
    files = [entry["file"] for layer in LAYERS for entry in _layer(layer).get("secrets", {}).values()]
    files += [path for service in ALL.values() for path in service.get("env_file", ())]
    assert files
    assert all(path.startswith("./secrets/") for path in files)
    assert "infra/compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_what_is_mounted_from_the_clone_is_there() -> None:
    """Secrets are made by a command, the rest is committed."""
    volumes = [str(volume) for service in ALL.values() for volume in service.get("volumes", ())]
    paths = [volume.split(":")[0] for volume in volumes if volume.startswith(".")]
    lost = [path for path in paths if not path.startswith("./secrets/") and not (FOLDER / path).exists()]
    assert lost == []


def test_named_volumes_secrets_and_dependencies_are_declared() -> None:
    volumes = {name for layer in LAYERS for name in _layer(layer).get("volumes", {})}
    secrets = {name for layer in LAYERS for name in _layer(layer).get("secrets", {})}
    for name, service in ALL.items():
        named = {volume.split(":")[0] for volume in service.get("volumes", ()) if not volume.startswith(".")}
        assert named <= volumes, name
        assert set(service.get("secrets", ())) <= secrets, name
        assert set(service.get("depends_on", {})) <= set(ALL), name


def test_the_broker_is_told_what_the_local_broker_is_told() -> None:
    """One set of decisions: what the launcher writes into server.properties stands here too, but for names and places."""
    said = ALL["kafka"]["environment"]
    names = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs", "node.id"}
    liveness = {"broker.heartbeat.interval.ms", "broker.session.timeout.ms"}  # for a broker that is killed in tests
    for line in broker_properties(Path("/x"), 1, 2).splitlines():
        if line.startswith("#"):
            continue
        key, _, value = line.partition("=")
        if key not in names | liveness:
            assert said[f"KAFKA_{key.replace('.', '_').upper()}"] == value


def test_every_layer_is_one_project_and_builds_our_own_dockerfiles() -> None:
    assert {_layer(layer)["name"] for layer in LAYERS} == {"headrace"}
    for name in NAMES:
        assert ALL[name]["build"]["dockerfile"] == f"{name}/Dockerfile"
        assert (FOLDER / ALL[name]["build"]["context"]).resolve() == ROOT
        assert re.fullmatch(rf"headrace/{name}:0\.1\.0(-gpu)?", ALL[name]["image"])
