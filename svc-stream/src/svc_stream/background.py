"""One piece of work at a time beside the caller's thread: commits of owned sets, while requests go on being answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol


class Background(Protocol):
    """Used by one thread, which sees what the work did once `result` has returned."""

    def start(self, work: Callable[[], None]) -> None:
        """Nothing may be under way."""
        ...

    def ended(self) -> bool:
        """Whether `result` would return at once."""
        ...

    def result(self) -> None:
        """Wait for what was started. Raises what it raised."""
        ...

    def close(self) -> None: ...


class ThreadBackground:
    """In a thread of its own."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        assert self._work is None, "one piece of work at a time"
        self._work = self._thread.submit(work)

    def ended(self) -> bool:
        return self._work is None or self._work.done()

    def result(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        self._thread.shutdown()
