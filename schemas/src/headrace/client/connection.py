"""Where a running Headrace is and who asks: from arguments, else the environment, else this machine's defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FEATURES_URL = "http://127.0.0.1:18103"
GOVERNANCE_URL = "http://127.0.0.1:18107"
REGISTRY_URL = "http://127.0.0.1:18081/apis/ccompat/v7"
BOOTSTRAP = "127.0.0.1:19092"
PRINCIPAL = "ada"
HOME = Path(".headrace")


@dataclass(frozen=True, slots=True)
class Connection:
    """One platform, as one person.

    Example:
        >>> Connection(principal="ada", key=Path("/keys/ada.pem"), pipeline="flights").pipeline
        'flights'
    """

    features_url: str = FEATURES_URL
    governance_url: str = GOVERNANCE_URL
    bootstrap: str = BOOTSTRAP
    registry_url: str = REGISTRY_URL
    lake: Path = HOME / "lake"
    principal: str = PRINCIPAL
    key: Path | None = None  # private key, PEM; None: .headrace/keys/private/<principal>.pem
    pipeline: str = ""  # empty: the only one in force

    @classmethod
    def from_environment(cls) -> Self:
        """HEADRACE_FEATURES_URL, _GOVERNANCE_URL, _BOOTSTRAP, _REGISTRY_URL, _LAKE, _PRINCIPAL, _KEY, _PIPELINE."""
        at = os.environ.get
        key = at("HEADRACE_KEY")
        return cls(
            at("HEADRACE_FEATURES_URL", FEATURES_URL), at("HEADRACE_GOVERNANCE_URL", GOVERNANCE_URL),
            at("HEADRACE_BOOTSTRAP", BOOTSTRAP), at("HEADRACE_REGISTRY_URL", REGISTRY_URL),
            Path(at("HEADRACE_LAKE", str(HOME / "lake"))), at("HEADRACE_PRINCIPAL", PRINCIPAL),
            Path(key) if key else None, at("HEADRACE_PIPELINE", ""),
        )  # fmt: skip

    @property
    def key_file(self) -> Path:
        return self.key or HOME / "keys" / "private" / f"{self.principal}.pem"
