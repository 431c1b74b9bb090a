"""svc-governance's settings: what every service has, and where people's roles and the audit's heads lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from headrace.chassis.settings import ServiceSettings
from headrace.contracts.errors import Fatal
from svc_governance.domain.people import People, Role

LOCAL_ROLES = Path(__file__).with_name("local_roles.json")  # ada proposes, grace approves, ops operates


class Settings(ServiceSettings):
    service: ClassVar[str] = "svc-governance"

    http_port: int = Field(18107, ge=0, le=65535, description="port of the people's door; 0 takes a free one")
    roles_file: Path = Field(LOCAL_ROLES, description='JSON {"principal": ["proposer" | "approver" | "operator", ...]}')
    heads_file: Path | None = Field(
        None, description="signed audit heads, JSON lines; keep it where Kafka's operators cannot write. Default: in state_dir"
    )
    grant_rights: bool = Field(
        False, description="give services their rights on a plan's topics when it is admitted; needs ALTER on the cluster"
    )
    hold_s: int = Field(900, ge=0, le=86_400, description="how long an old model stays loaded after a change, seconds")

    def heads_path(self) -> Path:
        return self.heads_file or self.state_dir / "audit-heads.jsonl"


def read_people(path: Path) -> People:
    """Raises: Fatal if the file is missing, not JSON, or names an unknown role."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return People({name: frozenset(Role(role) for role in roles) for name, roles in document.items()})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise Fatal(f"roles file {path} refused: {error}: see HEADRACE_ROLES_FILE") from error
