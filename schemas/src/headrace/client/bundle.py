"""The support bundle: what somebody who helps from afar asks for first, in one file, without secrets.

    headrace-support-<UTC time>/
      READ-ME.txt          what was taken, what could not be, what was blanked
      versions.json        Headrace, Python, platform, libraries
      settings.json        HEADRACE_* of this process and of each local component, secrets blanked
      standing.json        services, lag, parked, alerts, freshness
      topics.json          drift between declared and actual topics
      governance/*.json    pipelines, candidates, rollouts, findings, trainings, head of the audit
      metrics/<service>.txt
      logs/<component>.log last lines

Bodies of records, dead letters and models are never in it. Everything goes through one Redactor, file names too.
"""

from __future__ import annotations

import io
import os
import platform
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import KafkaException

from headrace.client.drift import actual_topics, admitted_plans, compare, declared_topics
from headrace.client.governance import GovernanceClient, Refused, Unreachable
from headrace.client.redact import Redactor, known_secrets
from headrace.client.standing import SILENT, Places, Standing, standing
from headrace.contracts.errors import HeadraceError

LOG_LINES = 400  # the newest of each component
LOG_BYTES_MAX = 1 << 20  # read from the end of each log
LIBRARIES = (
    "headrace", "confluent-kafka", "fastavro", "pyruhvro", "polars", "pyarrow", "duckdb", "deltalake", "rocksdict",
    "onnxruntime", "xgboost-cpu", "xgboost", "mlflow", "pydantic", "fastapi", "aiokafka", "cryptography", "asyncpg", "sqlglot",
)  # fmt: skip
PREFIX = "HEADRACE_"


@dataclass(slots=True)
class Bundle:
    """Files by name inside the bundle, already redacted, and what could not be had."""

    redactor: Redactor
    files: dict[str, str] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    answered: bool = True  # whether any service did

    def add(self, name: str, text: str) -> None:
        self.files[self.redactor.text(name)] = self.redactor.text(text)

    def add_data(self, name: str, data: Any) -> None:
        self.add(name, orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode())

    def attempt(self, what: str, take: Callable[[], None]) -> None:
        """Take a part; a part that cannot be had is a line, not the end."""
        try:
            take()
        except (HeadraceError, Refused, Unreachable, KafkaException, OSError, ValueError, KeyError) as error:
            self.complaints.append(self.redactor.text(f"{what}: {error}"))

    def pack(self, target: Path, name: str, at_s: float) -> None:
        """Write it, whole or not at all, for its owner's eyes."""
        partial = target.with_name(target.name + ".partial")
        partial.unlink(missing_ok=True)
        only_mine = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(only_mine, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for path, text in sorted({**self.files, "READ-ME.txt": self._read_me()}.items()):
                body = text.encode(errors="replace")
                entry = tarfile.TarInfo(f"{name}/{path}")
                entry.size, entry.mtime, entry.mode = len(body), int(at_s), 0o600
                archive.addfile(entry, io.BytesIO(body))
        partial.replace(target)

    def _read_me(self) -> str:
        missing = "\n".join(f"  - {complaint}" for complaint in self.complaints) or "  nothing"
        taken = "\n".join(f"  {name}  {len(text)} characters" for name, text in sorted(self.files.items()))
        return (
            "Support bundle of Headrace.\n\nTaken:\n" + taken + "\n\nNot to be had:\n" + missing + "\n\n"
            "Blanked as ***: values of secret settings, contents of key files, passwords in addresses, tokens, and what looks\n"
            "like one. Names of topics, pipelines, people and hosts are in it; bodies of records are not, except where a log\n"
            "line quotes a value. Read it before you send it.\n"
        )


def gather(places: Places, home: Path, environment: Mapping[str, str], now_s: float) -> Bundle:
    """Everything, from services, broker and the local stack's folder if there is one.

    Args:
        home: the local stack's folder, `.headrace`; logs, keys and settings of components lie there.
        environment: of this process; its HEADRACE_* settings are told.
    """
    mine = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    components = component_settings(home)
    every = [mine, *components.values()]
    secrets = {secret for settings in every for secret in known_secrets(settings)}
    secrets |= known_secrets({}, [home / "keys", home / "secrets"])
    bundle = Bundle(Redactor(secrets))
    bundle.add_data("versions.json", facts())
    blanked = {name: bundle.redactor.settings(settings) for name, settings in {"here": mine, **components}.items()}
    bundle.add_data("settings.json", blanked)
    if (home / "local.toml").exists():
        bundle.attempt("local.toml", lambda: bundle.add("local.toml", (home / "local.toml").read_text(errors="replace")))
    found = standing(places, now_s)
    bundle.answered = any(one.state != SILENT for one in found.services)
    _standing(bundle, found)
    bundle.attempt("topics", lambda: _topics(bundle, places))
    _governance(bundle, places.url("svc-governance"))
    for log in sorted((home / "logs").glob("*.log")):
        bundle.attempt(f"log {log.name}", lambda log=log: bundle.add(f"logs/{log.name}", tail(log)))
    return bundle


def facts() -> dict[str, Any]:
    """What runs here."""
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine(),
        "cpus": os.cpu_count(), "libraries": libraries,
    }  # fmt: skip


def component_settings(home: Path) -> dict[str, dict[str, str]]:
    """HEADRACE_* of each component of the local stack, as its launcher wrote them down; nothing else of its environment."""
    try:
        specs = orjson.loads((home / "run" / "spec.json").read_bytes())
        return {
            str(spec["name"]): {name: str(value) for name, value in spec["env"].items() if name.startswith(PREFIX)}
            for spec in specs
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _standing(bundle: Bundle, found: Standing) -> None:
    data = asdict(found)
    for one in data["services"]:
        page = one.pop("metrics")
        if page:
            bundle.add(f"metrics/{one['name']}.txt", page)
    bundle.add_data("standing.json", data)
    bundle.complaints += [bundle.redactor.text(f"{part}: {why}") for part, why in found.complaints.items()]


def _topics(bundle: Bundle, places: Places) -> None:
    plans = admitted_plans(places.url("svc-governance"))
    checked = compare(declared_topics(plans.in_force), actual_topics(places.bootstrap, places.access), plans)
    bundle.add_data("topics.json", asdict(checked))


def _governance(bundle: Bundle, url: str) -> None:
    with GovernanceClient(url) as client:
        for name, ask in (
            ("pipelines", client.pipelines), ("candidates", client.candidates), ("rollouts", client.rollouts),
            ("findings", client.findings), ("trainings", client.trainings), ("audit-head", client.head),
        ):  # fmt: skip
            bundle.attempt(name, lambda name=name, ask=ask: bundle.add_data(f"governance/{name}.json", ask()))


def tail(log: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a file, of at most a mebibyte from its end."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES_MAX))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:]) + "\n"
