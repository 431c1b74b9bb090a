"""The certificate authority of a local stack: one certificate per principal, short-lived, renewed at a start.

keys/tls/ca.pem                authorities that are believed: ours, and for a while the one it replaced
keys/tls/authority.{pem,key}   the one that signs
keys/tls/<principal>.pem       certificate; its common name is the principal
keys/tls/<principal>.key       PKCS 8, mode 0600, in a folder of mode 0700
keys/tls/broker.keystore.pem   key and certificate in one file, as the broker reads them, mode 0600
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headrace_local.keys import write_file
from headrace_local.settings import HOST, SERVICES

BROKER, REGISTRY, ADMIN = "broker", "registry", "admin"
# operator: people at the command line. producer: a program that is not ours. admin: gives the first rights.
OUTSIDE = ("operator", "producer", ADMIN)
SERVERS = (BROKER, REGISTRY)
PRINCIPALS = (*SERVERS, *SERVICES, *OUTSIDE)
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 30
RENEW_AT = 1 / 3  # of the life that is left: two missed renewals still leave time
CLOCK_SKEW = timedelta(minutes=5)


class Authority:
    """Signs certificates in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def believed(self) -> Path:
        return self.folder / "ca.pem"

    def certificate(self, principal: str) -> Path:
        return self.folder / f"{principal}.pem"

    def key(self, principal: str) -> Path:
        return self.folder / f"{principal}.key"

    @property
    def keystore(self) -> Path:
        return self.folder / f"{BROKER}.keystore.pem"

    def ensure(self, now: datetime | None = None) -> list[str]:
        """Make or renew what is missing, of another authority, or near its end. Returns the principals renewed. Idempotent."""
        now = now or datetime.now(UTC)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if not self._signing.exists():
            self._found(now)
        renewed = [principal for principal in PRINCIPALS if not self._holds(principal, now)]
        for principal in renewed:
            self.issue(principal, now)
        return renewed

    def issue(self, principal: str, now: datetime | None = None) -> x509.Certificate:
        """A new key and certificate in place of the old: clients made from now on use them, connections of older ones stay."""
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        server = principal in SERVERS
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            _builder(_name(principal), self._authority().subject, key.public_key(), now, CERTIFICATE_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._signing_key().public_key()), critical=False)
        )
        if server:
            names = [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self._signing_key(), hashes.SHA256())
        # The key first: who reads between the two writes finds a pair that does not fit, says so, and tries again.
        write_file(self.key(principal), _pem_key(key), 0o600)
        write_file(self.certificate(principal), _pem(made), 0o644)
        if principal == BROKER:
            write_file(self.keystore, _pem_key(key) + _pem(made), 0o600)
        return made

    def replace(self, now: datetime | None = None) -> None:
        """A new authority signs from now on; the one before is believed until `forget`."""
        before = self._authority()
        self._found(now or datetime.now(UTC))
        write_file(self.believed, _pem(self._authority()) + _pem(before), 0o644)

    def forget(self) -> None:
        """Believe the signing authority alone."""
        write_file(self.believed, _pem(self._authority()), 0o644)

    @property
    def _signing(self) -> Path:
        return self.folder / "authority.pem"

    def _authority(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._signing.read_bytes())

    def _signing_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.key("authority").read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def _found(self, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        # Named after its key: certificates of two authorities are told apart by their issuer.
        mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:16]
        name = _name(f"Headrace local authority {mark}")
        made = (
            _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_file(self.key("authority"), _pem_key(key), 0o600)
        write_file(self._signing, _pem(made), 0o644)
        write_file(self.believed, _pem(made), 0o644)

    def _holds(self, principal: str, now: datetime) -> bool:
        """Whether a principal's certificate is there, of the signing authority, and good for a while."""
        if not self.key(principal).exists() or not self.certificate(principal).exists():
            return False
        if principal == BROKER and not self.keystore.exists():
            return False
        found = x509.load_pem_x509_certificate(self.certificate(principal).read_bytes())
        life = found.not_valid_after_utc - found.not_valid_before_utc
        return found.issuer == self._authority().subject and found.not_valid_after_utc - now > life * RENEW_AT


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
