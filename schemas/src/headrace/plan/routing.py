"""Deterministic assignment of keys to samples and arms, equal on every replica.

Use a different salt per purpose: with one salt the keys of a small sample would also be the
keys of the first canary step.
"""

from __future__ import annotations

import hashlib
from typing import Literal

BUCKETS = 10_000  # one bucket is one basis point
DECISIONS_SALT = "decisions"  # which requests a model decides; another than a rollout's: the sample must not be the canary

Arm = Literal["champion", "challenger"]


def bucket(salt: str, key: str) -> int:
    """0..9999, uniform over keys: SHA-256 of the length-prefixed salt and the key, first 8 bytes, modulo 10,000.

    The modulo bias is below 1e-15. The prefix keeps ("ab", "c") and ("a", "bc") apart.
    """
    salted = salt.encode()
    digest = hashlib.sha256(len(salted).to_bytes(4, "big") + salted + key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def sampled(salt: str, key: str, basis_points: int) -> bool:
    """Whether the key belongs to the sample. Monotone: a larger sample contains every smaller one."""
    return bucket(salt, key) < basis_points


def arm(salt: str, key: str, challenger_basis_points: int) -> Arm:
    """The arm that answers this key. Sticky, and monotone: a growing weight never moves a key back to the champion."""
    return "challenger" if bucket(salt, key) < challenger_basis_points else "champion"
