"""The audit chain: each entry carries the hash of the one before it; heads kept elsewhere expose what was cut off.

An entry's hash is SHA-256 over the canonical JSON (RFC 8785) of all its other fields, the previous
hash included. So changing, dropping or swapping entries breaks the chain. Cutting off the end does
not: that is what heads are for. A head {sequence, hash, at_ms}, signed by svc-governance and kept
where svc-governance cannot reach, must be found again in every later export.

    entry 0 <- entry 1 <- entry 2 <- entry 3      export ends here: a head of entry 3 is missed
                             ^ head kept by the auditor
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headrace.contracts.errors import Poison, Reason
from headrace.contracts.records import AuditEntryAppended
from headrace.contracts.signing import sign_bytes, verify_with

GENESIS = "0" * 64  # previous of the first entry
HEAD_PURPOSE = "audit head"


def canonical_json(value: Any) -> str:
    """RFC 8785: one text per value. Raises ValueError for what JSON cannot say exactly (NaN, ints beyond 2**53)."""
    try:
        return rfc8785.dumps(value).decode()
    except rfc8785.CanonicalizationError as e:
        raise ValueError(f"not canonical JSON: {e}") from e


def entry_hash(*, sequence: int, previous: str, at_ms: int, actor: str, action: str, subject: str, body: str) -> str:
    """Hash of one entry, 64 hex.

    Args:
        previous: hash of the entry before, GENESIS for the first.
        body: canonical JSON text; it is hashed as a text.
    """
    fields = {
        "sequence": sequence, "previous": previous, "at_ms": at_ms, "actor": actor, "action": action, "subject": subject,
        "body": body,
    }  # fmt: skip
    return hashlib.sha256(canonical_json(fields).encode()).hexdigest()


def next_entry(
    last: AuditEntryAppended | None, at_ms: int, *, actor: str, action: str, subject: str, body: Mapping[str, Any]
) -> AuditEntryAppended:
    """The entry that follows `last` (None starts a chain)."""
    sequence, previous = (0, GENESIS) if last is None else (last.sequence + 1, last.hash)
    fields: dict[str, Any] = {
        "sequence": sequence, "previous": previous, "at_ms": at_ms, "actor": actor, "action": action, "subject": subject,
        "body": canonical_json(dict(body)),
    }  # fmt: skip
    return AuditEntryAppended(**fields, hash=entry_hash(**fields))


@dataclass(frozen=True, slots=True)
class Head:
    """A signed statement that the chain had reached `sequence` with `hash` at `at_ms`."""

    sequence: int
    hash: str
    at_ms: int
    key_id: str = ""
    signature: bytes = b""

    def statement(self) -> bytes:
        """What is signed."""
        return canonical_json({"sequence": self.sequence, "hash": self.hash, "at_ms": self.at_ms}).encode()

    def to_json(self) -> str:
        """One line, to be kept outside."""
        fields = {"sequence": self.sequence, "hash": self.hash, "at_ms": self.at_ms, "key_id": self.key_id}
        return canonical_json({**fields, "signature": self.signature.hex()})

    @classmethod
    def from_json(cls, text: str) -> Head:
        """Raises: Poison WRONG_TYPE if it is no head."""
        try:
            found = json.loads(text)
            signature = bytes.fromhex(found["signature"])
            return cls(int(found["sequence"]), str(found["hash"]), int(found["at_ms"]), str(found["key_id"]), signature)
        except (ValueError, KeyError, TypeError) as e:
            raise Poison(Reason.WRONG_TYPE, f"not a head: {e}") from e


def sign_head(private: Ed25519PrivateKey, key_id: str, entry: AuditEntryAppended, at_ms: int) -> Head:
    """The head of a chain whose newest entry is `entry`."""
    bare = Head(entry.sequence, entry.hash, at_ms, key_id)
    return Head(entry.sequence, entry.hash, at_ms, key_id, sign_bytes(private, bare.statement(), HEAD_PURPOSE))


def verify_head(public: Ed25519PublicKey, head: Head) -> None:
    """Raises: Poison BAD_SIGNATURE."""
    verify_with(public, head.statement(), head.signature, HEAD_PURPOSE)


@dataclass(frozen=True, slots=True)
class ChainVerdict:
    """What a verifier found.

    Attributes:
        entries: how many entries held, from the first on.
        last_hash: hash of the last that held, GENESIS if none.
        heads: how many kept heads were found again.
        problem: empty if all is well; else what, where.
    """

    ok: bool
    entries: int
    last_hash: str
    heads: int = 0
    problem: str = ""


def verify_chain(
    entries: Iterable[AuditEntryAppended], heads: Iterable[Head] = (), public: Ed25519PublicKey | None = None
) -> ChainVerdict:
    """Check a whole chain, from its first entry, against itself and against heads kept outside.

    Args:
        public: svc-governance's key; given, each head's signature is checked first.
    """
    hashes: list[str] = []
    for entry in entries:
        problem = _problem(entry, len(hashes), hashes[-1] if hashes else GENESIS)
        if problem:
            return ChainVerdict(False, len(hashes), hashes[-1] if hashes else GENESIS, problem=problem)
        hashes.append(entry.hash)
    last = hashes[-1] if hashes else GENESIS
    found = 0
    for head in heads:
        problem = _head_problem(head, hashes, public)
        if problem:
            return ChainVerdict(False, len(hashes), last, found, problem)
        found += 1
    return ChainVerdict(True, len(hashes), last, found)


def _problem(entry: AuditEntryAppended, sequence: int, previous: str) -> str:
    if entry.sequence != sequence:
        return f"gap: entry {entry.sequence} where {sequence} is expected"
    if entry.previous != previous:
        return f"broken link: entry {sequence} does not follow entry {sequence - 1}"
    fields = entry.to_avro()
    expected = entry_hash(**{name: value for name, value in fields.items() if name != "hash"})
    return "" if entry.hash == expected else f"altered: entry {sequence} does not match its hash"


def _head_problem(head: Head, hashes: list[str], public: Ed25519PublicKey | None) -> str:
    if public is not None:
        try:
            verify_head(public, head)
        except Poison as e:
            return f"head of entry {head.sequence}: {e.detail}"
    if head.sequence >= len(hashes):
        return f"truncated: a head of entry {head.sequence} was kept, the chain ends with {len(hashes) - 1}"
    if hashes[head.sequence] != head.hash:
        return f"rewritten: entry {head.sequence} is not the one whose head was kept"
    return ""


def export_line(entry: AuditEntryAppended) -> str:
    """One entry of an export: canonical JSON, one line."""
    return canonical_json(entry.to_avro())


def read_export(lines: Iterable[str]) -> list[AuditEntryAppended]:
    """Entries of an export (JSON lines). Raises Poison WRONG_TYPE if a line is none."""
    entries: list[AuditEntryAppended] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(AuditEntryAppended.from_avro(json.loads(line)))
        except (ValueError, KeyError, TypeError) as e:
            raise Poison(Reason.WRONG_TYPE, f"line {number} of the export is no audit entry: {e}") from e
    return entries
