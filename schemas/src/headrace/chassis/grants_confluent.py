"""Rights at Apache Kafka: given, taken back, listed. Idempotent; what is asked for is in force when a call returns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,  # pyright: ignore[reportPrivateImportUsage]
    AclBindingFilter,  # pyright: ignore[reportPrivateImportUsage]
    AclOperation,  # pyright: ignore[reportPrivateImportUsage]
    AclPermissionType,  # pyright: ignore[reportPrivateImportUsage]
    AdminClient,
    ResourcePatternType,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from headrace.chassis.client_errors import of_exception
from headrace.chassis.errors import Retryable
from headrace.chassis.logs import kafka_log
from headrace.contracts.grants import Grant, Resource

CALL_TIMEOUT_S = 10.0
IN_FORCE_TIMEOUT_S = 10.0  # the broker follows the log of its controllers
PRINCIPAL = "User:"  # Kafka's word for what a certificate's name is mapped to
_KINDS: dict[Resource, ResourceType] = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,  # the client's name for it
}
_RESOURCES: dict[ResourceType, Resource] = {kind: name for name, kind in _KINDS.items()}


class Grants(Protocol):
    """Who gives rights."""

    def give(self, grants: Sequence[Grant]) -> None:
        """Return when all of them are in force. Raises: Retryable, Fatal (the caller may not give rights, or nobody asks)."""
        ...

    def take_back(self, grants: Sequence[Grant]) -> None:
        """Rights that are not there are fine. Raises: Retryable, Fatal."""
        ...


class ConfluentGrants:
    """One client; thread-safe."""

    def __init__(self, bootstrap: str, client_config: Mapping[str, Any] | None = None) -> None:
        self._client = AdminClient({"bootstrap.servers": bootstrap, **(client_config or {})}, logger=kafka_log)

    def give(self, grants: Sequence[Grant]) -> None:
        wanted = {*grants}
        missing = wanted - self.listed()
        if not missing:
            return
        self._results("give rights", self._client.create_acls([_binding(g) for g in missing], request_timeout=CALL_TIMEOUT_S))
        deadline = time.monotonic() + IN_FORCE_TIMEOUT_S
        while not wanted <= self.listed():
            if time.monotonic() > deadline:
                raise Retryable(f"rights not in force after {IN_FORCE_TIMEOUT_S} s")
            time.sleep(0.02)

    def take_back(self, grants: Sequence[Grant]) -> None:
        present = {*grants} & self.listed()
        if present:
            filters = [_filter(grant) for grant in present]
            self._results("take back rights", self._client.delete_acls(filters, request_timeout=CALL_TIMEOUT_S))

    def listed(self) -> set[Grant]:
        """What is in force of the kinds we know; other people's rights (denials, other hosts) are left out."""
        anyone: Any = None  # the client takes None for every name, whatever its types say
        words = (ResourceType.ANY, anyone, ResourcePatternType.ANY, anyone, anyone, AclOperation.ANY, AclPermissionType.ANY)
        every = AclBindingFilter(*words)
        (found,) = self._results("list rights", {"all": self._client.describe_acls(every, request_timeout=CALL_TIMEOUT_S)})
        return {grant for binding in found if (grant := _grant(binding)) is not None}

    def _results(self, what: str, futures: Mapping[Any, Any]) -> list[Any]:
        try:
            return [future.result(timeout=CALL_TIMEOUT_S * 2) for future in futures.values()]
        except KafkaException as error:
            raise of_exception(what, error) from error
        except TimeoutError as error:
            raise Retryable(f"{what}: no answer") from error
        finally:
            self._client.poll(0)  # hands what the client logged to the logger


def _words(grant: Grant) -> tuple[ResourceType, str, ResourcePatternType, str, str, AclOperation]:
    pattern = ResourcePatternType.PREFIXED if grant.prefixed else ResourcePatternType.LITERAL
    operation = AclOperation[grant.operation]
    return _KINDS[grant.resource], grant.name, pattern, f"{PRINCIPAL}{grant.principal}", "*", operation


def _binding(grant: Grant) -> AclBinding:
    return AclBinding(*_words(grant), AclPermissionType.ALLOW)


def _filter(grant: Grant) -> AclBindingFilter:
    return AclBindingFilter(*_words(grant), AclPermissionType.ALLOW)


def _grant(binding: AclBinding) -> Grant | None:
    restype: Any = binding.restype  # an enum, whatever the client's types say
    resource = _RESOURCES.get(restype)
    if resource is None or binding.permission_type != AclPermissionType.ALLOW or binding.host != "*":
        return None
    prefixed = binding.resource_pattern_type == ResourcePatternType.PREFIXED
    operation: Any = binding.operation
    return Grant(binding.principal.removeprefix(PRINCIPAL), operation.name, resource, binding.name, prefixed)


def kafka_commands(grants: Iterable[Grant]) -> list[str]:
    """The same rights as arguments of Kafka's own `kafka-acls`, for a cluster whose rights somebody else gives."""
    lines = []
    for grant in grants:
        who = f"--allow-principal {PRINCIPAL}{grant.principal}"
        where = "--cluster" if grant.resource == "cluster" else f"--{grant.resource} '{grant.name}'"
        pattern = " --resource-pattern-type prefixed" if grant.prefixed else ""
        operation = grant.operation.title().replace("_", "")
        lines.append(f"kafka-acls --add {who} --operation {operation} {where}{pattern}")
    return lines
