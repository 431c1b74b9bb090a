"""One service in its cell: started, asked, looked at, stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from headrace_images.assemble import IMPORT_ALL, Assembled, base_python

CELL = Path(__file__).with_name("cell.py")
STATE, SECRETS, OBJECTS = "/var/lib/headrace", "/run/secrets", "/var/lib/headrace-objects"
START_S_MAX = 120.0
POLL_S = 0.05
# Names the files that a process of ours may have mapped besides those of the image: what the base image is known to hold.
BASE_LIBRARIES = frozenset({
    "ld-linux-x86-64", "libc", "libm", "libdl", "libpthread", "librt", "libutil", "libresolv", "libnss_files", "libnss_dns",
    "libstdc++", "libgcc_s", "libz", "libssl", "libcrypto", "libffi", "liblzma", "libbz2", "libsqlite3", "libuuid", "libexpat",
})  # fmt: skip
# Under a read-only root only another mount can be writable. Devices and the kernel's own files are not storage.
LIST_WRITABLE = """
import os
mounts = {line.split()[4] for line in open('/proc/self/mountinfo')}
print(*sorted(m for m in mounts if not m.startswith(('/proc', '/dev')) and os.access(m, os.W_OK)), sep='\\n')
"""


@dataclass(slots=True)
class Figures:
    """What was seen of one service. Sizes in MB (10^6 bytes), times in seconds."""

    service: str
    packages: int
    environment_mb: float
    sources_mb: float
    install_s: float
    start_s: float = -1.0
    ready_rss_mb: float = -1.0
    worked_rss_mb: float = -1.0
    stop_s: float = -1.0
    exit_code: int | None = None
    user: int = -1
    health: int | None = None
    writable: list[str] = field(default_factory=list)
    foreign_libraries: list[str] = field(default_factory=list)
    modules: int = 0
    complaints: list[str] = field(default_factory=list)


class Cell:
    """The process of one service. What runs, as whom, where and with which environment is read from the Dockerfile."""

    def __init__(self, image: Assembled, folder: Path, settings: dict[str, str], secrets: Path, objects: Path) -> None:
        """
        Args:
            settings: HEADRACE_* of the stack, stronger than the image's own ENV.
            secrets: folder shown read-only; objects: folder shared by all, writable like a volume.
        """
        self.image = image
        self._folder = folder
        stage = image.file.image
        user, group = (int(word) for word in _one(image, "USER").split(":"))
        self.user, self.group = user, group
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        self.log = folder / "log"
        for place in (self.state, objects):
            os.chown(place, user, group)
        env = stage.environment() | settings
        self.port = int(env["HEADRACE_HTTP_PORT"])
        prefix = str(base_python().parents[1])
        binds: list[tuple[str, str, bool]] = [] if prefix == "/usr" else [(prefix, prefix, False)]
        binds += [(str(image.opt), "/opt", False), (str(self.state), STATE, True)]
        binds += [(str(secrets), SECRETS, False), (str(objects), OBJECTS, True)]
        self._spec: dict[str, Any] = {"binds": binds, "user": user, "group": group, "cwd": _one(image, "WORKDIR"), "env": env}
        self._volumes = {STATE, OBJECTS}
        entry = stage.last("ENTRYPOINT")
        self._command = entry.arguments if entry else []
        self._process: subprocess.Popen[bytes] | None = None
        self.figures = Figures(
            image.service,
            image.packages,
            round(image.environment_bytes / 1e6, 1),
            round(image.sources_bytes / 1e6, 1),
            image.install_s,
            user=user,
        )

    def share(self, folder: Path, target: str) -> None:
        """Show one more writable folder, as a volume."""
        for place in (folder, *folder.rglob("*")):
            os.chown(place, self.user, self.group)
        self._spec["binds"].append((str(folder), target, True))
        self._volumes.add(target)

    def launch(self, name: str, command: list[str], out: int) -> subprocess.Popen[bytes]:
        """Another process in a cell like the service's, in a root of its own."""
        place = self._folder / name
        (place / "root").mkdir(parents=True, exist_ok=True)
        spec = place / "spec.json"
        spec.write_text(json.dumps({**self._spec, "root": str(place / "root"), "command": command}))
        return subprocess.Popen([sys.executable, "-I", "-S", CELL, spec], stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def ask(self, name: str, command: list[str], timeout_s: float = 120.0) -> tuple[int, str]:
        """(exit code, output) of a command run in such a cell."""
        place = self._folder / f"{name}.out"
        with place.open("wb") as out:
            process = self.launch(name, command, out.fileno())
            code = process.wait(timeout_s)
        return code, place.read_text(errors="replace")

    def start(self) -> None:
        """Start the service and wait until it says it is ready."""
        began = time.monotonic()
        with self.log.open("wb") as log:
            self._process = self.launch("run", self._command, log.fileno())
        while self._get("/health/ready") != 200:
            if self._process.poll() is not None:
                self.complain(f"ended with {self._process.returncode} before it was ready: {self.tail()}")
                return
            if time.monotonic() - began > START_S_MAX:
                self.complain(f"not ready after {START_S_MAX:.0f} s: {self._body('/health/ready')} {self.tail()}")
                return
            time.sleep(POLL_S)
        self.figures.start_s = round(time.monotonic() - began, 2)
        self.figures.ready_rss_mb = self.rss_mb()

    def look(self) -> None:
        """Health check, user, what can be written, what is mapped from outside, and that every module can be imported."""
        health = self.image.file.image.last("HEALTHCHECK")
        assert health is not None
        self.figures.health, _ = self.ask("health", json.loads(health.rest.partition("CMD ")[2]), 30.0)
        if self.figures.health != 0:
            self.complain("the HEALTHCHECK of the Dockerfile fails")
        _, found = self.ask("writable", ["python", "-c", LIST_WRITABLE])
        self.figures.writable = found.split()
        if set(self.figures.writable) != self._volumes:
            self.complain(f"writable beside its volumes: {self.figures.writable}")
        module = self.image.service.replace("-", "_")
        code, out = self.ask("import", ["python", "-c", IMPORT_ALL, module])
        if code != 0:
            self.complain(f"a module cannot be imported: {out[-400:]}")
        else:
            count, *libraries = " ".join(out.splitlines()[-2:]).split()  # above may stand what a library had to say
            self.figures.modules, self.figures.foreign_libraries = int(count), foreign(libraries)
            if self.figures.foreign_libraries:
                self.complain(f"needs libraries the base image lacks: {self.figures.foreign_libraries}")
        if self._process is not None and self._process.poll() is None:
            uids = psutil.Process(self._process.pid).uids()
            if set(uids) != {self.user}:
                self.complain(f"runs as {uids}")

    def stop(self, grace_s: float) -> None:
        """SIGTERM; what has not ended within the grace period is killed and complained of."""
        if self._process is None or self._process.poll() is not None:
            self.complain("was gone before it was stopped: " + self.tail())
            return
        self.figures.worked_rss_mb = self.rss_mb()
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self.complain(f"did not end within {grace_s:.0f} s of SIGTERM")
        self.figures.stop_s = round(time.monotonic() - began, 2)
        self.figures.exit_code = self._process.returncode
        if self._process.returncode != 0:
            self.complain(f"exit code {self._process.returncode} after SIGTERM: {self.tail()}")

    def end(self) -> None:
        """Whatever happened, nothing is left running."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def rss_mb(self) -> float:
        """Resident memory of the service and its jobs, MB."""
        if self._process is None or self._process.poll() is not None:
            return -1.0
        leader = psutil.Process(self._process.pid)
        return round(sum(p.memory_info().rss for p in [leader, *leader.children(recursive=True)]) / 1e6, 1)

    def complain(self, text: str) -> None:
        self.figures.complaints.append(text)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-800:] if self.log.exists() else ""

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _get(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def _body(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError as error:
            return str(error)


def foreign(paths: list[str]) -> list[str]:
    """Of mapped libraries those that are neither the image's own, nor Python's, nor known to be in the base image."""
    prefix = str(base_python().parents[1])
    own = ("/opt/",) if prefix == "/usr" else ("/opt/", f"{prefix}/")
    found: set[str] = set()
    for path in paths:
        name = path.rpartition("/")[2]
        known = name.partition(".so")[0] in BASE_LIBRARIES or name.startswith("libpython") or "/lib-dynload/" in path
        if not known and not path.startswith(own):
            found.add(name)
    return sorted(found)


def _one(image: Assembled, word: str) -> str:
    found = image.file.image.last(word)
    if found is None:
        raise ValueError(f"{image.service}/Dockerfile has no {word}")
    return found.rest
