"""What must be right before anything starts: disk, ports, and a data folder that fits. Then the one-time set-up."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headrace_local import dist, keys, postgres, procs
from headrace_local.authority import ADMIN, BROKER, Authority
from headrace_local.errors import LauncherError
from headrace_local.settings import HOST, SERVICES, Layout, LocalSettings, can_bind

# Written into the data folder; another value means the data was made by another version of that component.
FORMAT = {"layout": 1, "kafka": "4.2.0", "registry": "3.3.3", "postgres": postgres.VERSION}


def check_disk(layout: Layout, settings: LocalSettings) -> None:
    """Raises LauncherError when a disk the stack writes to is nearly full."""
    places = [layout.home, *([postgres.OUTSIDE] if postgres.user() is not None else [])]
    for place in places:
        free = shutil.disk_usage(place).free / 2**30
        if free < settings.min_free_gib:
            raise LauncherError(
                f"{free:.1f} GiB free on the disk of {place}, the stack wants {settings.min_free_gib:g}",
                f"free some disk (`make clean` drops old data), or set min_free_gib in {layout.home / 'local.toml'}",
            )


def check_ports(layout: Layout, settings: LocalSettings, names: tuple[str, ...]) -> None:
    """Raises LauncherError naming every taken port and its holder."""
    wanted = [(name, port) for name in names for port in settings.ports.all_of(name)]
    taken = [f"{port} ({name}) is held by {procs.holder(port)}" for name, port in wanted if not can_bind(port)]
    if taken:
        raise LauncherError(
            "port taken: " + "; ".join(taken),
            f"stop that process, or choose other ports: `make up PORT_BASE=21000`, or [ports] in {layout.home / 'local.toml'}",
        )


def check_data(layout: Layout, *, secure: bool = False) -> str:
    """Check that the data folder was made by these versions and as one piece; stamp a new one.

    Returns: the id of the data folder.
    Raises: LauncherError when it is stale.
    """
    stamp = layout.data / "stamp.json"
    way_out = "`make clean` removes the stack's data (events, state, database), then start again"
    if not stamp.exists():
        if any(layout.data.iterdir()):
            raise LauncherError(f"{layout.data} holds data of an unknown version", way_out)
        postgres.wipe(layout)  # outside the clone it may outlive the data it belonged to
        stamp.write_text(json.dumps(FORMAT | {"id": uuid.uuid4().hex, "secure": secure}))
    try:
        found = json.loads(stamp.read_text())
        ident = str(found["id"])
    except (ValueError, KeyError, TypeError):
        raise LauncherError(f"{stamp} is damaged", way_out) from None
    for name, version in FORMAT.items():
        if found.get(name) != version:
            raise LauncherError(f"{layout.data} was made by {name} {found.get(name)}, this is {name} {version}", way_out)
    if found.get("secure", False) != secure:
        way_in = "start with --secure, or " if not secure else "start without --secure, or "
        made = "a secure stack" if not secure else "a stack without TLS, rights and passwords"
        raise LauncherError(f"{layout.data} was made by {made}", way_in + way_out)
    if postgres.stamp_of(layout) not in (None, ident):
        raise LauncherError(f"the database in {postgres.data_folder(layout)} belongs to other data", way_out)
    if postgres.is_lost(layout):
        raise LauncherError(f"the database in {postgres.data_folder(layout)} is gone, the rest of the data is there", way_out)
    _check_cluster(layout, ident, way_out)
    return ident


def made_secure(layout: Layout) -> bool:
    """Whether the data are those of a secure stack."""
    try:
        return bool(json.loads((layout.data / "stamp.json").read_text()).get("secure", False))
    except (OSError, ValueError):
        return False


def _check_cluster(layout: Layout, ident: str, way_out: str) -> None:
    """The broker's log must be the one formatted for this data folder."""
    meta = layout.data / "kafka" / "log" / "meta.properties"
    if meta.exists() and f"cluster.id={cluster_id(ident)}" not in meta.read_text().splitlines():
        raise LauncherError(f"the broker's log in {meta.parent} belongs to another cluster", way_out)


def cluster_id(ident: str) -> str:
    """The data folder's id as Kafka spells a UUID: 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(uuid.UUID(hex=ident).bytes).decode().rstrip("=")


def set_up(layout: Layout, settings: LocalSettings, names: tuple[str, ...], ident: str) -> None:
    """Key pairs, broker format, database cluster: each made once, the slow ones side by side."""
    keys.ensure(layout.keys)
    if settings.secure:
        Authority(layout.tls).ensure()
    with ThreadPoolExecutor(2) as pool:
        jobs = []
        if "kafka" in names:
            jobs.append(pool.submit(_format_broker, layout, settings, ident))
        if "postgres" in names:
            jobs.append(pool.submit(postgres.prepare, layout, ident, secure=settings.secure))
        for job in jobs:
            job.result()


def write_operator_env(layout: Layout, env: dict[str, str]) -> None:
    """What a shell is told to reach this stack: `set -a; . .headrace/operator.env; set +a`."""
    keys.write_file(layout.operator_env, "".join(f"{name}='{value}'\n" for name, value in env.items()).encode(), 0o600)


def write_addresses(layout: Layout, settings: LocalSettings, env: dict[str, str]) -> None:
    """What `headrace.client.local_stack` reads: variable -> address, of broker, registry, trace store and services."""
    found = {name: env[name] for name in ("HEADRACE_BOOTSTRAP", "HEADRACE_REGISTRY_URL", "HEADRACE_ZIPKIN_URL")}
    for service in SERVICES:
        found[f"HEADRACE_{service.removeprefix('svc-').upper()}_URL"] = f"http://{HOST}:{settings.ports.of(service)}"
    partial = layout.addresses.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1))
    partial.replace(layout.addresses)


def _format_broker(layout: Layout, settings: LocalSettings, ident: str) -> None:
    folder = layout.data / "kafka"
    log = folder / "log"
    log.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    text = broker_properties(log, settings.ports.kafka, settings.ports.kafka_controller)
    properties.write_text(secured(text, Authority(layout.tls)) if settings.secure else text)
    if (log / "meta.properties").exists():
        return
    shutil.rmtree(log)  # of a format that was interrupted
    log.mkdir()
    command = [dist.java(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", dist.kafka_classpath(layout)]
    command += ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id(ident)}", "-c", str(properties)]
    done = subprocess.run(procs.shielded(command), check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise LauncherError(
            f"the broker's log could not be formatted: {(done.stderr or done.stdout).strip()[-400:]}", "make clean"
        )


def broker_properties(log: Path, port: int, controller_port: int) -> str:
    """One node, broker and controller in one process. Each line away from Kafka's default says why."""
    return f"""process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}
advertised.listeners=PLAINTEXT://{HOST}:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{HOST}:{controller_port}
log.dirs={log}
# Topics come from the catalogue only: a misspelt name must fail, not appear.
auto.create.topics.enable=false
# One node has one replica to offer.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Each partition is a folder and an open file: a small machine needs few.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
# Groups of one machine need not wait for stragglers.
group.initial.rebalance.delay.ms=0
# A broker killed and started again is let in once its old session has run out: nine seconds by default.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
# A killed worker is noticed in seconds; the new group protocol takes this from the broker.
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=2000
# A dead producer's open transaction stalls its readers: look for expired ones every second, not every ten.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
"""


def secured(properties: str, authority: Authority) -> str:
    """The same broker with TLS on both listeners, a certificate asked of everyone, and no right that nobody gave."""
    return (
        properties.replace("PLAINTEXT://", "SSL://")
        + f"""listener.security.protocol.map=SSL:SSL,CONTROLLER:SSL
inter.broker.listener.name=SSL
ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={authority.keystore}
ssl.truststore.type=PEM
ssl.truststore.location={authority.believed}
# A principal is the common name alone: User:svc-stream. Any other name of ours stays whole and holds no right.
ssl.principal.mapping.rules=RULE:^CN=([a-z-]+)$/$1/,DEFAULT
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
# The node itself talks to its controller before any right can be read; the admin gives the first ones.
super.users=User:{BROKER};User:{ADMIN}
"""
    )
