"""Settings: frozen, typed, read once from HEADRACE_* names, passed down. Unknown names are refused at start."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from headrace.chassis.access import PREFIX, AccessSettings
from headrace.chassis.errors import Fatal

TEST_PREFIX = "HEADRACE_TEST_"  # names the test harness reads; a service started by a test inherits and ignores them


class ServiceSettings(AccessSettings):
    """What every service is told. A subclass sets `service` and the default port, and adds its own fields."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    service: ClassVar[str] = "headrace"

    bootstrap: str = Field(default="127.0.0.1:19092", description="Kafka brokers, host:port, comma separated")
    registry_url: str = Field(
        default="http://127.0.0.1:18081/apis/ccompat/v7", description="schema registry, Confluent-compatible API"
    )
    zipkin_url: str = Field(
        default="http://127.0.0.1:19411", description="trace store that takes Zipkin JSON; empty means no traces"
    )
    otlp_url: str = Field(default="", description="OTLP/HTTP trace endpoint; when set, traces go there instead of to Zipkin")
    postgres_dsn: SecretStr = Field(default=SecretStr(""), description="PostgreSQL connection string")
    object_store: Path = Field(default=Path(".headrace/objects"), description="folder of content-addressed bodies")
    state_dir: Path = Field(default=Path(".headrace/state"), description="folder of this replica's local state")
    http_host: str = Field(default="127.0.0.1", description="address of the health, metrics and edge port")
    http_port: int = Field(default=18100, ge=0, le=65535, description="that port; 0 takes a free one")
    instance: str = Field(
        default="0", pattern=r"^[A-Za-z0-9._-]+$", description="static id of this replica, stable over restarts"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severe level logged")
    trusted_keys: Path | None = Field(default=None, description="folder of public keys, <principal>.pub, PEM Ed25519")
    key_file: Path | None = Field(default=None, description="this service's private key, PEM Ed25519")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings  # one source outside code: the environment

    @classmethod
    def environment_names(cls) -> tuple[str, ...]:
        """The names this service reads, as its README lists them."""
        return tuple(f"{PREFIX}{field.upper()}" for field in cls.model_fields)

    @classmethod
    def load(cls) -> Self:
        """Read the environment once.

        Raises: Fatal naming every unknown name (with the nearest known one) and every value that does not fit;
        values are never shown, they may be secrets.
        """
        complaints = _unknown(os.environ, cls.environment_names())
        settings = None
        try:
            settings = cls()
        except ValidationError as error:
            complaints += [
                f"{PREFIX}{_name(entry['loc'])}: {entry['msg'].lower()}" for entry in error.errors(include_input=False)
            ]
        if complaints or settings is None:
            raise Fatal(f"settings of {cls.service} refused: " + "; ".join(complaints))
        return settings


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location).upper().removeprefix(PREFIX)


def _unknown(environment: Iterable[str], known: tuple[str, ...]) -> list[str]:
    complaints = []
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or name.upper().startswith(TEST_PREFIX) or name.upper() in known:
            continue
        nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)
        complaints.append(f"unknown setting {name}, did you mean {nearest[0]}?")
    return complaints
