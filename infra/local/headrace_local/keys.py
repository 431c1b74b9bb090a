"""Ed25519 key pairs of the principals of a local stack.

keys/private/<name>.pem           PKCS 8, mode 0600, in a folder of mode 0700
keys/private/postgres.password    of the database, where the stack is secure
keys/trusted/<name>.pub           what everyone may know
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SERVICE_PRINCIPALS = ("svc-governance", "svc-train")
# ada proposes models, grace approves them, ops runs the platform.
PEOPLE = ("ada", "grace", "ops")


def ensure(folder: Path) -> None:
    """Make the key pairs that are missing; existing ones stay. Idempotent."""
    private, trusted = folder / "private", folder / "trusted"
    private.mkdir(parents=True, exist_ok=True)
    private.chmod(0o700)
    trusted.mkdir(exist_ok=True)
    for name in SERVICE_PRINCIPALS + PEOPLE:
        key_file, public_file = private / f"{name}.pem", trusted / f"{name}.pub"
        if key_file.exists():
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        else:
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            write_file(key_file, pem, 0o600)
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        if not public_file.exists() or public_file.read_bytes() != public:
            write_file(public_file, public, 0o644)


def ensure_password(file: Path) -> None:
    """Make a password if there is none; letters and digits, 256 bits. Idempotent."""
    if not file.exists():
        write_file(file, secrets.token_hex(32).encode(), 0o600)


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others on the way."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    partial.replace(path)
