"""Waiting on conditions, never on time alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class GaveUp(Exception):
    """A condition did not come true in time; the text says which."""


class Stopped(Exception):
    """The demo is being ended."""


def until(
    what: str, look: Callable[[], T | None], timeout_s: float, stop: threading.Event | None = None, every_s: float = 0.1
) -> T:
    """The first answer of `look` that is not None or False.

    Raises: GaveUp naming `what` after timeout_s, Stopped when `stop` is set.
    """
    deadline = time.monotonic() + timeout_s
    gate = stop or threading.Event()
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise GaveUp(f"waited {timeout_s:g} s for {what}")
        if gate.wait(every_s):
            raise Stopped(what)
