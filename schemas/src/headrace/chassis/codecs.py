"""The codec of a service."""

from __future__ import annotations

from headrace.chassis.settings import ServiceSettings
from headrace.contracts.codec import Codec
from headrace.contracts.registry import ConfluentRegistry


def plan_codec(settings: ServiceSettings) -> Codec:
    """The codec of a service: schemas of the registry."""
    return Codec(ConfluentRegistry(settings.registry_url, client_config=settings.registry()))
