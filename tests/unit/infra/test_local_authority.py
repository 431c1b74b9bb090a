"""The local authority: one certificate per principal, private keys private, renewed before they end."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from headrace_local.authority import CERTIFICATE_DAYS, PRINCIPALS, SERVERS, Authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path / "tls")
    found.ensure(NOW)
    return found


def read(authority: Authority, principal: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.certificate(principal).read_bytes())


def test_each_principal_has_its_name_in_its_own_certificate(authority: Authority) -> None:
    for principal in PRINCIPALS:
        assert read(authority, principal).subject.rfc4514_string() == f"CN={principal}"


def test_private_keys_are_readable_by_their_owner_only(authority: Authority) -> None:
    secret = [*authority.folder.glob("*.key"), authority.keystore]
    assert len(secret) == len(PRINCIPALS) + 2  # the authority's, and the broker's in one file with its certificate
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_no_file_others_may_read_holds_a_key(authority: Authority) -> None:
    for path in authority.folder.iterdir():
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            assert b"PRIVATE KEY" not in path.read_bytes()


def test_only_servers_may_show_their_certificate_to_clients(authority: Authority) -> None:
    for principal in PRINCIPALS:
        usages = read(authority, principal).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert (ExtendedKeyUsageOID.SERVER_AUTH in usages) == (principal in SERVERS)


def test_a_second_start_renews_nothing_and_one_near_the_end_renews_all(authority: Authority) -> None:
    before = read(authority, "svc-serve").serial_number
    assert authority.ensure(NOW + timedelta(days=1)) == []
    assert read(authority, "svc-serve").serial_number == before
    assert authority.ensure(NOW + timedelta(days=CERTIFICATE_DAYS * 2 / 3 + 1)) == list(PRINCIPALS)
    assert read(authority, "svc-serve").serial_number != before


def test_a_lost_key_is_made_again_with_its_certificate(authority: Authority) -> None:
    authority.key("svc-train").unlink()
    assert authority.ensure(NOW) == ["svc-train"]


def test_certificates_end(authority: Authority) -> None:
    found = read(authority, "svc-serve")
    assert found.not_valid_after_utc - NOW == timedelta(days=CERTIFICATE_DAYS)


def test_another_authority_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    stranger.ensure(NOW)
    forged = read(stranger, "svc-governance")
    assert forged.subject == read(authority, "svc-governance").subject
    assert forged.issuer != read(authority, "svc-governance").issuer


def test_an_authority_is_replaced_without_a_moment_in_which_nobody_is_believed(authority: Authority) -> None:
    """Old and new are believed together; every certificate is renewed at the next start; then the old is forgotten."""
    old = read(authority, "svc-serve")
    later = NOW + timedelta(seconds=1)
    authority.replace(later)
    believed = x509.load_pem_x509_certificates(authority.believed.read_bytes())
    assert old.issuer in {found.subject for found in believed}
    assert authority.ensure(later) == list(PRINCIPALS)
    new = read(authority, "svc-serve")
    assert new.issuer in {found.subject for found in believed}
    authority.forget()
    (left,) = x509.load_pem_x509_certificates(authority.believed.read_bytes())
    assert left.subject == new.issuer != old.issuer
