"""headrace dlq: what was rejected, why, and sending it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from headrace.chassis.bus_confluent import ConfluentBus
from headrace.cli import letter as one_letter
from headrace.cli.kafka import BOOTSTRAP, REGISTRY_URL, Bootstrap, RegistryUrl, complaints, console, told, topics_ending
from headrace.client.ingest import DEFAULT_URL, IngestClient
from headrace.client.letters import SUFFIX, Letter, read_letters, replay
from headrace.contracts.codec import Codec, ConfluentRegistry

app = typer.Typer(no_args_is_help=True, help="List, show and replay dead letters.")
app.command("show")(one_letter.show)

Reason = Annotated[str, typer.Option(help="Only letters of this reason, such as wrong_type.")]
Topic = Annotated[str, typer.Argument(help="A dead-letter topic, as `headrace dlq list` shows it.")]


def register(root: typer.Typer) -> None:
    """Add the commands of this file."""
    root.add_typer(app, name="dlq")


@app.command("list")
def list_letters(
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    pipeline: Annotated[str, typer.Option(help="Only topics of this pipeline.")] = "",
) -> None:
    """Count the dead letters of every topic by reason."""
    with told():
        bus, codec = ConfluentBus(bootstrap), Codec(ConfluentRegistry(registry))
        table = Table("topic", "reason", "letters", "first", "last")
        for topic in _topics(bootstrap, pipeline):
            _count(table, topic, read_letters(bus, codec, topic))
    console.print(table if table.row_count else "no dead letters")


@app.command("replay")
def replay_letters(
    topic: Topic,
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    ingest: Annotated[str, typer.Option(help="Address of svc-ingest.")] = DEFAULT_URL,
    reason: Reason = "",
    origin: Annotated[str, typer.Option(help="Only letters whose origin begins so.")] = "",
) -> None:
    """Send dead letters again: rows of a source through svc-ingest, records to the topic they came from."""
    with told(), IngestClient(ingest) as client:
        bus = ConfluentBus(bootstrap)
        letters = list(_chosen(read_letters(bus, Codec(ConfluentRegistry(registry)), topic), reason, origin))
        done = replay(letters, bus, client)
    console.print(
        f"{len(letters)} letters: {done.accepted} accepted, {done.duplicates} known already, {done.rejected} rejected again, "
        f"{done.produced} produced to their topic, {done.skipped} too long to have been kept whole, "
        f"{done.repeated} of a record already sent"
    )
    if done.refused:
        complaints.print(done.refused, style="red", highlight=False)
        raise typer.Exit(1)


def _topics(bootstrap: str, pipeline: str) -> list[str]:
    """Dead-letter topics there are. Raises HeadraceError if the broker does not answer."""
    return [name for name in topics_ending(bootstrap, SUFFIX) if name.startswith(f"{pipeline}." if pipeline else "")]


def _count(table: Table, topic: str, letters: Iterator[Letter]) -> None:
    counts: Counter[str] = Counter()
    spans: dict[str, tuple[int, int]] = {}
    for letter in letters:
        record = letter.record
        counts[record.reason] += 1
        first, last = spans.get(record.reason, (record.append_time_ms, record.append_time_ms))
        spans[record.reason] = (min(first, record.append_time_ms), max(last, record.append_time_ms))
    for reason, count in counts.most_common():
        first, last = spans[reason]
        table.add_row(topic, reason, str(count), _clock(first), _clock(last))


def _chosen(letters: Iterator[Letter], reason: str, origin: str) -> Iterator[Letter]:
    return (
        letter
        for letter in letters
        if (not reason or letter.record.reason == reason) and letter.record.origin_id.startswith(origin)
    )


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
