"""Kafka Streams: fetched by the user's own Maven, compiled once, run in one JVM that starts topologies on demand."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.stream.process import Child
from headrace_local import dist

PROJECT = Path(__file__).parent / "kafka-streams"
CHECKSUMS = PROJECT / "checksums.sha256"
FETCH_S, COMPILE_S = 600, 120
# One core gets one collector thread anyway; a heap that never grows need not be resized.
JVM = ("-Xms1536m", "-Xmx1536m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "--enable-native-access=ALL-UNNAMED")


def built(folder: Path) -> Path:
    """The folder with lib/ and classes/, made once per version of pom and sources.

    Raises: RuntimeError with the tool's last lines if Maven or the compiler fails, LauncherError if Maven brought other files.
    """
    sources = sorted(p for p in (PROJECT / "src").rglob("*") if p.is_file())
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in (PROJECT / "pom.xml", CHECKSUMS, *sources))).hexdigest()[:12]
    place = folder / f"kafka-streams-{digest}"
    if (place / ".complete").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    command = ["mvn", "-q", "-B", "-f", str(PROJECT / "pom.xml"), f"-Ddist={place}", "generate-resources"]
    _run(command, FETCH_S, dist.maven_env())
    dist.verify(place, CHECKSUMS)
    java = [str(p) for p in sources if p.suffix == ".java"]
    libraries = os.pathsep.join(str(p) for p in sorted((place / "lib").glob("*.jar")))
    compiler = ("-cp", str(place / "ecj.jar"), "org.eclipse.jdt.internal.compiler.batch.Main")
    _run([dist.java(), *compiler, "-21", "-nowarn", "-cp", libraries, "-d", str(place / "classes"), *java], COMPILE_S, None)
    shutil.copytree(PROJECT / "src" / "main" / "resources", place / "classes", dirs_exist_ok=True)
    (place / ".complete").touch()
    return place


def _run(command: list[str], timeout_s: float, env: dict[str, str] | None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3_000:]}")


def jvm(place: Path, log: Path, **values: object) -> Child:
    """A JVM that waits for topologies; `values` hold for all of them."""
    words = [f"{name}={value}" for name, value in values.items()]
    classpath = f"{place / 'classes'}{os.pathsep}{place / 'lib'}/*"
    child = Child([dist.java(), *JVM, "-cp", classpath, "headrace.bench.Main", *words], log)
    child.answer()
    return child


def start(child: Child, application: str, **values: object) -> float:
    """Start a topology; returns the milliseconds from the call to RUNNING."""
    words = " ".join(f"{name}={value}" for name, value in values.items())
    return float(child.ask(f"start {application} {words}")["running_ms"])


def stop(child: Child) -> None:
    child.ask("stop")


def version() -> str:
    """As the pom has it."""
    found = re.search(r"<kafka\.version>([^<]+)<", (PROJECT / "pom.xml").read_text())
    return found[1] if found else ""
