"""How each component is started: one `Spec` per process, all settings in one place.

Everything listens on 127.0.0.1. The infrastructure starts at once and in parallel; the services follow when what they
need answers.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace_local import dist, postgres
from headrace_local.authority import ADMIN, REGISTRY, Authority
from headrace_local.settings import HOST, SERVICES, Layout, LocalSettings

# Services are stopped first, then what only services use, then what keeps their data.
RANK_SERVICE, RANK_HELPER, RANK_KEEPER = 0, 1, 2
SIGNERS = ("svc-governance", "svc-train")
SMALL_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


@dataclass(frozen=True, slots=True)
class Spec:
    """One process to supervise. Plain data: it is written down for the supervisor as JSON.

    Attributes:
        ports: TCP ports it must come to own; the first is the one `status` shows.
        probe: (kind, port, path) as in `probes.is_ready`.
        needs: components that must be ready before it is started.
        rank: lower ranks are stopped earlier.
        grace_s: time between the stop signal and SIGKILL.
    """

    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    ports: list[int]
    probe: tuple[str, int, str]
    needs: list[str] = field(default_factory=list)
    user: int | None = None
    stop_signal: str = "SIGTERM"
    rank: int = RANK_SERVICE
    grace_s: float = 10.0

    @classmethod
    def read(cls, path: Path) -> list[Spec]:
        """The specs written down for a supervisor."""
        found: list[dict[str, Any]] = json.loads(path.read_text())
        for raw in found:
            raw["probe"] = tuple(raw["probe"])
        return [cls(**raw) for raw in found]


def base_env() -> dict[str, str]:
    """The caller's environment without HEADRACE_* and PYTHON*: a stack must not depend on who started it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "PYTHON"))}


def specs(layout: Layout, settings: LocalSettings, names: tuple[str, ...], extra_env: dict[str, dict[str, str]]) -> list[Spec]:
    """The specs of the named components, in start order.

    Args:
        extra_env: additional environment per component name.
    """
    make = {"kafka": _kafka, "registry": _registry, "zipkin": _zipkin, "postgres": _postgres}
    found: list[Spec] = []
    for name in names:
        spec = _service(layout, settings, name, names) if name in SERVICES else make[name](layout, settings)
        spec.env.update(extra_env.get(name, {}))
        found.append(spec)
    return found


def _kafka(layout: Layout, settings: LocalSettings) -> Spec:
    folder = layout.data / "kafka"
    argv = [
        # All compiler tiers: the broker's steady work repays them; the others are small and short of breath.
        *(dist.java(), "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData"),
        f"-Dlog4j2.configurationFile={Path(__file__).parents[1] / 'kafka' / 'log4j2.properties'}",
        *("-cp", dist.kafka_classpath(layout), "kafka.Kafka", str(folder / "server.properties")),
    ]
    ports = [settings.ports.kafka, settings.ports.kafka_controller]
    probe = broker_probe(layout, settings)
    return Spec(**_common(layout, "kafka", argv, folder), ports=ports, probe=probe, rank=RANK_KEEPER, grace_s=20.0)


def broker_probe(layout: Layout, settings: LocalSettings) -> tuple[str, int, str]:
    """A secure broker is ready when the admin has given the rights that hold before any plan."""
    if not settings.secure:
        return "kafka", settings.ports.kafka, ""
    paths = (Path(__file__).parents[1], layout.root / "schemas" / "src")
    env = access_env(layout, settings, ADMIN) | {"HEADRACE_BOOTSTRAP": f"{HOST}:{settings.ports.kafka}"}
    env["PYTHONPATH"] = os.pathsep.join(str(path) for path in paths)
    command = {"argv": [sys.executable, "-m", "headrace_local.rights"], "env": env}
    return "command", settings.ports.kafka, json.dumps(command)


def _registry(layout: Layout, settings: LocalSettings) -> Spec:
    folder = layout.data / "registry"
    port, management = settings.ports.registry, settings.ports.registry_management
    argv = [
        *(dist.java(), "-Xmx256m", *SMALL_JVM),
        *(f"-Dquarkus.http.host={HOST}", *_registry_listener(layout, settings)),
        *(f"-Dquarkus.management.host={HOST}", f"-Dquarkus.management.port={management}"),
        f"-Dapicurio.datasource.url=jdbc:h2:file:{folder}/registry;WRITE_DELAY=0",
        "-Dapicurio.rules.global.compatibility=BACKWARD",  # its own default is NONE
        "-Dapicurio.ccompat.max-subjects=100000",
        *("-jar", str(dist.registry_home(layout) / "quarkus-run.jar")),
    ]
    probe = ("http", management, "/health/ready")
    return Spec(**_common(layout, "registry", argv, folder), ports=[port, management], probe=probe, rank=RANK_HELPER)


def _registry_listener(layout: Layout, settings: LocalSettings) -> list[str]:
    port, authority = settings.ports.registry, Authority(layout.tls)
    if not settings.secure:
        return [f"-Dquarkus.http.port={port}"]
    return [
        *("-Dquarkus.http.insecure-requests=disabled", f"-Dquarkus.http.ssl-port={port}"),
        f"-Dquarkus.http.ssl.certificate.files={authority.certificate(REGISTRY)}",
        f"-Dquarkus.http.ssl.certificate.key-files={authority.key(REGISTRY)}",
    ]


def _zipkin(layout: Layout, settings: LocalSettings) -> Spec:
    port = settings.ports.zipkin
    argv = [
        *(dist.java(), "-Xmx160m", *SMALL_JVM),
        *(f"-Darmeria.ports[0].address={HOST}", f"-Darmeria.ports[0].port={port}", "-Darmeria.ports[0].protocols=http"),
        *("-jar", str(dist.zipkin_jar(layout))),
    ]
    common = _common(layout, "zipkin", argv, layout.run)
    common["env"]["MEM_MAX_SPANS"] = "50000"  # traces live in memory and go with the process
    return Spec(**common, ports=[port], probe=("http", port, "/health"), rank=RANK_HELPER)


def _postgres(layout: Layout, settings: LocalSettings) -> Spec:
    port = settings.ports.postgres
    folder = postgres.data_folder(layout)
    argv = [
        *(str(postgres.binaries() / "bin" / "postgres"), "-D", str(folder), "-p", str(port), "-h", HOST, "-k", ""),
        *("-c", "wal_level=logical", "-c", "max_connections=100", "-c", "shared_buffers=64MB"),
    ]
    common = _common(layout, "postgres", argv, Path("/"))
    # SIGINT is its fast shutdown: sessions are ended, nothing is lost. SIGTERM would wait for every client to leave.
    return Spec(
        **common, ports=[port], probe=("postgres", port, ""), user=postgres.user(), stop_signal="SIGINT", rank=RANK_KEEPER
    )


def _service(layout: Layout, settings: LocalSettings, name: str, together: tuple[str, ...]) -> Spec:
    port = settings.ports.of(name)
    argv = [sys.executable, "-m", name.replace("-", "_")]
    common = _common(layout, name, argv, layout.state / name)
    common["env"].update(service_env(layout, settings, name, traces="zipkin" in together))
    needs = [other for other in ("kafka", "registry", "postgres") if other in together]
    return Spec(**common, ports=[port], probe=("http", port, "/health/ready"), needs=needs)


def _common(layout: Layout, name: str, argv: list[str], cwd: Path) -> dict[str, Any]:
    cwd.mkdir(parents=True, exist_ok=True)
    return {"name": name, "argv": argv, "env": base_env(), "cwd": str(cwd), "log": str(layout.log(name))}


def service_env(layout: Layout, settings: LocalSettings, name: str, traces: bool = True) -> dict[str, str]:
    """The HEADRACE_* settings (and import path) of one service of this stack."""
    ports = settings.ports
    state = layout.state / name
    state.mkdir(parents=True, exist_ok=True)
    env = client_env(layout, settings, traces, principal=name) | {
        "HEADRACE_STATE_DIR": str(state),
        "HEADRACE_HTTP_HOST": HOST,
        "HEADRACE_HTTP_PORT": str(ports.of(name)),
        "HEADRACE_INSTANCE": f"{name}-0",
        "HEADRACE_LOG_LEVEL": settings.log_level.lower(),
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in (layout.root / name / "src", layout.root / "schemas" / "src")),
        "PYTHONUNBUFFERED": "1",
    }
    env |= {
        "svc-ingest": {"HEADRACE_DROP_DIR": str(layout.drop)},
        "svc-features": {"HEADRACE_LAKE": str(layout.lake)},
        "svc-train": {"HEADRACE_TRACKING_URL": f"sqlite:///{state / 'mlflow.db'}"},
    }.get(name, {})
    if settings.secure:
        secure: dict[str, dict[str, str]] = {
            "svc-governance": {"HEADRACE_GRANT_RIGHTS": "true"},
            "svc-train": {"HEADRACE_POSTGRES_PASSWORD_FILE": str(layout.database_password)},
        }
        env |= secure.get(name, {})
    if name in SIGNERS:
        env["HEADRACE_KEY_FILE"] = str(layout.keys / "private" / f"{name}.pem")
    return env


def access_env(layout: Layout, settings: LocalSettings, principal: str) -> dict[str, str]:
    """The HEADRACE_* settings that say who a process is; none where the stack is not secure."""
    if not settings.secure:
        return {}
    authority = Authority(layout.tls)
    return {
        "HEADRACE_KAFKA_PROTOCOL": "ssl",
        "HEADRACE_KAFKA_CA_FILE": str(authority.believed),
        "HEADRACE_KAFKA_CERTIFICATE_FILE": str(authority.certificate(principal)),
        "HEADRACE_KAFKA_KEY_FILE": str(authority.key(principal)),
        "HEADRACE_REGISTRY_CA_FILE": str(authority.believed),
    }


def client_env(layout: Layout, settings: LocalSettings, traces: bool = True, principal: str = "operator") -> dict[str, str]:
    """The HEADRACE_* settings that say where this stack is, and who asks; for the command line and for tests."""
    ports = settings.ports
    return {
        "HEADRACE_BOOTSTRAP": f"{HOST}:{ports.kafka}",
        "HEADRACE_REGISTRY_URL": f"{'https' if settings.secure else 'http'}://{HOST}:{ports.registry}/apis/ccompat/v7",
        "HEADRACE_ZIPKIN_URL": f"http://{HOST}:{ports.zipkin}" if traces else "",
        "HEADRACE_POSTGRES_DSN": f"postgresql://postgres@{HOST}:{ports.postgres}/{postgres.DATABASE}",
        "HEADRACE_OBJECT_STORE": str(layout.objects),
        "HEADRACE_TRUSTED_KEYS": str(layout.keys / "trusted"),
        **access_env(layout, settings, principal),
    }
