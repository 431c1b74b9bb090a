"""Names, ports and folders of the local stack: the one place that knows them.

Settings come from `.headrace/local.toml` (optional, unknown keys are refused):

    port_base = 21000        # all ports from here on, in the order of `Ports`
    log_level = "info"       # of the seven services
    min_free_gib = 2         # refuse to start with less disk than this
    secure = true            # TLS and rights at the broker, TLS at the registry, a password at the database
    [ports]                  # or single ports, stronger than port_base
    kafka = 19192
"""

from __future__ import annotations

import random
import socket
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from headrace_local.errors import LauncherError

HOST = "127.0.0.1"
INFRASTRUCTURE = ("kafka", "registry", "zipkin", "postgres")
SERVICES = ("svc-ingest", "svc-stream", "svc-features", "svc-train", "svc-serve", "svc-monitor", "svc-governance")
COMPONENTS = INFRASTRUCTURE + SERVICES

# Free blocks are sought below the range from which Linux gives out client ports (32768 and up): nobody takes them by accident.
FREE_FROM, FREE_TO, BLOCK = 20_000, 32_000, 20


@dataclass(frozen=True, slots=True)
class Ports:
    """One TCP port on 127.0.0.1 per listener."""

    kafka: int = 19092
    kafka_controller: int = 19093
    registry: int = 18081
    registry_management: int = 18082
    zipkin: int = 19411
    postgres: int = 15432
    svc_ingest: int = 18101
    svc_stream: int = 18102
    svc_features: int = 18103
    svc_train: int = 18104
    svc_serve: int = 18105
    svc_monitor: int = 18106
    svc_governance: int = 18107

    @classmethod
    def from_base(cls, base: int) -> Ports:
        """Consecutive ports from `base`, in field order."""
        names = [field.name for field in fields(cls)]
        if not 1024 <= base <= 65535 - len(names):
            raise LauncherError(f"port base {base} is out of range", f"choose 1024 to {65535 - len(names)}")
        return cls(**{name: base + i for i, name in enumerate(names)})

    @classmethod
    def free(cls, seed: int | None = None) -> Ports:
        """A block of ports nobody listens on now; for tests, so that several stacks live side by side."""
        rng = random.Random(seed)
        for _ in range(200):
            ports = cls.from_base(rng.randrange(FREE_FROM, FREE_TO, BLOCK))
            if all(can_bind(port) for port in asdict(ports).values()):
                return ports
        raise LauncherError(f"no free block of ports between {FREE_FROM} and {FREE_TO}", "stop other stacks")

    def of(self, component: str) -> int:
        """The port a component is known by."""
        return int(getattr(self, component.replace("-", "_")))

    def all_of(self, component: str) -> tuple[int, ...]:
        """Every port a component listens on."""
        extra = {"kafka": (self.kafka_controller,), "registry": (self.registry_management,)}
        return (self.of(component), *extra.get(component, ()))


def can_bind(port: int) -> bool:
    """Whether a listener could be opened on 127.0.0.1:port now."""
    with socket.socket() as probe:
        # As every server does: connections of the last run that linger in TIME_WAIT do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What a user may change about the local stack."""

    ports: Ports = Ports()
    log_level: str = "INFO"
    min_free_gib: float = 2.0
    secure: bool = False


def load_settings(path: Path, port_base: int | None = None) -> LocalSettings:
    """Read `local.toml` if it is there. Raises LauncherError naming an unknown or ill-typed key."""
    raw: dict[str, Any] = {}
    if path.exists():
        try:
            raw = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise LauncherError(f"{path} is not valid TOML: {error}", f"mend or remove {path}") from error
    single = raw.pop("ports", {})
    base = port_base if port_base is not None else raw.pop("port_base", None)
    raw.pop("port_base", None)
    known_ports = {field.name for field in fields(Ports)}
    unknown = sorted({*raw} - {"log_level", "min_free_gib", "secure"} | {f"ports.{name}" for name in {*single} - known_ports})
    if unknown:
        raise LauncherError(
            f"unknown settings in {path}: {', '.join(unknown)}",
            f"known are port_base, log_level, min_free_gib, secure and under [ports]: {', '.join(sorted(known_ports))}",
        )
    if not isinstance(raw.get("secure", False), bool):
        raise LauncherError(f"secure = {raw['secure']!r} in {path} is neither true nor false", "choose true or false")
    numbers = [*single.items(), *([("port_base", base)] if base is not None else [])]
    for name, value in numbers:
        if not isinstance(value, int) or not 1024 <= value <= 65535:
            raise LauncherError(f"{name} = {value!r} in {path} is not a port", "choose 1024 to 65535")
    ports = replace(Ports.from_base(base) if base is not None else Ports(), **single)
    twice = [port for port in asdict(ports).values() if list(asdict(ports).values()).count(port) > 1]
    if twice:
        raise LauncherError(f"port {twice[0]} is given to two listeners", f"mend [ports] in {path}")
    return replace(LocalSettings(ports=ports), **raw)


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one stack. `root` is the clone, `home` everything the stack writes (default `<root>/.headrace`)."""

    root: Path
    home: Path

    @classmethod
    def of(cls, root: Path, home: Path | None = None) -> Layout:
        root = root.resolve()
        return cls(root, (home or root / ".headrace").resolve())

    @property
    def dist(self) -> Path:
        """Broker, registry and trace store as fetched; shared by all stacks of a clone."""
        return self.root / ".headrace" / "dist"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def run(self) -> Path:
        """State of the supervisor: lock, spec, state, control."""
        return self.home / "run"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def objects(self) -> Path:
        return self.home / "objects"

    @property
    def lake(self) -> Path:
        """The archive: one Delta table per topic, written by svc-features alone."""
        return self.home / "lake"

    @property
    def drop(self) -> Path:
        """Where svc-ingest looks for files: <pipeline>/<source>/*.csv."""
        return self.home / "drop"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def tls(self) -> Path:
        """Certificates and keys of a secure stack."""
        return self.keys / "tls"

    @property
    def database_password(self) -> Path:
        return self.keys / "private" / "postgres.password"

    @property
    def operator_env(self) -> Path:
        """Settings that point a shell at this stack; no secrets, only where they lie."""
        return self.home / "operator.env"

    @property
    def addresses(self) -> Path:
        """Where the running stack is, for commands, producers and notebooks; there while it runs."""
        return self.run / "addresses.json"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def make(self) -> None:
        """Create the folders; idempotent."""
        for folder in (self.logs, self.run, self.data, self.state, self.objects, self.lake, self.drop, self.reports):
            folder.mkdir(parents=True, exist_ok=True)
        self.run.chmod(0o700)
