"""Manifests of candidates from the object store, with svc-train's signature checked over the very bytes read."""

from __future__ import annotations

from headrace.chassis.objects import ObjectStore
from headrace.contracts.errors import HeadraceError, Poison, Retryable
from headrace.contracts.records import ModelTrained
from headrace.contracts.signing import TrustedKeys, verify_bytes
from svc_governance.domain.gate import ManifestEvidence

SIGNER = "svc-train"
MISSING_ATTEMPTS_MAX = 5  # a store may lag behind the topic, but a candidate of nothing must not stop the chain


class StoredManifests:
    def __init__(self, objects: ObjectStore, trusted: TrustedKeys) -> None:
        self._objects, self._trusted = objects, trusted
        self._missing: dict[str, int] = {}  # candidate -> attempts in vain

    def evidence(self, trained: ModelTrained) -> ManifestEvidence:
        try:
            content = self._objects.get(trained.manifest_reference, trained.manifest_digest)
        except Retryable as error:
            attempts = self._missing[trained.candidate_id] = self._missing.get(trained.candidate_id, 0) + 1
            if attempts < MISSING_ATTEMPTS_MAX:
                raise
            return ManifestEvidence(None, False, str(error))
        except HeadraceError as error:
            return ManifestEvidence(None, False, str(error))
        if trained.key_id != SIGNER:
            return ManifestEvidence(content, False, f"signed by {trained.key_id!r}, only {SIGNER} may")
        try:
            verify_bytes(self._trusted, SIGNER, content, trained.signature)
        except Poison as fault:
            return ManifestEvidence(content, False, str(fault))
        return ManifestEvidence(content, True)
