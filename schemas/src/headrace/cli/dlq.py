"""headrace dlq: what was rejected, why, and sending it again; what came too late, and why that is not sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.table import Table

from headrace.chassis.access import AccessSettings
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.logs import kafka_log
from headrace.cli.terminal import printer
from headrace.client.ingest import DEFAULT_URL, IngestClient, Unanswered
from headrace.client.letters import SUFFIX, Letter, keeps_late, read_letters, replay
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.errors import HeadraceError

METADATA_TIMEOUT_S = 10.0
VALUE_CHARACTERS_MAX = 300  # of an original, in a listing

LATE_MEANS = (
    "late: a sound record that came after the lateness its event declares. It is in the archive, where training sets as of a "
    "time see it, and cannot be replayed: sent again it would be later still. A larger lateness in the declaration lets such "
    "records in: the set gets a new hash, and its state is built from the log with them."
)

app = typer.Typer(no_args_is_help=True, help="List, show and replay dead letters; list and show late records.")
console = printer()
complaints = printer(stderr=True)

Bootstrap = Annotated[str, typer.Option(envvar="HEADRACE_BOOTSTRAP", help="Kafka brokers.")]
RegistryUrl = Annotated[str, typer.Option("--registry", envvar="HEADRACE_REGISTRY_URL", help="Schema registry.")]
Reason = Annotated[str, typer.Option(help="Only letters of this reason, such as wrong_type.")]
Topic = Annotated[str, typer.Argument(help="A topic of dead letters or late records, as `headrace dlq list` shows it.")]
BOOTSTRAP = "127.0.0.1:19092"
REGISTRY_URL = "http://127.0.0.1:18081/apis/ccompat/v7"


def register(root: typer.Typer) -> None:
    """Add the commands of this file."""
    root.add_typer(app, name="dlq")


@contextmanager
def _told() -> Iterator[None]:
    """What the broker, the registry or svc-ingest say ends the command with a message and exit code 1."""
    try:
        yield
    except (HeadraceError, Unanswered) as error:
        complaints.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from None


@app.command("list")
def list_letters(
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    pipeline: Annotated[str, typer.Option(help="Only topics of this pipeline.")] = "",
) -> None:
    """Count the dead letters of every topic by reason, and the late records of every pipeline."""
    with _told():
        bus, codec = _doors(bootstrap, registry)
        late = listing(console, [(topic, read_letters(bus, codec, topic)) for topic in _topics(bootstrap, pipeline)])
    if late:
        console.print(LATE_MEANS, highlight=False)


def listing(to: Console, topics: list[tuple[str, Iterator[Letter]]]) -> bool:
    """Print the table; whether there are late records in it."""
    table = Table("topic", "reason", "replay", "letters", "first", "last")
    late = False
    for topic, letters in topics:
        late |= _count(table, topic, letters) and keeps_late(topic)
    to.print(table if table.row_count else "no dead letters, no late records")
    return late


@app.command()
def show(
    topic: Topic,
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    reason: Reason = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """Show dead letters, or late records: what they were, where they came from, what was wrong."""
    with _told():
        letters = _chosen(read_letters(*_doors(bootstrap, registry), topic), reason, "")
        for letter in islice(letters, limit):
            _print(letter)


@app.command("replay")
def replay_letters(
    topic: Topic,
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    ingest: Annotated[str, typer.Option(help="Address of svc-ingest.")] = DEFAULT_URL,
    reason: Reason = "",
    origin: Annotated[str, typer.Option(help="Only letters whose origin begins so.")] = "",
) -> None:
    """Send dead letters again: rows of a source through svc-ingest, records to the topic they came from. Not late records."""
    if keeps_late(topic):
        complaints.print(f"nothing of {topic} is sent again. {LATE_MEANS}", style="red", highlight=False)
        raise typer.Exit(1)
    with _told(), IngestClient(ingest) as client:
        bus, codec = _doors(bootstrap, registry)
        letters = list(_chosen(read_letters(bus, codec, topic), reason, origin))
        done = replay(letters, bus, client)
    console.print(
        f"{len(letters)} letters: {done.accepted} accepted, {done.duplicates} known already, {done.rejected} rejected again, "
        f"{done.produced} produced to their topic, {done.skipped} too long to have been kept whole, "
        f"{done.repeated} of a record already sent"
    )
    if done.refused:
        complaints.print(done.refused, style="red", highlight=False)
        raise typer.Exit(1)


def _doors(bootstrap: str, registry: str) -> tuple[ConfluentBus, Codec]:
    """Bus and codec, as whom the environment says. Raises HeadraceError."""
    access = AccessSettings()
    return ConfluentBus(bootstrap, access.kafka()), Codec(ConfluentRegistry(registry, client_config=access.registry()))


def _topics(bootstrap: str, pipeline: str) -> list[str]:
    """Topics of dead letters and of late records there are. Raises HeadraceError if the broker does not answer."""
    try:
        base = {"bootstrap.servers": bootstrap, **AccessSettings().kafka()}
        found = AdminClient(base, logger=kafka_log).list_topics(timeout=METADATA_TIMEOUT_S).topics
    except Exception as error:  # the client raises its own kind only
        raise HeadraceError(f"no answer from {bootstrap}: {error}; is the stack up?") from error
    kept = (name for name in found if name.endswith(SUFFIX) or keeps_late(name))
    return sorted(name for name in kept if name.startswith(f"{pipeline}." if pipeline else ""))


def _count(table: Table, topic: str, letters: Iterator[Letter]) -> bool:
    """A row for each reason; whether there is one."""
    counts: Counter[str] = Counter()
    spans: dict[str, tuple[int, int]] = {}
    for letter in letters:
        record = letter.record
        counts[record.reason] += 1
        first, last = spans.get(record.reason, (record.append_time_ms, record.append_time_ms))
        spans[record.reason] = (min(first, record.append_time_ms), max(last, record.append_time_ms))
    for reason, count in counts.most_common():
        first, last = spans[reason]
        table.add_row(topic, reason, "no: late" if keeps_late(topic) else "yes", str(count), _clock(first), _clock(last))
    return bool(counts)


def _chosen(letters: Iterator[Letter], reason: str, origin: str) -> Iterator[Letter]:
    return (
        letter
        for letter in letters
        if (not reason or letter.record.reason == reason) and letter.record.origin_id.startswith(origin)
    )


def _print(letter: Letter) -> None:
    record = letter.record
    value = (record.value or b"").decode(errors="backslashreplace")
    cut = value[:VALUE_CHARACTERS_MAX] + (f"... ({len(value)} characters)" if len(value) > VALUE_CHARACTERS_MAX else "")
    where = f"source {record.topic}, line {record.offset}" if record.partition < 0 else (
        f"{record.topic}, partition {record.partition}, offset {record.offset}"
    )  # fmt: skip
    console.print(f"[bold]{record.reason}[/] at {letter.offset} ({_clock(record.append_time_ms)})", highlight=False)
    for line in (record.detail, f"from {where}; origin {record.origin_id}", cut):
        console.print(f"    {line}", markup=False, highlight=False)


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
