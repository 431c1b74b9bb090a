"""A statement counts only with the right key, for the right place, within its time."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.contracts import signing
from headrace.contracts.errors import Fatal, Poison, Reason
from headrace.contracts.signing import NotAuthenticated, TrustedKeys

TOPIC = "governance.pipelines.v1"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Ed25519PrivateKey]:
    """Private keys of three principals whose public keys lie in tmp_path/trusted."""
    (tmp_path / "trusted").mkdir()
    made: dict[str, Ed25519PrivateKey] = {}
    for name in ("svc-governance", "svc-train", "ann"):
        signing.write_key_pair(tmp_path / name, tmp_path / "trusted" / f"{name}.pub")
        made[name] = signing.load_private(tmp_path / name)
    return made


@pytest.fixture
def trusted(tmp_path: Path, keys: dict[str, Ed25519PrivateKey]) -> TrustedKeys:
    return TrustedKeys(tmp_path / "trusted")


def test_a_signed_control_record_opens_to_its_very_bytes(keys: dict[str, Ed25519PrivateKey], trusted: TrustedKeys) -> None:
    envelope = signing.sign_control(keys["svc-governance"], "svc-governance", TOPIC, "flights", b"\x00payload")
    assert signing.open_control(trusted, TOPIC, "flights", envelope) == b"\x00payload"


def test_a_control_record_altered_moved_or_signed_by_another_is_refused(
    keys: dict[str, Ed25519PrivateKey], trusted: TrustedKeys
) -> None:
    good = signing.sign_control(keys["svc-governance"], "svc-governance", TOPIC, "flights", b"payload")
    other = signing.sign_control(Ed25519PrivateKey.generate(), "svc-governance", TOPIC, "flights", b"payload")
    train = signing.sign_control(keys["svc-train"], "svc-train", TOPIC, "flights", b"payload")
    cases = [
        (TOPIC, "flights", replace(good, payload=b"Payload"), Reason.BAD_SIGNATURE),
        (TOPIC, "flights", replace(good, signature=good.signature[:-1]), Reason.BAD_SIGNATURE),
        (TOPIC, "flights", replace(good, signature=b""), Reason.UNSIGNED),
        (TOPIC, "cards", good, Reason.BAD_SIGNATURE),
        (TOPIC, "cards", replace(good, key="cards"), Reason.BAD_SIGNATURE),
        ("governance.rollouts.v1", "flights", good, Reason.BAD_SIGNATURE),
        (TOPIC, "flights", other, Reason.BAD_SIGNATURE),
        (TOPIC, "flights", train, Reason.UNSIGNED),
        (TOPIC, "flights", replace(good, key_id="svc-train"), Reason.UNSIGNED),
    ]
    for topic, key, envelope, reason in cases:
        with pytest.raises(Poison) as caught:
            signing.open_control(trusted, topic, key, envelope)
        assert caught.value.reason is reason, envelope


def test_parts_of_a_statement_cannot_be_shifted_into_each_other() -> None:
    assert signing.control_statement("ab", "c", "k", b"d") != signing.control_statement("a", "bc", "k", b"d")


def test_a_key_that_is_taken_away_is_no_longer_trusted(tmp_path: Path, trusted: TrustedKeys) -> None:
    assert trusted.public("ann") is not None
    (tmp_path / "trusted" / "ann.pub").unlink()
    assert trusted.public("ann") is None


@pytest.mark.parametrize("name", ["../svc-governance", "", "a/b", "Ann", ".ann", "a" * 101])
def test_a_name_that_could_leave_the_folder_is_nobody(trusted: TrustedKeys, name: str) -> None:
    assert trusted.public(name) is None


def test_an_artefact_verifies_for_its_purpose_only(keys: dict[str, Ed25519PrivateKey], trusted: TrustedKeys) -> None:
    signature = signing.sign_bytes(keys["svc-train"], b"{}")
    signing.verify_bytes(trusted, "svc-train", b"{}", signature)
    for key_id, data, sig, purpose in [
        ("svc-train", b"{ }", signature, "manifest"),
        ("svc-train", b"{}", signature, "audit head"),
        ("svc-governance", b"{}", signature, "manifest"),
    ]:
        with pytest.raises(Poison) as caught:
            signing.verify_bytes(trusted, key_id, data, sig, purpose)
        assert caught.value.reason is Reason.BAD_SIGNATURE
    with pytest.raises(Poison) as caught:
        signing.verify_bytes(trusted, "nobody", b"{}", signature)
    assert caught.value.reason is Reason.UNSIGNED


def test_a_token_proves_its_subject_to_its_audience(keys: dict[str, Ed25519PrivateKey], trusted: TrustedKeys) -> None:
    bearer = signing.token(keys["ann"], "ann", 60, "svc-governance")
    assert signing.authenticate(trusted, bearer, "svc-governance") == "ann"
    assert signing.authenticate(trusted, f"Bearer {bearer}", "svc-governance") == "ann"
    with pytest.raises(NotAuthenticated):
        signing.authenticate(trusted, bearer, "svc-serve")


def test_naming_a_user_proves_nothing(keys: dict[str, Ed25519PrivateKey], trusted: TrustedKeys) -> None:
    now = int(time.time())
    claims = {"sub": "ann", "aud": "a", "iat": now, "exp": now + 60}
    mine = Ed25519PrivateKey.generate()
    public_pem = (trusted._folder / "ann.pub").read_bytes()
    forged = [
        "",
        "ann",
        "Bearer ann",
        jwt.encode(claims, "", algorithm="none", headers={"kid": "ann"}),
        jwt.encode(claims, "x" * 64, algorithm="HS256", headers={"kid": "ann"}),
        jwt.encode(claims, mine, algorithm="EdDSA", headers={"kid": "ann"}),
        jwt.encode(claims, keys["svc-train"], algorithm="EdDSA", headers={"kid": "svc-train"}),
        jwt.encode(claims, keys["ann"], algorithm="EdDSA"),
        jwt.encode(claims, keys["ann"], algorithm="EdDSA", headers={"kid": "../ann"}),
        jwt.encode({**claims, "exp": now + 3600}, keys["ann"], algorithm="EdDSA", headers={"kid": "ann"}),
        jwt.encode({**claims, "iat": now - 120, "exp": now - 60}, keys["ann"], algorithm="EdDSA", headers={"kid": "ann"}),
        jwt.encode({"sub": "ann", "aud": "a"}, keys["ann"], algorithm="EdDSA", headers={"kid": "ann"}),
    ]
    assert public_pem
    for bearer in forged:
        with pytest.raises(NotAuthenticated):
            signing.authenticate(trusted, bearer, "a")


@pytest.mark.parametrize("ttl_s", [0, -1, 601])
def test_a_token_cannot_be_made_to_live_long(keys: dict[str, Ed25519PrivateKey], ttl_s: int) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        signing.token(keys["ann"], "ann", ttl_s, "a")


def test_a_private_key_is_its_owners_and_is_never_overwritten(tmp_path: Path, keys: dict[str, Ed25519PrivateKey]) -> None:
    assert (tmp_path / "ann").stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        signing.write_key_pair(tmp_path / "ann", tmp_path / "x.pub")


def test_a_missing_or_foreign_private_key_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="private key"):
        signing.load_private(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(Fatal, match="private key"):
        signing.load_private(tmp_path / "text")
