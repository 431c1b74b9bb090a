"""headrace dlq show: the letters of a topic one after another, or one letter whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headrace.cli.kafka import BOOTSTRAP, REGISTRY_URL, Bootstrap, RegistryUrl, complaints, console, doors, letter_topics, told
from headrace.client.letters import Letter, holds_letters, read_letters
from headrace.client.local_stack import INGEST_URL, address
from headrace.client.opened import Opened, advice, dump, letter_at, letters_of, never_again, opened, place_of
from headrace.contracts.records import RecordRejected

VALUE_CHARACTERS_MAX = 300  # of an original, in a listing
DUMP_BYTES_MAX = 2_048  # of an original shown whole


def show(
    which: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC|POSITION|ID",
            help="A topic of letters, a position TOPIC/PARTITION/OFFSET, or an origin id or key.",
        ),
    ],
    bootstrap: Bootstrap = BOOTSTRAP,
    registry: RegistryUrl = REGISTRY_URL,
    reason: Annotated[str, typer.Option(help="Of a topic, only letters of this reason, such as wrong_type.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many letters.")] = 20,
    raw: Annotated[Path | None, typer.Option(help="Also write the original bytes of the one letter to this file.")] = None,
) -> None:
    """Show dead letters, or late records. A topic: what they were, whence, what was wrong, and the position of each.

    A position or an id: the letter whole, with reason, origin, decoded fields, raw bytes, and what to do.
    Ends with 1 if there is no such letter.
    """
    with told():
        bus, known, codec = doors(bootstrap, registry)
        place = place_of(which)
        if place is None and holds_letters(which):
            for letter in islice(_of_reason(read_letters(bus, codec, which), reason), limit):
                _print_short(letter)
            return
        if place is not None:
            one = letter_at(bus, codec, *place)
            found = [] if one is None else [one]
        else:
            found = list(islice(letters_of(bus, codec, letter_topics(bootstrap), which), limit))
        if not found:
            complaints.print(f"no dead letter {which}: `headrace dlq list` shows where some are", style="red", highlight=False)
            raise typer.Exit(1)
        for letter in found:
            _print_whole(opened(letter, known))
        if raw is not None:
            raw.write_bytes(found[0].record.value or b"")
            console.print(f"{len(found[0].record.value or b'')} bytes in {raw}", highlight=False)


def _of_reason(letters: Iterator[Letter], reason: str) -> Iterator[Letter]:
    return (letter for letter in letters if not reason or letter.record.reason == reason)


def _print_short(letter: Letter) -> None:
    record = letter.record
    value = (record.value or b"").decode(errors="backslashreplace")
    cut = value[:VALUE_CHARACTERS_MAX] + (f"... ({len(value)} characters)" if len(value) > VALUE_CHARACTERS_MAX else "")
    console.print(f"[bold]{record.reason}[/] at {_position(letter)} ({_clock(record.append_time_ms)})", highlight=False)
    for line in (record.detail, f"from {_where(record)}; origin {record.origin_id}", cut):
        console.print(f"    {line}", markup=False, highlight=False)


def _print_whole(found: Opened) -> None:
    letter, record = found.letter, found.letter.record
    value = record.value or b""
    console.print(f"[bold]{record.reason}[/]  {_position(letter)}", highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in (
        ("wrong", record.detail),
        ("rejected by", record.group),
        ("from", _where(record)),
        ("origin id", record.origin_id),
        ("appended", f"{_clock(record.append_time_ms)} UTC"),
        ("late by", "" if record.lateness_ms is None else f"{record.lateness_ms / 1000:.3f} s below the bound"),
        ("key", "none" if record.key is None else record.key.decode(errors="backslashreplace")),
        ("value", f"{len(value)} bytes{'' if found.schema_id is None else f', schema id {found.schema_id}'}"),
    ):
        if text:
            table.add_row(name, escape(text))
    console.print(table)
    unread = "" if found.fields else f"  not to be read: {escape(found.complaint)}"
    console.print(f"[dim]fields[/]{unread}", highlight=False)
    for name, text in found.fields:
        console.print(f"    {name} = {text}", markup=False, highlight=False, soft_wrap=True)
    console.print("[dim]bytes[/]")
    for line in dump(value, DUMP_BYTES_MAX):
        console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"[bold]what to do[/]  {escape(advice(record))}", highlight=False)
    again = f"headrace dlq replay {letter.topic} --origin {record.origin_id}"
    console.print(f"    {never_again(record) or again}", markup=False, highlight=False, soft_wrap=True)
    if record.partition < 0:  # a row of a source: it can be mended by hand and sent as what it was
        kind = "text/csv" if not value.lstrip().startswith(b"{") else "application/x-ndjson"
        url = f"{address(INGEST_URL)}/v1/{letter.pipeline}/{record.topic}/records"
        console.print("[dim]or mend it by hand[/]")
        for line in (
            f"headrace dlq show {_position(letter)} --raw row.txt",
            f"curl -X POST {url} -H 'content-type: {kind}' --data-binary @row.txt",
        ):
            console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)


def _position(letter: Letter) -> str:
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def _where(record: RecordRejected) -> str:
    if record.partition < 0:
        return f"source {record.topic}, line {record.offset + 1}"
    return f"{record.topic}, partition {record.partition}, offset {record.offset}"


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
