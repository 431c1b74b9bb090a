"""The verb: worlds played on a real broker one after the other, recomputed, mutants tried, and a report of all of it."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from headrace_demo import report
from headrace_demo.checks import Check
from headrace_local import Ports, Stack
from headrace_local.stack import clone_root
from parity.flights import flights_world
from parity.generated import law_world
from parity.mutants import MUTANTS, caught
from parity.playing import play
from parity.recomputing import Findings, recompute
from parity.traits import TRAITS
from parity.worlds import Mode, World

FULL_READS_MIN, FULL_ORACLE_MIN, FULL_WALL_S_MAX = 10_000_000, 100_000, 3_600.0
FULL_FLIGHTS = 336_776
PLAIN_EVERY_S = 10.0

app = typer.Typer(add_completion=False)
console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is played. oracle_reads: about so many; days None: the whole year."""

    days: int | None
    asks_per_flight: float
    law_worlds: int
    law_records: int
    law_reads: int  # of one world
    oracle_reads: int
    mutant_seeds: int


FULL = Size(None, 1.15, 7, 16_000, 700_000, 130_000, 60)
QUICK = Size(12, 0.8, 4, 1_000, 20_000, 4_000, 60)


@dataclass(slots=True)
class Outcome:
    """All of a run."""

    found: Findings = field(default_factory=Findings)
    worlds: dict[str, dict[str, Any]] = field(default_factory=dict)
    mutants: dict[str, str | None] = field(default_factory=dict)  # by name what caught it
    flights: int = 0


@app.command()
def parity(
    quick: Annotated[bool, typer.Option("--quick", help="Some 200,000 reads instead of 10,000,000.")] = False,
    seed: Annotated[int, typer.Option(help="Of the worlds, the deaths and the moments.")] = 1,
    home: Annotated[Path | None, typer.Option(help="Folder of the run's data; default .headrace/parity.")] = None,
) -> None:
    """Serve, archive, recompute, compare. Ends with 0 if no bit differs and every mutant is caught; 2 if not."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started, root, size = time.monotonic(), clone_root(), QUICK if quick else FULL
    outcome = Outcome()
    folder = home or root / ".headrace" / "parity"
    with bars() as shown, Stack(root=root, home=folder, ports=Ports.free(), say=shown.say) as stack:
        stack.wipe()
        shutil.rmtree(folder / "worlds", ignore_errors=True)
        stack.start(("kafka", "registry"))
        for world in worlds(root, size, seed):
            outcome.worlds[world.name] = run_world(world, stack, folder / "worlds" / world.name, size, seed, outcome, shown)
        stack.stop()
        try_mutants(size, outcome, shown)
        stack.wipe()
    shutil.rmtree(folder / "worlds", ignore_errors=True)
    wall_s = time.monotonic() - started
    held = checks(outcome, quick, wall_s)
    document = report.frame(root, "parity-quick" if quick else "parity", seed, wall_s, figures(outcome), held)
    short = {name: value for name, value in document["figures"].items() if name not in ("worlds", "mutants_by_name")}
    report.show(console, document | {"figures": short})
    for mismatch in outcome.found.mismatches:
        console.print(f"  [red]\u2717[/] {mismatch}", soft_wrap=True)
    console.print(f"report {report.write(document, root / '.headrace' / 'reports')}", soft_wrap=True)
    if not all(c.ok for c in held):
        raise typer.Exit(2)


def worlds(root: Path, size: Size, seed: int) -> Iterator[World]:
    """One after the other: a world's log and questions are in memory while it is played."""
    for number in range(size.law_worlds):
        yield law_world(seed, number, size.law_records, size.law_reads)
    yield flights_world(root, seed, size.days, size.asks_per_flight)


def run_world(world: World, stack: Stack, folder: Path, size: Size, seed: int, outcome: Outcome, shown: Bars) -> dict[str, Any]:
    """Play and judge one world; its page of the report."""
    started = time.monotonic()
    shown.world(world)
    played = play(world, stack.bootstrap, stack.registry_url, folder, seed, shown.tell)
    at = time.monotonic()
    found = recompute(played, oracle_share(size), folder, shown.tell)
    outcome.found.add(found)
    if world.name == "flights":
        outcome.flights = found.ids["departures"]
    lost = {event: (found.ids[event], n) for event, n in world.accepted.items() if found.ids[event] != n}
    return {
        **page(found),
        **played.facts,
        "ids_lost": lost,
        "played_s": round(at - started, 1),
        "recomputed_s": round(time.monotonic() - at, 1),
    }


def oracle_share(size: Size) -> float:
    """Share of the questions the naive oracle answers, from what a run of this size asks."""
    return size.oracle_reads / (FULL_READS_MIN if size is FULL else 200_000)


def try_mutants(size: Size, outcome: Outcome, shown: Bars) -> None:
    """Each on small worlds without a broker, until something differs."""
    shown.phase(f"{len(MUTANTS)} mutants")
    for mutant in MUTANTS:
        outcome.mutants[mutant.name] = caught(mutant, range(1, size.mutant_seeds + 1))
        shown.tell("mutants", 1)


def page(found: Findings) -> dict[str, Any]:
    """Counts by the names tools read."""
    return {
        "reads": found.reads,
        "fresh": found.fresh,
        "bits_differing": found.bits_differing,
        "statuses_differing": found.statuses_differing,
        "statuses": dict(found.statuses),
        "oracle_reads": found.oracle_reads,
        "oracle_bits_differing": found.oracle_bits_differing,
        "oracle_statuses_differing": found.oracle_statuses_differing,
        "records_judged": found.records,
        "verdicts": dict(sorted(found.verdicts.items())),
        "verdicts_differing": found.verdicts_differing,
    }


def figures(outcome: Outcome) -> dict[str, Any]:
    """The figures of the report."""
    dead = sum((sum(w["workers_killed"].values()) for w in outcome.worlds.values()), 0)
    return {
        **page(outcome.found),
        "flights": outcome.flights,
        "mutants": len(outcome.mutants),
        "mutants_caught": sum(by is not None for by in outcome.mutants.values()),
        "traits": {name: outcome.found.traits[name] for name in TRAITS},
        **{name: sum(w[name] for w in outcome.worlds.values()) for name in ("tasks_moved", "imported", "rows_answered")},
        "workers_killed": dead,
        "cuts": sum(w["cuts"] for w in outcome.worlds.values()),
        "asked_in_play": sum(w["asked_in_play"] for w in outcome.worlds.values()),
        "mutants_by_name": {name: by or "NOT CAUGHT" for name, by in outcome.mutants.items()},
        "worlds": outcome.worlds,
    }


def checks(outcome: Outcome, quick: bool, wall_s: float) -> list[Check]:
    """What must hold."""
    return list(_checks(outcome, quick, wall_s))


def _checks(outcome: Outcome, quick: bool, wall_s: float) -> Iterator[Check]:
    found = outcome.found
    reads, oracle = (180_000, 2_000) if quick else (FULL_READS_MIN, FULL_ORACLE_MIN)
    yield Check("enough reads", found.reads >= reads, f"{found.reads:,} of at least {reads:,}")
    yield Check("at least half of the values fresh", 2 * found.fresh >= found.reads > 0, f"{found.fresh:,}")
    yield Check("served equals DuckDB: bits differing 0", found.bits_differing == 0, f"{found.bits_differing:,}")
    yield Check("served equals DuckDB: statuses differing 0", found.statuses_differing == 0, f"{found.statuses_differing:,}")
    yield Check("enough asked of the oracle", found.oracle_reads >= oracle, f"{found.oracle_reads:,} of at least {oracle:,}")
    wrong = found.oracle_bits_differing + found.oracle_statuses_differing
    yield Check("served equals the naive oracle", wrong == 0, f"{wrong:,} bits and statuses differ")
    told = f"{found.verdicts_differing:,} of {found.records:,} records"
    yield Check("verdicts of SQL equal the rules word for word", found.verdicts_differing == 0 < found.records, told)
    silent = [v for v in ("ok", "late", "duplicate", "poison", "undecodable") if not found.verdicts[v]]
    yield Check("every verdict occurred", not silent, f"never: {', '.join(silent)}" if silent else str(dict(found.verdicts)))
    never = [s for s in ("fresh", "stale", "missing", "ahead", "expired") if not found.statuses[s]]
    yield Check("every status occurred", not never, f"never: {', '.join(never)}" if never else str(dict(found.statuses)))
    unmet = [t for t in TRAITS if not found.traits[t]]
    told = f"never: {', '.join(unmet)}" if unmet else ", ".join(f"{t} {found.traits[t]:,}" for t in TRAITS)
    yield Check("every trait occurred", not unmet, told)
    yield from _modes(outcome)
    for name, world in outcome.worlds.items():
        killed, sent = sum(world["workers_killed"].values()), world["records"]
        hidden = sent.get("aborted", 0) + sent.get("interleaved", 0)
        told = f"{killed} deaths {world['workers_killed']}, {hidden:,} records aborted, {world['cuts']:,} cuts"
        yield Check(f"{name}: workers died and transactions were aborted", killed > 0 and hidden > 0, told)
    lost = {name: world["ids_lost"] for name, world in outcome.worlds.items() if world["ids_lost"]}
    yield Check("every real event is accepted once", not lost, str(lost) if lost else "none lost")
    if not quick:
        yield Check("all flights", outcome.flights == FULL_FLIGHTS, f"{outcome.flights:,} of {FULL_FLIGHTS:,}")
        yield Check("within an hour", wall_s <= FULL_WALL_S_MAX, f"{wall_s:.0f} s")
    free = [name for name, by in outcome.mutants.items() if by is None]
    told = f"{len(outcome.mutants) - len(free)} of {len(outcome.mutants)}" + (f"; not: {', '.join(free)}" if free else "")
    yield Check("every mutant is caught", bool(outcome.mutants) and not free, told)


def _modes(outcome: Outcome) -> Iterator[Check]:
    """Each way state comes about was really gone."""
    by = {mode: [w for w in outcome.worlds.values() if w["mode"] == mode.value] for mode in Mode}
    moved = [w["tasks_moved"] for w in by[Mode.TWO]]
    yield Check("tasks moved between two workers of one group", bool(moved) and min(moved) > 0, f"{moved} times")
    imported = [w["imported"] for w in by[Mode.IMPORTED]]
    yield Check("sets went on from imported bases", bool(imported) and min(imported) > 0, f"{imported} sets")
    rows = [(w["rows_answered"], w["rows_answered_twice"]) for w in by[Mode.OWNED]]
    told = ", ".join(f"{n:,} answers, {twice:,} of them second ones" for n, twice in rows)
    yield Check("owned sets answered at the row", bool(rows) and min(n for n, _ in rows) > 0, told)


# ---------------------------------------------------------------- the terminal


class Bars:
    """Progress of the world under way; elsewhere than on a terminal one plain line now and then."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._tasks, self._phase = progress, dict[str, TaskID](), ""
        self._counts, self._said_s, self._started = dict[str, int](), time.monotonic(), time.monotonic()

    def say(self, text: str) -> None:
        """Progress of the set-up."""
        self._progress.console.print(f"  {text}", style="dim")

    def phase(self, name: str) -> None:
        """Begin with no counts."""
        self._phase = name
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks, self._counts = {}, {}
        if not self._progress.console.is_terminal:
            console.print(f"{time.monotonic() - self._started:7.1f} s  {name}")

    def world(self, world: World) -> None:
        """Begin a world."""
        values = {s.name: len(s.features) for s in world.plan.feature_sets}
        asked = sum(len(world.questions[s.name].due_ms) + world.asked_by_rows(s) for s in world.plan.feature_sets)
        self.phase(f"{world.name}: {world.reads():,} reads of {len(values)} sets")
        for what, total in (("steps", world.steps_count), ("asked", asked), ("recomputed", world.reads()), ("oracle", None)):
            self._tasks[what] = self._progress.add_task(f"{world.name} {what}", total=total)

    def tell(self, what: str, count: int) -> None:
        """Somebody got on by so much."""
        self._counts[what] = self._counts.get(what, 0) + count
        if what in self._tasks:
            self._progress.advance(self._tasks[what], count)
        now = time.monotonic()
        if not self._progress.console.is_terminal and now - self._said_s >= PLAIN_EVERY_S:
            self._said_s = now
            told = ", ".join(f"{name} {n:,}" for name, n in self._counts.items())
            console.print(f"{now - self._started:7.1f} s  {self._phase}: {told}")


@contextmanager
def bars() -> Iterator[Bars]:
    """Shown while the block runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb."""
    app(args=None if arguments is None else list(arguments))
