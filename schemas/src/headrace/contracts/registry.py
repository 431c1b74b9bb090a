"""Schema registries: Confluent's protocol over HTTP, and one in memory with the same answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from headrace.contracts.errors import Fatal, Poison, Reason, Retryable

try:  # Confluent's client uses the one it finds, and lets its errors through
    from httpx2 import HTTPError
except ImportError:
    from httpx import HTTPError

UNKNOWN_ID_S = 5.0  # a flood of bad ids asks the registry once in this time, a schema registered later is seen soon
UNKNOWN_IDS_MAX = 1024  # ids come from outside: bounded
TIMEOUT_S = 5.0

T = TypeVar("T")


class Registry(Protocol):
    """Where schemas have ids. Thread-safe."""

    def register(self, subject: str, schema: Mapping[str, Any], compatibility: str | None = None) -> int:
        """Id of this schema under a subject; the same schema gives the same id again.

        Args:
            compatibility: level of the subject, e.g. FULL_TRANSITIVE; None leaves the registry's.
        Raises: Fatal if it is incompatible with what is registered, Retryable if nobody answers.
        """
        ...

    def schema(self, schema_id: int) -> dict[str, Any]:
        """Raises: Poison UNKNOWN_SCHEMA if there is none of this id, Retryable if nobody answers."""
        ...


class MemoryRegistry:
    """For tests and the in-memory bus. Checks no compatibility."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self.subjects: dict[str, list[int]] = {}

    def register(self, subject: str, schema: Mapping[str, Any], compatibility: str | None = None) -> int:
        text = canonical(schema)
        with self._lock:
            schema_id = self._ids.setdefault(text, len(self._ids) + 1)
            self._schemas[schema_id] = json.loads(text)
            versions = self.subjects.setdefault(subject, [])
            if schema_id not in versions:
                versions.append(schema_id)
        return schema_id

    def schema(self, schema_id: int) -> dict[str, Any]:
        known = self._schemas.get(schema_id)
        if known is None:
            raise Poison(Reason.UNKNOWN_SCHEMA, f"no schema with id {schema_id}")
        return known


class ConfluentRegistry:
    """A registry that speaks Confluent's HTTP protocol, through Confluent's client. Caches for ever what never changes."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = TIMEOUT_S,
        client_config: Mapping[str, Any] | None = None,
    ) -> None:
        """No request is made here.

        Args:
            url: base of the protocol, e.g. http://127.0.0.1:18081/apis/ccompat/v7.
            clock: monotonic seconds, ages the memory of unknown ids.
            client_config: more settings of Confluent's client: authorities, a user's name and password.
        """
        self._url = url
        patience = {"timeout": timeout_s, "max.retries": 0}  # callers back off
        self._client = SchemaRegistryClient({"url": url, **patience, **(client_config or {})})
        self._clock = clock
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, dict[str, Any]] = {}
        self._unknown: dict[int, float] = {}  # schema id -> when the registry said no
        self._lock = threading.Lock()

    def register(self, subject: str, schema: Mapping[str, Any], compatibility: str | None = None) -> int:
        text = canonical(schema)
        with self._lock:
            known = self._ids.get((subject, text))
            if known is not None:
                return known
            schema_id = self._ask(f"register {subject}", lambda: self._client.register_schema(subject, Schema(text, "AVRO")))
            if compatibility is not None:
                self._set_compatibility(subject, compatibility)
            self._ids[subject, text] = schema_id
        return schema_id

    def schema(self, schema_id: int) -> dict[str, Any]:
        known = self._schemas.get(schema_id)
        if known is not None:
            return known
        with self._lock:
            refused = self._unknown.get(schema_id)
            if refused is None or self._clock() - refused >= UNKNOWN_ID_S:
                found = self._fetch(schema_id)
                if found is not None:
                    self._schemas[schema_id] = found
                    self._unknown.pop(schema_id, None)
                    return found
                if len(self._unknown) >= UNKNOWN_IDS_MAX:
                    self._unknown.clear()
                self._unknown[schema_id] = self._clock()
        raise Poison(Reason.UNKNOWN_SCHEMA, f"the registry knows no schema with id {schema_id}")

    def _set_compatibility(self, subject: str, level: str) -> None:
        """Services start together and set one level at once: the one that comes second finds the rule made, and sets it."""

        def set_level() -> None:
            try:
                self._client.set_compatibility(subject_name=subject, level=level)
            except SchemaRegistryError as error:
                if "already exists" not in str(error):
                    raise
                self._client.set_compatibility(subject_name=subject, level=level)

        self._ask(f"set compatibility of {subject}", set_level)

    def _fetch(self, schema_id: int) -> dict[str, Any] | None:
        try:
            found = self._ask(f"get schema {schema_id}", lambda: self._client.get_schema(schema_id))
        except _NotFound:
            return None
        try:
            parsed = json.loads(found.schema_str or "")
        except ValueError:
            return None  # another kind of schema (Protobuf): not decodable here
        return parsed if isinstance(parsed, dict) else None

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """Ask, and say whose fault a failure is."""
        try:
            return call()
        except SchemaRegistryError as e:
            if e.http_status_code == 404:
                raise _NotFound(f"registry does not know the way: {what} at {self._url}: see HEADRACE_REGISTRY_URL") from e
            if e.http_status_code in (409, 422):
                hint = "keep the fields, give new ones a default, or open a new topic version"
                raise Fatal(f"schema refused by the registry: {what}: {e.error_message}: {hint}") from e
            if e.http_status_code >= 500 or e.http_status_code == 429:
                raise Retryable(f"registry failed: {what}: {e}") from e
            raise Fatal(f"registry refused: {what} at {self._url}: {e}") from e
        except (HTTPError, OSError) as e:
            raise Retryable(f"registry unreachable: {what} at {self._url}: {e}") from e


def canonical(schema: Mapping[str, Any]) -> str:
    """One text per schema: some registries give a new id for other white space."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


class _NotFound(Fatal):
    pass
