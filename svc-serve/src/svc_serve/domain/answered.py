"""Request ids already answered, so that one id has one passport, whatever door and however often it is asked.

unknown --claim--> in flight --settle--> answered
                      \\--release--> unknown
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WAIT_S = 5.0  # an id in flight at another door settles within its transaction; ours may be open while we wait


@dataclass(frozen=True, slots=True)
class Claimed:
    """new: ids this caller must answer. known: replies of ids answered before."""

    new: frozenset[str]
    known: Mapping[str, bytes]


class Answered:
    """Bounded memory of replies by request id; thread-safe. Oldest are forgotten first."""

    def __init__(self, answered_max: int, wait_s: float = WAIT_S) -> None:
        self._max, self._wait_s = answered_max, wait_s
        self._replies: OrderedDict[str, bytes] = OrderedDict()
        self._in_flight: set[str] = set()
        self._changed = threading.Condition()

    def claim(self, request_ids: Sequence[str]) -> Claimed:
        """Take the unknown ids; waits for ids in flight elsewhere.

        Raises: TimeoutError if another door neither settles nor releases in wait_s.
        """
        wanted = set(request_ids)
        with self._changed:
            if not self._changed.wait_for(lambda: not wanted & self._in_flight, self._wait_s):
                raise TimeoutError(f"{len(wanted & self._in_flight)} request ids are in flight for {self._wait_s:g} s")
            known = {i: self._replies[i] for i in wanted if i in self._replies}
            new = wanted - known.keys()
            self._in_flight |= new
            return Claimed(frozenset(new), known)

    def settle(self, replies: Mapping[str, bytes]) -> None:
        """These are durable now."""
        with self._changed:
            self._replies.update(replies)
            self._in_flight -= replies.keys()
            while len(self._replies) > self._max:
                self._replies.popitem(last=False)
            self._changed.notify_all()

    def release(self, request_ids: Iterable[str]) -> None:
        """Not answered after all: the transaction was aborted."""
        with self._changed:
            self._in_flight.difference_update(request_ids)
            self._changed.notify_all()

    def reply(self, request_id: str) -> bytes | None:
        with self._changed:
            return self._replies.get(request_id)

    def __len__(self) -> int:
        return len(self._replies)
