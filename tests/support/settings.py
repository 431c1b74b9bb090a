"""The settings class of each service."""

from __future__ import annotations

from importlib import import_module

from headrace.chassis.settings import ServiceSettings


def settings_of(service: str) -> type[ServiceSettings]:
    """What `svc-x` reads from its environment."""
    module = import_module(f"{service.replace('-', '_')}.settings")
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ServiceSettings) and value is not ServiceSettings
    ]
    return found
