"""How this process shows who it is, and whom it believes: broker, registry, database. Plain unless told otherwise.

Keys and passwords are files: a setting holds their names only, so that no log, no list of processes and no support bundle can
show them. A client reads its files when it is made; the next life of a process, or the next client, takes up what a rotation
put there. The database's password is read for every new connection.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from cryptography import x509
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.chassis.errors import Fatal

PREFIX = "HEADRACE_"


class AccessSettings(BaseSettings):
    """The settings about identity; every service has them, tools outside services read them alone."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    kafka_protocol: Literal["plaintext", "ssl"] = Field(
        default="plaintext", description="how brokers are talked to; ssl: TLS, both sides show a certificate"
    )
    kafka_ca_file: Path | None = Field(
        default=None, description="PEM authorities that may have signed the brokers' certificates; two while one is replaced"
    )
    kafka_certificate_file: Path | None = Field(default=None, description="this process's certificate chain, PEM")
    kafka_key_file: Path | None = Field(default=None, description="its private key, PEM, readable by its owner only")
    registry_ca_file: Path | None = Field(
        default=None, description="PEM authorities of an https registry; none: those of the machine"
    )
    registry_user: str = Field(default="", description="user of a registry that asks for a name and a password")
    registry_password_file: Path | None = Field(default=None, description="file of that user's password")
    postgres_password_file: Path | None = Field(
        default=None, description="file of the database password, read for each connection; stronger than one in the DSN"
    )

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """From names and values as a launcher hands them out; names of other settings are passed over."""
        fields = AccessSettings.model_fields.items()
        told: dict[str, Any] = {name: environment.get(f"{PREFIX}{name.upper()}", field.default) for name, field in fields}
        return cls(**told)

    def kafka(self) -> dict[str, Any]:
        """librdkafka's settings, for every confluent-kafka client. Raises: Fatal naming what is missing."""
        if self.kafka_protocol == "plaintext":
            return {}
        ca, certificate, key = self._kafka_files()
        return {
            "security.protocol": "ssl",
            "ssl.ca.location": str(ca),
            "ssl.certificate.location": str(certificate),
            "ssl.key.location": str(key),
        }

    def kafka_context(self) -> ssl.SSLContext | None:
        """The same for clients on Python's own TLS (aiokafka); None without TLS. Raises: Fatal."""
        if self.kafka_protocol == "plaintext":
            return None
        ca, certificate, key = self._kafka_files()
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
            context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors; none of them shows what a file holds
            raise Fatal(f"certificate or key refused: {error}: see HEADRACE_KAFKA_CERTIFICATE_FILE and its key") from error
        return context

    def _kafka_files(self) -> tuple[Path, Path, Path]:
        files = (self.kafka_ca_file, self.kafka_certificate_file, self.kafka_key_file)
        names = ("HEADRACE_KAFKA_CA_FILE", "HEADRACE_KAFKA_CERTIFICATE_FILE", "HEADRACE_KAFKA_KEY_FILE")
        for name, file in zip(names, files, strict=True):
            if file is None:
                raise Fatal(f"HEADRACE_KAFKA_PROTOCOL is ssl and {name} is not set")
            if not os.access(file, os.R_OK):
                raise Fatal(f"{name}: {file} cannot be read")
        ca, certificate, key = files
        assert ca is not None
        assert certificate is not None
        assert key is not None
        return ca, certificate, key

    def registry(self) -> dict[str, Any]:
        """Settings of the registry's client beside its address. Holds the password: not to be logged. Raises: Fatal."""
        found: dict[str, Any] = {}
        if self.registry_ca_file is not None:
            found["ssl.ca.location"] = str(self.registry_ca_file)
        if self.registry_user:
            if self.registry_password_file is None:
                raise Fatal("HEADRACE_REGISTRY_USER is set and HEADRACE_REGISTRY_PASSWORD_FILE is not")
            password = secret(self.registry_password_file, "HEADRACE_REGISTRY_PASSWORD_FILE")
            found["basic.auth.user.info"] = f"{self.registry_user}:{password}"
        return found

    def certificates(self) -> dict[str, Path]:
        """The files of certificates this process stands on, by what they are for: `kafka`, `kafka-ca`, `registry-ca`."""
        found = {"kafka": self.kafka_certificate_file, "kafka-ca": self.kafka_ca_file, "registry-ca": self.registry_ca_file}
        return {name: file for name, file in found.items() if file is not None}

    def postgres_password(self) -> str | None:
        """The password as it is now; None leaves it to the DSN. Raises: Fatal."""
        if self.postgres_password_file is None:
            return None
        return secret(self.postgres_password_file, "HEADRACE_POSTGRES_PASSWORD_FILE")


def expires(name: str, file: Path) -> datetime | None:
    """When what a PEM file holds is no longer believed, UTC; None if it cannot be read, which its user says better.

    Of a chain the certificate that ends first decides; of authorities (`-ca`) the one that ends last, for while one is
    replaced the file holds two.
    """
    try:
        ends = [found.not_valid_after_utc for found in x509.load_pem_x509_certificates(file.read_bytes())]
    except (OSError, ValueError):
        return None
    return max(ends) if name.endswith("-ca") else min(ends)


def secret(file: Path, name: str) -> str:
    """What a file of a secret holds, without the line's end. Raises: Fatal naming the setting, never the content."""
    try:
        found = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(f"{name}: {file} cannot be read: {type(error).__name__}") from None
    if not found:
        raise Fatal(f"{name}: {file} is empty")
    return found
