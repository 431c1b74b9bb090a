"""`python -m headrace_local up | down | status | logs | fetch | clean`, and what `make` calls of the same names."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headrace_local import dist, prepare, probes, state
from headrace_local.components import Spec
from headrace_local.errors import LauncherError
from headrace_local.settings import COMPONENTS, HOST, SERVICES, Ports
from headrace_local.stack import Stack
from headrace_local.state import ComponentState

app = typer.Typer(help="The local stack: broker, registry, traces, database, seven services.", no_args_is_help=True)
out = Console(highlight=False)

EXIT_IN_THE_WAY, EXIT_NOT_READY, EXIT_NOT_RUNNING, EXIT_INTERRUPTED = 1, 2, 3, 130
MARKS = {state.READY: "[green]ready[/]", state.FAILED: "[red]failed[/]", state.BACKOFF: "[yellow]backoff[/]"}
Home = Annotated[Path | None, typer.Option(help="Folder of the stack's data; default .headrace in the clone.")]
Base = Annotated[int | None, typer.Option("--port-base", help="Take all ports from here on.")]


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what stands in the way into a message and an exit code, and SIGTERM into an orderly end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    try:
        yield
    except LauncherError as error:
        out.print(f"[red]cannot go on:[/] {escape(error.message)}", soft_wrap=True)
        if error.hint:
            out.print(f"[bold]way out:[/] {escape(error.hint)}", soft_wrap=True)
        raise typer.Exit(EXIT_IN_THE_WAY) from None
    except KeyboardInterrupt:
        out.print("interrupted; nothing is left running")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _stack(home: Path | None, port_base: int | None = None, say: Any = None, *, secure: bool = False) -> Stack:
    ports = Ports.from_base(port_base) if port_base else None
    return Stack(home=home, ports=ports, secure=secure or None, **({"say": say} if say else {}))


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """A line that changes on a terminal; elsewhere every step of the set-up and each twentieth fetched file."""
    if out.is_terminal:
        with out.status("starting") as status:
            yield status.update
        return
    seen = 0

    def say(text: str) -> None:
        nonlocal seen
        seen += text.startswith("fetched")
        if not text.startswith(("fetched", "waiting")) or (text.startswith("fetched") and seen % 20 == 0):
            out.print(f"  {text}")

    yield say


@app.command()
def up(
    only: Annotated[str, typer.Option(help="Comma-separated components instead of all.")] = "",
    home: Home = None,
    port_base: Base = None,
    secure: Annotated[bool, typer.Option("--secure", help="TLS, rights by topic file, passwords.")] = False,
) -> None:
    """Start the stack and leave it running. Starting what runs already changes nothing."""
    with told(), _progress() as say:
        stack = _stack(home, port_base, say, secure=secure)
        began = time.monotonic()
        shown: set[str] = set()

        def watch(components: dict[str, ComponentState]) -> None:
            waiting = [name for name, part in components.items() if part.phase != state.READY]
            for name, part in components.items():
                if part.phase == state.READY and name not in shown:
                    shown.add(name)
                    out.print(f"  [green]\u2713[/] {name:15} {HOST}:{part.port:<6} {time.monotonic() - began:5.1f} s")
            if waiting:
                say(f"waiting for {', '.join(waiting)}")

        stack.start([name.strip() for name in only.split(",")] if only else COMPONENTS, watch=watch)
        stack.detach()
    out.print("the stack is up; `make status`, `make logs`, `make down`")
    if stack.settings.secure:
        out.print(f"it asks who you are: `set -a; . {stack.layout.operator_env}; set +a`", soft_wrap=True)


@app.command()
def down(home: Home = None) -> None:
    """Stop the stack, services first. Stopping what does not run changes nothing."""
    with told():
        stack = _stack(home)
        running = stack.is_running()
        if not running and stack.is_starting():
            raise LauncherError("a start is under way in another process and has nothing to stop yet", "press Ctrl-C there")
        stack.stop()
        out.print("stopped; no process is left" if running else "it was not running")


@app.command()
def status(home: Home = None) -> None:
    """Show every component; exit code 0 when all are ready, 2 when not, 3 when the stack does not run."""
    with told():
        stack = _stack(home)
        if not stack.is_running():
            out.print("the stack is not running; `make up`")
            raise typer.Exit(EXIT_NOT_RUNNING)
        components = stack.components()
        memory = stack.memory_mb()
        answers = {
            spec.name: probes.is_ready(*spec.probe) for spec in _specs(stack) if components[spec.name].phase == state.READY
        }
    table = Table(box=None, pad_edge=False)
    for title, justify in (("component", "left"), ("pid", "right"), ("port", "right"), ("state", "left"), ("answers", "left")):
        table.add_column(title, justify=justify)  # pyright: ignore[reportArgumentType]
    for title in ("rss MB", "restarts", "since"):
        table.add_column(title, justify="right")
    table.add_column("why")
    for name, part in components.items():
        alive = name in memory
        age = f"{time.time() - part.since:.0f} s" if part.since else "-"
        answer = "yes" if answers.get(name) else "no"
        row = [name, str(part.pid) if alive else "-", str(part.port), MARKS.get(part.phase, part.phase), answer]
        table.add_row(*row, f"{memory[name]:.0f}" if alive else "-", str(part.restarts), age, escape(part.reason))
    out.print(table)
    out.print(f"{sum(memory.values()):.0f} MB in {len(memory)} components; logs in {stack.layout.logs}", soft_wrap=True)
    if not all(answers.get(name) for name in components):
        raise typer.Exit(EXIT_NOT_READY)


def _specs(stack: Stack) -> list[Spec]:
    return Spec.read(stack.layout.run / "spec.json")


@app.command()
def logs(
    names: Annotated[list[str] | None, typer.Argument(help="Components; default all.")] = None,
    lines: Annotated[int, typer.Option("-n", help="Lines of each.")] = 20,
    follow: Annotated[bool, typer.Option("-f", help="Go on showing new lines.")] = False,
    home: Home = None,
) -> None:
    """Show the last lines of the components' logs."""
    with told():
        stack = _stack(home)
        chosen = names or [name for name in (*COMPONENTS, "supervisor") if stack.layout.log(name).exists()]
        if unknown := sorted({*chosen} - {*COMPONENTS, "supervisor"}):
            raise LauncherError(f"no such component: {', '.join(unknown)}", f"known: {', '.join(COMPONENTS)}, supervisor")
        ends = {name: path.stat().st_size if (path := stack.layout.log(name)).exists() else 0 for name in chosen}
        for name in chosen:
            typer.echo(stack.log_tail(name, lines))
        with contextlib.suppress(KeyboardInterrupt):
            while follow:
                time.sleep(0.3)
                for name in chosen:
                    ends[name] = _show_new(name, stack.layout.log(name), ends[name])


def _show_new(name: str, path: Path, end: int) -> int:
    """Print what a log gained since byte `end`; returns its new end. A truncated log starts over."""
    size = path.stat().st_size if path.exists() else 0
    if size <= end:
        return size
    with path.open("rb") as file:
        file.seek(end)
        fresh = file.read().decode(errors="replace")
    for line in fresh.splitlines():
        typer.echo(f"  {name} | {line}")
    return size


@app.command()
def rotate(
    names: Annotated[list[str] | None, typer.Argument(help="Services; default all, one after the other.")] = None,
    home: Home = None,
) -> None:
    """New certificates for services of a secure stack, each restarted with its own while the others go on."""
    with told():
        stack = _stack(home, secure=prepare.made_secure(_stack(home).layout))
        for name in names or [name for name in SERVICES if name in stack.components()]:
            began = time.monotonic()
            stack.rotate(name)
            out.print(f"  [green]\u2713[/] {name:15} back after {time.monotonic() - began:.1f} s")


@app.command()
def fetch(home: Home = None) -> None:
    """Fetch broker, registry and trace store now instead of at the first start."""
    with told(), _progress() as say:
        target = dist.fetch(_stack(home).layout, say)
        out.print(f"  [green]\u2713[/] broker, registry, trace store in {target}", soft_wrap=True)


@app.command()
def clean(home: Home = None) -> None:
    """Remove the data of a stopped stack: events, state, database, objects, logs. Keys and fetched files stay."""
    with told():
        stack = _stack(home)
        stack.wipe()
        out.print(f"removed the data in {stack.layout.home}", soft_wrap=True)
