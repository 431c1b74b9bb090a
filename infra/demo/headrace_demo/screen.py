"""The demo on a terminal, redrawn a few times a second; elsewhere one plain line for each thing that happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headrace_demo.board import Board
from headrace_local.settings import COMPONENTS
from headrace_local.state import READY, ComponentState

REDRAWS_PER_S = 3
LINES_SHOWN = 12
PLAIN_EVERY_S = 10.0  # how often a line says how far it has come, where there is no terminal


class Screen:
    """Shows a board until left."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console, self._board = console, board
        self._components: dict[str, ComponentState] = {}
        self._said: str = ""
        self._done = threading.Event()
        self._shown = 0
        self._ready: set[str] = set()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Redraw, or print lines, as long as the block runs."""
        if self._console.is_terminal:
            with Live(console=self._console, get_renderable=self.draw, refresh_per_second=REDRAWS_PER_S, transient=True):
                yield
            return
        thread = threading.Thread(target=self._plain, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
            self._lines()

    def say(self, text: str) -> None:
        """Progress of the set-up."""
        self._said = text

    def watch(self, components: dict[str, ComponentState]) -> None:
        """State of the stack's components while it starts."""
        self._components = components
        for name, part in components.items():
            if part.phase == READY and name not in self._ready:
                self._ready.add(name)
                if not self._console.is_terminal:
                    self._console.print(f"  \u2713 {name} on port {part.port}", highlight=False)

    # -- plain lines

    def _plain(self) -> None:
        waited = 0.0
        while not self._done.wait(0.5):
            self._lines()
            waited += 0.5
            if waited >= PLAIN_EVERY_S and self._board.clock_ms:
                waited = 0.0
                board = self._board
                self._console.print(
                    f"{board.elapsed_s:6.1f} s  {board.phase}: {_clock(board.clock_ms)}, {_counts(board)}", highlight=False
                )

    def _lines(self) -> None:
        events = list(self._board.events)
        for at, text in events[self._shown :]:
            self._console.print(f"{at:6.1f} s  {text}", highlight=False, markup=False)
        self._shown = len(events)

    # -- the terminal

    def draw(self) -> RenderableType:
        """The whole picture."""
        board = self._board
        if board.stack_ready_s is None:
            return Panel(Group(*self._ticks()), title="headrace demo: the local stack")
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(self._panel("the way of an event", self._topology), self._panel("decisions", self._decisions))
        grid.add_row(self._panel("rollout", self._rollout), self._panel("how good", self._quality))
        spent = f"{board.elapsed_s:.0f} s, {board.peak_memory_mb:.0f} MB at most"
        head = f"[bold]{board.phase}[/]  event time [bold]{_clock(board.clock_ms)}[/]  {spent}"
        return Panel(Group(Text.from_markup(head), grid, self._panel("what happened", self._events)), title="headrace demo")

    def _panel(self, title: str, draw: Callable[[], RenderableType]) -> Panel:
        return Panel(draw(), title=title, title_align="left", border_style="dim")

    def _ticks(self) -> Iterator[Text]:
        for name in COMPONENTS:
            part = self._components.get(name)
            mark = "[green]\u2713[/]" if part is not None and part.phase == READY else "[dim]\u2026[/]"
            yield Text.from_markup(f"{mark} {name}" + (f" [dim]127.0.0.1:{part.port}[/]" if part is not None else ""))
        yield Text(self._said, style="dim")

    def _topology(self) -> RenderableType:
        board = self._board
        accepted = sum(board.accepted.values()) + board.published
        table = Table.grid(padding=(0, 1))
        table.add_row("producers", f"{accepted:,} events", f"{board.rates.get('events', 0):,.0f}/s")
        dead = sum(board.rejected.values())
        table.add_row("\u2193 svc-ingest", f"{board.duplicates:,} duplicates", f"{dead:,} dead letters")
        table.add_row("\u2193 svc-stream", f"event lag {self._lag()}", f"{board.rates.get('stream records', 0):,.0f} records/s")
        table.add_row(
            "\u2193 svc-serve", f"{sum(board.sources.values()):,} decisions", f"{board.rates.get('decisions', 0):,.0f}/s"
        )
        table.add_row(
            "\u2193 svc-monitor", f"{len(board.looks)} drift looks", f"{len(board.facts.get('findings', {}))} findings"
        )
        rejected = ", ".join(f"{reason} {count}" for reason, count in board.rejected.items())
        others = Text("\u2192 svc-features, svc-train, svc-governance")
        return Group(table, others, Text(f"dead letters: {rejected}" if rejected else "", style="dim"))

    def _lag(self) -> str:
        """Event time between what was sent and what features have seen, over the data streams."""
        page = self._board.services.get("svc-serve") or {}
        seen = page.get("views", {}).get("flights", {})
        reached = [at for name, at in seen.items() if name != "scheduled"]
        if not reached or not self._board.clock_ms:
            return "-"
        minutes = max(0, self._board.clock_ms - min(reached)) // 60_000
        return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"

    def _decisions(self) -> RenderableType:
        board, latest = self._board, self._board.latest
        total = max(1, sum(board.sources.values()))
        table = Table.grid(padding=(0, 1))
        for source, count in sorted(board.sources.items()):
            table.add_row(source, f"{count:,}", Bar(total, 0, count, width=20))
        if latest is None:
            return table
        score = "" if latest.score is None else f" score {latest.score:.2f}"
        what = (
            f"{latest.request_id}: {'late' if latest.decision else 'punctual'}{score} by {latest.decision_source.value.lower()}"
        )
        why = ", ".join(f"{c.input} {c.value:+.2f}" for c in latest.contributions[:3])
        return Group(table, Text(what), Text(why, style="dim"))

    def _rollout(self) -> RenderableType:
        view = self._board.rollout
        if view is None:
            return Text("rules answer for everyone", style="dim")
        table = Table.grid(padding=(0, 1))
        for arm in view["arms"]:
            digest = (arm["model_digest"] or "")[:8]
            table.add_row(arm["name"], Bar(10_000, 0, arm["weight"], width=24), f"{arm['weight'] / 100:g} %", digest)
        way = " \u2192 ".join(f"{weight} %" for _, weight, _ in self._board.weights[-6:])
        return Group(
            Text(f"{view['state'].lower()}, epoch {view['epoch']}, approved by {view['approved_by']}"),
            table,
            Text(way, style="dim"),
        )

    def _quality(self) -> RenderableType:
        table = Table("month", "AUC", "rule", "labelled", box=None, header_style="dim")
        for row in self._board.months[-6:]:
            if row["group"] == "all" and row["auc"] is not None:
                rule = "-" if row["rule_auc"] is None else f"{row['rule_auc']:.3f}"
                table.add_row(_clock(row["from_ms"])[:7], f"{row['auc']:.3f}", rule, f"{row['labelled']:,}")
        psi = ", ".join(f"{look['worst_psi']:.2f}" for look in self._board.looks[-8:])
        return Group(table, Text(f"drift, largest PSI by look: {psi or '-'}", style="dim"))

    def _events(self) -> RenderableType:
        shown = list(self._board.events)[-LINES_SHOWN:]
        return Group(*(Text.from_markup(f"[dim]{at:6.1f} s[/]  {escape(text)}", overflow="ellipsis") for at, text in shown))


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if ms else "-"


def _counts(board: Board) -> str:
    decided = ", ".join(f"{source} {count:,}" for source, count in sorted(board.sources.items())) or "no decisions yet"
    return f"{sum(board.accepted.values()):,} events ({board.rates.get('events', 0):,.0f}/s), decisions: {decided}"
