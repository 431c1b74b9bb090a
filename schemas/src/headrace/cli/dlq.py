"""headrace dlq: what was rejected, why, and sending it again; what came too late, and why that is not sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from headrace.cli import letter as one_letter
from headrace.cli.kafka import (
    BOOTSTRAP,
    REGISTRY_URL,
    Bootstrap,
    RegistryUrl,
    complaints,
    console,
    doors,
    letter_topics,
    told,
)  # fmt: skip
from headrace.cli.places import FOUND, IngestUrl
from headrace.client.ingest import IngestClient
from headrace.client.letters import Letter, keeps_late, read_letters, replay

LATE_MEANS = (
    "late: a sound record that came after the lateness its event declares. It is in the archive, where training sets as of a "
    "time see it, and cannot be replayed: sent again it would be later still. A larger lateness in the declaration lets such "
    "records in: the set gets a new hash, and its state is built from the log with them."
)

app = typer.Typer(no_args_is_help=True, help="List, show and replay dead letters; list and show late records.")
app.command("show")(one_letter.show)

Reason = Annotated[str, typer.Option(help="Only letters of this reason, such as wrong_type.")]
Topic = Annotated[str, typer.Argument(help="A topic of dead letters or late records, as `headrace dlq list` shows it.")]


def register(root: typer.Typer) -> None:
    """Add the commands of this file."""
    root.add_typer(app, name="dlq")


@app.command("list")
def list_letters(
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    pipeline: Annotated[str, typer.Option(help="Only topics of this pipeline.")] = "",
) -> None:
    """Count the dead letters of every topic by reason, and the late records of every pipeline."""
    with told():
        bus, _, codec = doors(bootstrap, registry)
        late = listing(console, [(topic, read_letters(bus, codec, topic)) for topic in _topics(bootstrap, pipeline)])
    if late:
        console.print(LATE_MEANS, highlight=False)


def listing(to: Console, topics: list[tuple[str, Iterator[Letter]]]) -> bool:
    """Print the table; whether there are late records in it."""
    table = Table(Column("topic", no_wrap=True), "reason", "replay", "letters", "first", "last", "newest at", box=None)
    late = False
    for topic, letters in topics:
        late |= _count(table, topic, letters) and keeps_late(topic)
    to.print(table if table.row_count else "no dead letters, no late records")
    if table.row_count:
        to.print("one whole: headrace dlq show TOPIC/PARTITION/OFFSET, such as the newest; all of a topic: dlq show TOPIC")
    return late


@app.command("replay")
def replay_letters(
    topic: Topic,
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    ingest: IngestUrl = FOUND,
    reason: Reason = "",
    origin: Annotated[str, typer.Option(help="Only letters whose origin begins so.")] = "",
) -> None:
    """Send dead letters again: rows of a source through svc-ingest, records to the topic they came from. Not late records."""
    if keeps_late(topic):
        complaints.print(f"nothing of {topic} is sent again. {LATE_MEANS}", style="red", highlight=False)
        raise typer.Exit(1)
    with told(), IngestClient(ingest) as client:
        bus, _, codec = doors(bootstrap, registry)
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


def _topics(bootstrap: str, pipeline: str) -> list[str]:
    """Topics of dead letters and of late records there are. Raises HeadraceError if the broker does not answer."""
    return [name for name in letter_topics(bootstrap) if name.startswith(f"{pipeline}." if pipeline else "")]


def _count(table: Table, topic: str, letters: Iterator[Letter]) -> bool:
    """A row for each reason; whether there is one."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    newest: dict[str, Letter] = {}
    for letter in letters:
        reason, at_ms = letter.record.reason, letter.record.append_time_ms
        counts[reason] += 1
        first[reason] = min(at_ms, first.get(reason, at_ms))
        if reason not in newest or at_ms >= newest[reason].record.append_time_ms:
            newest[reason] = letter
    for reason, count in counts.most_common():
        last = newest[reason]
        again = "no: late" if keeps_late(topic) else "yes"
        span = _clock(first[reason]), _clock(last.record.append_time_ms)
        table.add_row(topic, reason, again, str(count), *span, f"{last.partition}/{last.offset}")
    return bool(counts)


def _chosen(letters: Iterator[Letter], reason: str, origin: str) -> Iterator[Letter]:
    return (
        letter
        for letter in letters
        if (not reason or letter.record.reason == reason) and letter.record.origin_id.startswith(origin)
    )


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
