"""What people and tools ask of svc-governance, with a short-lived token signed by the caller's own key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.client.local_stack import GOVERNANCE_URL, address
from headrace.contracts.audit import read_export
from headrace.contracts.signing import token

AUDIENCE = "svc-governance"
TOKEN_TTL_S = 60
TIMEOUT_S = 30.0  # above the service's own bound on an answer

Json = dict[str, Any]


class Refused(Exception):
    """The service said no: `status` as HTTP has it (401 who are you, 403 you may not, 409 not now), `detail` why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


class Unreachable(Exception):
    """Nobody answers at that address."""


class GovernanceClient:
    """Blocking; a principal with its private key may give commands, without one only look.

    Every method raises Refused or Unreachable.
    """

    def __init__(
        self,
        url: str = "",
        principal: str = "",
        private: Ed25519PrivateKey | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=address(GOVERNANCE_URL, url), timeout=TIMEOUT_S, transport=transport)
        self._principal, self._private = principal, private

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def apply(self, plan: bytes) -> Json:
        """Put a plan (canonical JSON) in force; the same plan again changes nothing."""
        return self._command("POST", "/v1/pipelines", content=plan, headers={"content-type": "application/json"})

    def retire(self, pipeline: str) -> Json:
        return self._command("DELETE", f"/v1/pipelines/{_word(pipeline)}")

    def train(self, pipeline: str, model: str, from_ms: int, until_ms: int, request_id: str = "") -> Json:
        """Ask for one run over requests of [from_ms, until_ms); the same request_id starts one run only."""
        body = {"pipeline": pipeline, "model": model, "from_ms": from_ms, "until_ms": until_ms, "request_id": request_id}
        return self._command("POST", "/v1/training-requests", json=body)

    def approve(self, candidate_id: str, reason: str = "") -> Json:
        return self._command("POST", f"/v1/candidates/{_word(candidate_id)}/approve", json={"reason": reason})

    def reject(self, candidate_id: str, reason: str = "") -> Json:
        return self._command("POST", f"/v1/candidates/{_word(candidate_id)}/reject", json={"reason": reason})

    def kill(self, pipeline: str, model: str) -> Json:
        """Rules answer from now on."""
        return self._command("POST", f"/v1/models/{_word(pipeline)}/{_word(model)}/kill")

    def pipelines(self) -> list[Json]:
        return self._read("/v1/pipelines")

    def pipeline(self, name: str) -> Json:
        """With the services' answers, and those still waited for."""
        return self._read(f"/v1/pipelines/{_word(name)}")

    def plan(self, pipeline: str) -> bytes | None:
        """The plan in force as canonical JSON, as the audit tells it; None if there is none. Raises HeadraceError too."""
        found: bytes | None = None
        for entry in read_export(self.export()):
            if entry.subject == pipeline and entry.action in ("pipeline.admitted", "pipeline.retired"):
                body = json.loads(entry.body)
                found = body["plan"].encode() if entry.action == "pipeline.admitted" else None
        return found

    def trainings(self) -> list[Json]:
        return self._read("/v1/training-requests")

    def candidates(self) -> list[Json]:
        return self._read("/v1/candidates")

    def rollouts(self) -> list[Json]:
        return self._read("/v1/rollouts")

    def findings(self) -> list[Json]:
        return self._read("/v1/findings")

    def head(self) -> Json:
        """The signed head of the audit chain."""
        return self._read("/v1/audit/head")

    def export(self) -> Iterator[str]:
        """The whole audit chain, one JSON line per entry."""
        try:
            with self._http.stream("GET", "/v1/audit/export") as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _command(self, method: str, path: str, **arguments: Any) -> Any:
        headers: dict[str, str] = dict(arguments.pop("headers", {}))
        if self._private is not None:
            headers["authorization"] = f"Bearer {token(self._private, self._principal, TOKEN_TTL_S, AUDIENCE)}"
        return self._send(method, path, headers=headers, **arguments)

    def _read(self, path: str) -> Any:
        return self._send("GET", path)

    def _send(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refusal(response)
        return response.json()

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(f"svc-governance does not answer at {self._http.base_url}: {error}: is the stack up?")


def _word(text: str) -> str:
    """One part of a path, whatever it holds."""
    return quote(text, safe="")


def _refusal(response: httpx.Response) -> Refused:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text[:500]
    return Refused(response.status_code, detail if isinstance(detail, str) else str(detail))
