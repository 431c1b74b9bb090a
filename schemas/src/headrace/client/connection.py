"""Where a running Headrace is and who asks: from arguments, else the environment, else the local stack (`local_stack`)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from headrace.client import local_stack
from headrace.client.local_stack import address

PRINCIPAL = "ada"


@dataclass(frozen=True, slots=True)
class Connection:
    """One platform, as one person.

    Example:
        >>> Connection(principal="ada", key=Path("/keys/ada.pem"), pipeline="flights").pipeline
        'flights'
    """

    features_url: str = field(default_factory=lambda: address(local_stack.FEATURES_URL))
    governance_url: str = field(default_factory=lambda: address(local_stack.GOVERNANCE_URL))
    bootstrap: str = field(default_factory=lambda: address(local_stack.BOOTSTRAP))
    registry_url: str = field(default_factory=lambda: address(local_stack.REGISTRY_URL))
    lake: Path = field(default_factory=local_stack.lake)
    principal: str = PRINCIPAL
    key: Path | None = None  # private key, PEM; None: .headrace/keys/private/<principal>.pem
    pipeline: str = ""  # empty: the only one in force

    @classmethod
    def from_environment(cls) -> Self:
        """HEADRACE_FEATURES_URL, _GOVERNANCE_URL, _BOOTSTRAP, _REGISTRY_URL, _LAKE, _PRINCIPAL, _KEY, _PIPELINE."""
        at = os.environ.get
        key = at("HEADRACE_KEY")
        return cls(
            principal=at("HEADRACE_PRINCIPAL", PRINCIPAL),
            key=Path(key) if key else None,
            pipeline=at("HEADRACE_PIPELINE", ""),
        )

    @property
    def key_file(self) -> Path:
        return self.key or local_stack.home() / "keys" / "private" / f"{self.principal}.pem"
