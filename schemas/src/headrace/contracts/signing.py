"""Who said it: Ed25519 signatures over control records and artefacts, and short-lived tokens of people.

A principal's public key lies in the trusted folder as `<principal>.pub` (PEM). Naming a principal
proves nothing: every statement here carries a signature by that principal's private key.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from headrace.contracts.errors import Fatal, HeadraceError, Poison, Reason
from headrace.contracts.records import SignedControl

TOKEN_TTL_S_MAX = 600  # a stolen token is worthless soon
CLOCK_SKEW_S = 5  # between the signer's clock and ours
_CONTROL = b"headrace control record v1"  # signatures for one purpose are worthless for another
_PRINCIPAL = re.compile(r"[a-z0-9][a-z0-9._@-]{0,99}")


class NotAuthenticated(HeadraceError):
    """The bearer did not prove who it is. The message is for our log; the caller hears 401 only."""


def load_private(path: str | Path) -> Ed25519PrivateKey:
    """Read a PEM private key. Fatal if it is missing or of another kind."""
    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as e:
        raise Fatal(f"private key unreadable: {path}: {e}: make one with `headrace keys make`") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise Fatal(f"private key is not Ed25519: {path}")
    return key


def write_key_pair(private_path: str | Path, public_path: str | Path) -> None:
    """Make a key pair; the private file is readable by its owner only. Never overwrites a private key."""
    key = Ed25519PrivateKey.generate()
    handle = os.open(private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    Path(public_path).write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


class TrustedKeys:
    """Public keys of a folder, read when asked for; a removed or replaced file takes effect at once."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._cache: dict[str, tuple[int, int, Ed25519PublicKey]] = {}  # principal -> mtime, inode, key

    def public(self, key_id: str) -> Ed25519PublicKey | None:
        """The principal's key, or None if it is not trusted. Names that could leave the folder are not trusted."""
        if not _PRINCIPAL.fullmatch(key_id):
            return None
        path = self._folder / f"{key_id}.pub"
        try:
            stat = path.stat()
            known = self._cache.get(key_id)
            if known is not None and known[:2] == (stat.st_mtime_ns, stat.st_ino):
                return known[2]
            key = load_pem_public_key(path.read_bytes())
        except (OSError, ValueError):
            self._cache.pop(key_id, None)
            return None
        if not isinstance(key, Ed25519PublicKey):
            return None
        self._cache[key_id] = (stat.st_mtime_ns, stat.st_ino, key)
        return key

    def principals(self) -> list[str]:
        """Names with a key file, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.pub"))


def _statement(*parts: bytes) -> bytes:
    """Length-prefixed parts: no two different lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def control_statement(topic: str, key: str, key_id: str, payload: bytes) -> bytes:
    """The bytes signed: purpose, topic, key, principal, payload, each after its length (8 bytes, big-endian)."""
    return _statement(_CONTROL, topic.encode(), key.encode(), key_id.encode(), payload)


def sign_control(private: Ed25519PrivateKey, key_id: str, topic: str, key: str, payload: bytes) -> SignedControl:
    """Wrap the framed bytes of a control record for one topic and key."""
    signature = private.sign(control_statement(topic, key, key_id, payload))
    return SignedControl(topic=topic, key=key, payload=payload, key_id=key_id, signature=signature)


def open_control(
    trusted: TrustedKeys, topic: str, key: str, envelope: SignedControl, allowed: Collection[str] = ("svc-governance",)
) -> bytes:
    """The payload, if an allowed principal signed it for this very topic and key.

    Args:
        topic, key: where the envelope was read, never what it says of itself.
    Raises: Poison UNSIGNED (no signature, or a signer we do not allow or know), BAD_SIGNATURE.
    """
    if not envelope.signature:
        raise Poison(Reason.UNSIGNED, f"no signature on {topic} {key}")
    if envelope.key_id not in allowed:
        raise Poison(Reason.UNSIGNED, f"signed by {envelope.key_id!r}, allowed on {topic}: {', '.join(sorted(allowed))}")
    if (envelope.topic, envelope.key) != (topic, key):
        raise Poison(Reason.BAD_SIGNATURE, f"signed for {envelope.topic} {envelope.key}, read from {topic} {key}")
    public = trusted.public(envelope.key_id)
    if public is None:
        raise Poison(Reason.UNSIGNED, f"no trusted key of {envelope.key_id!r}")
    try:
        public.verify(envelope.signature, control_statement(topic, key, envelope.key_id, envelope.payload))
    except InvalidSignature as e:
        raise Poison(Reason.BAD_SIGNATURE, f"{topic} {key} was not signed by {envelope.key_id}") from e
    return envelope.payload


def sign_bytes(private: Ed25519PrivateKey, data: bytes, purpose: str = "manifest") -> bytes:
    """Signature over an artefact's bytes; good for one purpose only."""
    return private.sign(_statement(b"headrace " + purpose.encode() + b" v1", data))


def verify_bytes(trusted: TrustedKeys, key_id: str, data: bytes, signature: bytes, purpose: str = "manifest") -> None:
    """Raises Poison UNSIGNED (no signature or no trusted key) or BAD_SIGNATURE."""
    public = trusted.public(key_id)
    if not signature or public is None:
        raise Poison(Reason.UNSIGNED, f"{purpose} without a signature of a trusted key ({key_id!r})")
    verify_with(public, data, signature, purpose)


def verify_with(public: Ed25519PublicKey, data: bytes, signature: bytes, purpose: str = "manifest") -> None:
    """As verify_bytes, for a verifier that holds the one key."""
    try:
        public.verify(signature, _statement(b"headrace " + purpose.encode() + b" v1", data))
    except InvalidSignature as e:
        raise Poison(Reason.BAD_SIGNATURE, f"{purpose} bytes do not match their signature") from e


def token(private: Ed25519PrivateKey, subject: str, ttl_s: int, audience: str) -> str:
    """A JWT (EdDSA) that says: I am `subject`, to `audience`, for `ttl_s` seconds."""
    if not 0 < ttl_s <= TOKEN_TTL_S_MAX:
        raise ValueError(f"ttl_s is {ttl_s}, allowed are 1 to {TOKEN_TTL_S_MAX}")
    now = int(time.time())
    claims = {"sub": subject, "aud": audience, "iat": now, "exp": now + ttl_s}
    return jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": subject})


def authenticate(trusted: TrustedKeys, bearer: str, audience: str) -> str:
    """The principal a token proves.

    Args:
        bearer: the token, with or without `Bearer ` before it.
    Raises: NotAuthenticated for everything else: no token, unknown principal, other algorithm, wrong
        audience, expired, or living longer than TOKEN_TTL_S_MAX.
    """
    text = bearer[7:] if bearer[:7].lower() == "bearer " else bearer
    try:
        principal = jwt.get_unverified_header(text).get("kid")
        public = trusted.public(principal) if isinstance(principal, str) else None
        if public is None or not isinstance(principal, str):
            raise NotAuthenticated(f"no trusted key of {principal!r}")
        claims = jwt.decode(
            text, public, algorithms=["EdDSA"], audience=audience, leeway=CLOCK_SKEW_S,
            options={"require": ["sub", "aud", "iat", "exp"]},
        )  # fmt: skip
    except jwt.PyJWTError as e:
        raise NotAuthenticated(f"token refused: {e}") from e
    if claims["sub"] != principal:
        raise NotAuthenticated(f"token of {principal!r} claims to be {claims['sub']!r}")
    if claims["exp"] - claims["iat"] > TOKEN_TTL_S_MAX:
        raise NotAuthenticated(f"token of {principal!r} lives longer than {TOKEN_TTL_S_MAX} s")
    return principal
