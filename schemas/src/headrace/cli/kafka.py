"""What commands that ask the broker share: its address, the registry's, and how they end when nobody answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from confluent_kafka.admin import AdminClient

from headrace.chassis.access import AccessSettings
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.logs import kafka_log
from headrace.cli.places import FOUND, Bootstrap, RegistryUrl
from headrace.cli.terminal import printer
from headrace.client.ingest import Unanswered
from headrace.client.letters import holds_letters
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.errors import HeadraceError

METADATA_TIMEOUT_S = 10.0

BOOTSTRAP = REGISTRY_URL = FOUND

__all__ = [
    "BOOTSTRAP", "REGISTRY_URL", "Bootstrap", "RegistryUrl",
    "access", "complaints", "console", "doors", "letter_topics", "told",
]  # fmt: skip

console = printer()
complaints = printer(stderr=True)


@contextmanager
def told() -> Iterator[None]:
    """What the broker, the registry or svc-ingest say ends the command with a message and exit code 1."""
    try:
        yield
    except (HeadraceError, Unanswered) as error:
        complaints.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from None


def access() -> dict[str, Any]:
    """The Kafka client's settings of identity, as the environment says. Raises: HeadraceError naming what is missing."""
    return AccessSettings().kafka()


def doors(bootstrap: str, registry: str) -> tuple[ConfluentBus, ConfluentRegistry, Codec]:
    """Bus, registry and codec, as whom the environment says. Raises: HeadraceError."""
    known = ConfluentRegistry(registry, client_config=AccessSettings().registry())
    return ConfluentBus(bootstrap, access()), known, Codec(known)


def letter_topics(bootstrap: str) -> list[str]:
    """Topics of dead letters and of late records there are. Raises: HeadraceError if the broker does not answer."""
    try:
        base = {"bootstrap.servers": bootstrap, **access()}
        found = AdminClient(base, logger=kafka_log).list_topics(timeout=METADATA_TIMEOUT_S).topics
    except Exception as error:  # the client raises its own kind only
        raise HeadraceError(f"no answer from {bootstrap}: {error}; is the stack up?") from error
    return sorted(name for name in found if holds_letters(name))
