"""`make compose-secrets`: what infra/compose reads as secrets, made once in infra/compose/secrets; what is there stays.

    postgres-password, grafana-password     random
    svc-train.env                           HEADRACE_POSTGRES_DSN with that password, for one service
    keys/private/*.pem, keys/trusted/*.pub  key pairs of the services and of the people, as the local stack has them
    roles.json                              who may propose, approve, operate
    alertmanager/{pagerduty,opsgenie}       empty until you put a key there

The folder admits its owner alone. What a container reads in it is readable to all: a file is mounted with the mode it has on
the host, and a service runs as an id of its own; who may pass the folder is what protects it here.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from pathlib import Path

from headrace_local import clone_root, keys

PASSWORD_BYTES = 24


def make(folder: Path, roles: Path) -> list[str]:
    """Names of the files that were missing and are there now. Idempotent."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made: list[str] = []

    def write(name: str, text: str, mode: int = 0o444) -> None:
        path = folder / name
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        path.touch(0o600)
        path.write_text(text)
        path.chmod(mode)
        made.append(name)

    write("postgres-password", secrets.token_urlsafe(PASSWORD_BYTES))
    write("grafana-password", secrets.token_urlsafe(PASSWORD_BYTES))
    password = (folder / "postgres-password").read_text().strip()
    write("svc-train.env", f"HEADRACE_POSTGRES_DSN=postgresql://headrace:{password}@postgres:5432/headrace\n", 0o600)
    write("alertmanager/pagerduty", "")
    write("alertmanager/opsgenie", "")
    keys.ensure(folder / "keys")
    for name in keys.SERVICE_PRINCIPALS:
        (folder / "keys" / "private" / f"{name}.pem").chmod(0o444)
    if not (folder / "roles.json").exists():
        shutil.copyfile(roles, folder / "roles.json")
        made.append("roles.json")
    return made


if __name__ == "__main__":
    root = clone_root()
    new = make(root / "infra" / "compose" / "secrets", root / "svc-governance" / "src" / "svc_governance" / "local_roles.json")
    print("made: " + ", ".join(new) if new else "everything is there", file=sys.stdout)
