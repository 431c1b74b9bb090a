"""Settings are read once, are frozen, keep secrets, and refuse names nobody reads."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from headrace.chassis.errors import Fatal
from headrace.chassis.settings import ServiceSettings


class IngestSettings(ServiceSettings):
    service = "svc-ingest"
    http_port: int = Field(default=18101, ge=0, le=65535)
    body_bytes_max: int = Field(default=1 << 20, gt=0, description="largest accepted request body")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


def test_defaults_hold_where_nothing_is_set() -> None:
    """A bare environment gives the local stack's addresses and the subclass's own default port."""
    settings = IngestSettings.load()
    assert (settings.bootstrap, settings.http_port, settings.body_bytes_max) == ("127.0.0.1:19092", 18101, 1 << 20)


def test_the_environment_overrides_and_the_result_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are typed; nothing can be set afterwards."""
    monkeypatch.setenv("HEADRACE_HTTP_PORT", "0")
    monkeypatch.setenv("HEADRACE_ZIPKIN_URL", "")
    settings = IngestSettings.load()
    assert (settings.http_port, settings.zipkin_url) == (0, "")
    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]


def test_an_unknown_name_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt setting must not be ignored; other prefixes and the test harness's names are not ours to judge."""
    monkeypatch.setenv("HEADRACE_BOOTSTRP", "x:1")
    monkeypatch.setenv("HEADRACE_TEST_BOOTSTRAP", "x:1")
    monkeypatch.setenv("OTHER_BOOTSTRAP", "x:1")
    with pytest.raises(Fatal) as refusal:
        IngestSettings.load()
    assert "svc-ingest" in str(refusal.value)
    assert "unknown setting HEADRACE_BOOTSTRP, did you mean HEADRACE_BOOTSTRAP?" in str(refusal.value)
    assert "TEST" not in str(refusal.value)
    assert "OTHER" not in str(refusal.value)


def test_every_bad_value_is_named_and_none_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal may land in a log: it names settings, not their values."""
    monkeypatch.setenv("HEADRACE_HTTP_PORT", "hunter2")
    monkeypatch.setenv("HEADRACE_LOG_LEVEL", "hunter3")
    with pytest.raises(Fatal) as refusal:
        IngestSettings.load()
    assert "HEADRACE_HTTP_PORT" in str(refusal.value)
    assert "HEADRACE_LOG_LEVEL" in str(refusal.value)
    assert "hunter" not in str(refusal.value)


def test_a_secret_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither repr nor str nor JSON carry the password."""
    monkeypatch.setenv("HEADRACE_POSTGRES_DSN", "postgresql://u:hunter2@h/db")
    settings = IngestSettings.load()
    assert settings.postgres_dsn.get_secret_value().endswith("@h/db")
    assert not any("hunter2" in shown for shown in (repr(settings), str(settings), settings.model_dump_json()))
