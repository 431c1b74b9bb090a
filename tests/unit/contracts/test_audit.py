"""The chain: any change to what was appended shows, and so does cutting it short."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts import audit
from headrace.contracts.errors import Poison
from headrace.contracts.records import AuditEntryAppended

KEY = Ed25519PrivateKey.generate()


def _chain(n: int) -> list[AuditEntryAppended]:
    entries: list[AuditEntryAppended] = []
    for i in range(n):
        last = entries[-1] if entries else None
        entries.append(
            audit.next_entry(last, 1000 + i, actor="ann", action="pipeline.admitted", subject="flights", body={"n": i})
        )
    return entries


CHAIN = _chain(6)


def test_an_untouched_chain_verifies_from_its_export() -> None:
    lines = [audit.export_line(entry) for entry in CHAIN]
    heads = [audit.sign_head(KEY, "svc-governance", CHAIN[i], 2000) for i in (0, 3, 5)]
    verdict = audit.verify_chain(audit.read_export(lines), heads, KEY.public_key())
    assert (verdict.ok, verdict.entries, verdict.last_hash, verdict.heads) == (True, 6, CHAIN[-1].hash, 3)


@given(
    st.integers(0, 5),
    st.sampled_from(["sequence", "previous", "at_ms", "actor", "action", "subject", "body", "hash"]),
    st.booleans(),
)
def test_an_entry_altered_anywhere_breaks_the_chain_there(at: int, name: str, rehashed: bool) -> None:
    """Also when the forger computes the entry's own hash again: then the next link, or the head, breaks."""
    old: Any = getattr(CHAIN[at], name)
    altered = replace(CHAIN[at], **{name: old + 1 if isinstance(old, int) else "x" + old[1:] if old[:1] != "x" else "y"})
    if rehashed:
        fields = {k: v for k, v in altered.to_avro().items() if k != "hash"}
        altered = replace(altered, hash=audit.entry_hash(**fields))
    entries = [*CHAIN[:at], altered, *CHAIN[at + 1 :]]
    head = audit.sign_head(KEY, "svc-governance", CHAIN[-1], 2000)
    if altered == CHAIN[at]:  # its hash was altered and computed again
        assert audit.verify_chain(entries, [head]).ok
        return
    verdict = audit.verify_chain(entries, [head])
    assert not verdict.ok
    assert verdict.entries in (at, at + 1, 6)


@pytest.mark.parametrize("entries", [CHAIN[1:], [*CHAIN[:2], *CHAIN[3:]], [CHAIN[1], CHAIN[0]], [CHAIN[0], *CHAIN]])
def test_dropped_swapped_and_repeated_entries_break_the_chain(entries: list[AuditEntryAppended]) -> None:
    assert not audit.verify_chain(entries).ok


def test_a_shortened_chain_is_whole_in_itself_and_exposed_by_a_kept_head() -> None:
    head = audit.sign_head(KEY, "svc-governance", CHAIN[4], 2000)
    assert audit.verify_chain(CHAIN[:3]).ok
    verdict = audit.verify_chain(CHAIN[:3], [head], KEY.public_key())
    assert not verdict.ok
    assert "truncated" in verdict.problem


def test_a_chain_written_anew_is_exposed_by_a_kept_head() -> None:
    head = audit.sign_head(KEY, "svc-governance", CHAIN[1], 2000)
    other = [audit.next_entry(None, 5, actor="eve", action="a", subject="s", body={})]
    other.append(audit.next_entry(other[0], 6, actor="eve", action="a", subject="s", body={}))
    verdict = audit.verify_chain(other, [head], KEY.public_key())
    assert not verdict.ok
    assert "rewritten" in verdict.problem


def test_a_head_survives_being_kept_as_text_and_a_forged_one_is_seen() -> None:
    head = audit.sign_head(KEY, "svc-governance", CHAIN[2], 2000)
    kept = audit.Head.from_json(head.to_json())
    assert kept == head
    assert not audit.verify_chain(CHAIN, [replace(kept, sequence=3, hash=CHAIN[3].hash)], KEY.public_key()).ok
    for text in ("", "{}", "[]", '{"sequence": 1}'):
        with pytest.raises(Poison):
            audit.Head.from_json(text)


def test_bodies_are_canonical_and_floats_that_json_cannot_say_are_refused() -> None:
    entry = audit.next_entry(None, 1, actor="a", action="b", subject="c", body={"b": 1, "a": [True, None, "é"]})
    assert entry.body == '{"a":[true,null,"é"],"b":1}'
    with pytest.raises(ValueError, match="canonical"):
        audit.next_entry(None, 1, actor="a", action="b", subject="c", body={"x": float("nan")})


def test_the_hash_is_what_the_documentation_says() -> None:
    """A verifier of another language needs SHA-256 and RFC 8785 only."""
    import hashlib

    fields = {k: v for k, v in CHAIN[0].to_avro().items() if k != "hash"}
    by_hand = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()  # ASCII keys and values: the same as RFC 8785
    assert hashlib.sha256(by_hand).hexdigest() == CHAIN[0].hash


def test_a_line_that_is_no_entry_is_named() -> None:
    with pytest.raises(Poison, match="line 2"):
        audit.read_export([audit.export_line(CHAIN[0]), "{}"])
