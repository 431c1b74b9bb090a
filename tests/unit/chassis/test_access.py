"""Who a process is: settings name files, clients read them, nothing shows what they hold."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from headrace.chassis.access import AccessSettings
from headrace.chassis.errors import Fatal
from headrace.chassis.settings import ServiceSettings
from headrace_local.authority import Authority

SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path / "tls")
    found.ensure()
    return found


def told(authority: Authority, principal: str = "svc-serve") -> dict[str, str]:
    return {
        "HEADRACE_KAFKA_PROTOCOL": "ssl",
        "HEADRACE_KAFKA_CA_FILE": str(authority.believed),
        "HEADRACE_KAFKA_CERTIFICATE_FILE": str(authority.certificate(principal)),
        "HEADRACE_KAFKA_KEY_FILE": str(authority.key(principal)),
    }


def test_without_settings_clients_talk_plain() -> None:
    access = AccessSettings()
    assert (access.kafka(), access.kafka_context(), access.registry(), access.postgres_password()) == ({}, None, {}, None)


def test_both_kinds_of_clients_get_the_same_three_files(authority: Authority) -> None:
    access = AccessSettings.of(told(authority))
    assert access.kafka() == {
        "security.protocol": "ssl",
        "ssl.ca.location": str(authority.believed),
        "ssl.certificate.location": str(authority.certificate("svc-serve")),
        "ssl.key.location": str(authority.key("svc-serve")),
    }
    context = access.kafka_context()
    assert context is not None
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_a_service_reads_them_from_its_environment_among_its_other_settings(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told(authority).items():
        monkeypatch.setenv(name, value)
    assert ServiceSettings.load().kafka() == AccessSettings.of(told(authority)).kafka()


def test_names_given_to_of_win_over_the_environment(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REGISTRY_USER", "somebody")
    assert AccessSettings.of(told(authority)).registry_user == ""


@pytest.mark.parametrize("missing", ["CA", "CERTIFICATE", "KEY"])
def test_tls_without_one_of_its_files_is_refused_by_name(authority: Authority, missing: str) -> None:
    name = f"HEADRACE_KAFKA_{missing}_FILE"
    with pytest.raises(Fatal, match=f"{name} is not set"):
        AccessSettings.of({k: v for k, v in told(authority).items() if k != name}).kafka()
    with pytest.raises(Fatal, match=f"{name}: .*nowhere.* cannot be read"):
        AccessSettings.of(told(authority) | {name: "nowhere.pem"}).kafka()


def test_a_key_of_another_certificate_is_refused_before_anything_connects(authority: Authority) -> None:
    mixed = told(authority) | {"HEADRACE_KAFKA_KEY_FILE": str(authority.key("svc-train"))}
    with pytest.raises(Fatal, match="certificate or key refused"):
        AccessSettings.of(mixed).kafka_context()


def test_a_new_certificate_is_taken_up_by_the_next_client(authority: Authority) -> None:
    """Rotation: the setting names a file, and the file is read when a client is made."""
    access = AccessSettings.of(told(authority))
    assert access.kafka_context() is not None
    authority.replace()
    authority.ensure()
    context = access.kafka_context()
    assert context is not None
    assert len(context.get_ca_certs()) == 2, "the authority before is believed until it is forgotten"


def test_the_database_password_is_what_its_file_holds_now(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    access = AccessSettings(postgres_password_file=file)
    assert access.postgres_password() == "first"
    file.write_text("second")
    assert access.postgres_password() == "second"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_secret_that_cannot_be_had_is_refused_without_its_content(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Fatal, match="HEADRACE_POSTGRES_PASSWORD_FILE: "):
        AccessSettings(postgres_password_file=file).postgres_password()


def test_a_registry_user_without_a_password_is_refused() -> None:
    with pytest.raises(Fatal, match="HEADRACE_REGISTRY_PASSWORD_FILE is not"):
        AccessSettings(registry_user="svc-serve").registry()


def test_nothing_that_shows_settings_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """repr, str, dumps and log lines hold the names of files; the registry's client gets the password itself."""
    file = tmp_path / "password"
    file.write_text(SECRET)
    access = AccessSettings(registry_user="svc-serve", registry_password_file=file, postgres_password_file=file)
    assert access.registry()["basic.auth.user.info"] == f"svc-serve:{SECRET}"
    assert access.postgres_password() == SECRET
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("headrace.test").info("settings %r %s", access, access)
    shown = [repr(access), str(access), access.model_dump_json(), caplog.text]
    assert all(str(file) in text for text in shown)
    assert not any(SECRET in text for text in shown)
