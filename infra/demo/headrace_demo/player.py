"""Plays the year: history at full speed, then in event-time order, requests let go only when features are near enough.

    step [T, T + 1 h):  wait until every view has seen all data before T
                        requests of the step -> receipt
                        data of the step     -> receipt

So features are at most one step behind a request's time and, since a request overtakes the data of its own step, hardly
ever ahead of it. Nothing here waits for time to pass: the platform's own latency sets the pace.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import orjson

from headrace.client.ingest import Receipt
from headrace_demo.board import Board
from headrace_demo.doors import HTTP_STREAMS, Doors
from headrace_demo.mischief import bad_lines
from headrace_demo.waiting import Stopped, until
from headrace_demo.year import DATA, DAY_MS, HOUR_MS, Step, Year

HISTORY_STEP_MS = DAY_MS
HISTORY_AHEAD_STEPS = 1  # data runs so far ahead of requests: few features are expired when they are read
GATE_TIMEOUT_S = 120.0  # a killed service must be able to come back
# A look costs both sides a millisecond or two: the first comes when half of the usual wait is over, then often.
FIRST_LOOK_SHARE = 0.5
LOOK_SHARE = 0.1
LOOK_S_MIN, LOOK_S_MAX = 0.01, 0.25
ASK_EVERY_STEPS = 3  # over REST; each question is a transaction of its own
LATE_BY_MS = 5 * HOUR_MS  # above the declared lateness of two hours


class Gate:
    """What svc-serve's views have seen, asked over HTTP."""

    def __init__(self, serve_url: str, pipeline: str, board: Board) -> None:
        self._http = httpx.Client(base_url=serve_url, timeout=10.0, trust_env=False)
        self._pipeline, self._board = pipeline, board
        self._seen: dict[str, int] = {}
        self._usual_s = 0.1  # moving average of the waits

    def seen(self) -> dict[str, int]:
        """Per event the largest event time all views have reached, ms UTC; empty while svc-serve is away."""
        try:
            answer = self._http.get("/v1/status")
        except httpx.TransportError:
            return {}
        if answer.status_code != 200:
            return {}
        self._board.services["svc-serve"] = page = orjson.loads(answer.content)
        return page["views"].get(self._pipeline, {})

    def wait(self, step: Step) -> None:
        """Return once the views have seen everything before the step. Raises GaveUp, Stopped."""
        began = time.monotonic()
        if self._open(step):
            return
        if self._board.stop.wait(FIRST_LOOK_SHARE * self._usual_s):
            raise Stopped("the gate")

        def look() -> bool:
            self._seen = self.seen()
            return self._open(step)

        every_s = min(LOOK_S_MAX, max(LOOK_S_MIN, LOOK_SHARE * self._usual_s))
        until(f"features up to event time {step.start_ms}", look, GATE_TIMEOUT_S, self._board.stop, every_s)
        self._usual_s += 0.2 * (min(1.0, time.monotonic() - began) - self._usual_s)

    def _open(self, step: Step) -> bool:
        return all(self._seen.get(name, -1) >= needed for name, needed in step.needs.items())

    def close(self) -> None:
        self._http.close()


class Player:
    """Plays one year through the doors."""

    def __init__(self, year: Year, doors: Doors, gate: Gate, board: Board, serve_url: str, enough: threading.Event) -> None:
        self._year, self._doors, self._gate, self._board, self._enough = year, doors, gate, board, enough
        self._asker = Asker(year, serve_url, board)
        self._under_way: list[Future[Any]] = []

    # -- history

    def history(self) -> None:
        """January to May, as fast as it is taken. Raises Refused, Unanswered, GaveUp, Stopped.

        All data streams have delivered a step before the next begins: the topics grow old together. Requests follow a few
        steps behind, each step when the views have seen all data before it, so that they find features.
        """
        behind: deque[Step] = deque()
        for step in self._year.history(HISTORY_STEP_MS):
            _done(self._hand_over(step, DATA))
            self._board.clock_ms = step.end_ms
            behind.append(step)
            if len(behind) > HISTORY_AHEAD_STEPS:
                _done(self._request(behind.popleft()))
        for step in behind:
            _done(self._request(step))

    def _request(self, step: Step) -> list[Future[Any]]:
        self._gate.wait(step)
        return self._hand_over(step, ("scheduled",))

    def resend(self) -> None:
        """The first history step's departures and weather once more, the same bytes: all duplicates."""
        first = next(self._year.history(HISTORY_STEP_MS))
        sent = self._hand_over(first, ("departures", "weather"))
        receipts: list[Receipt] = sent[0].result()
        self._board.facts["resent"] = {
            "rows": sum(r.accepted + r.duplicates for r in receipts),
            "accepted": sum(r.accepted for r in receipts),
        }

    def misbehave(self) -> None:
        """Malformed rows, each answered with its reason; and one departure too late, which only the stream can tell."""
        at = self._board.clock_ms
        sent = bad_lines(at)
        (receipt,) = self._doors.send("departures", [bad.line for bad in sent]).result()
        told = {rejection.line: rejection.reason for rejection in receipt.rejected}
        self._board.facts["malformed"] = [
            {"what": bad.what, "expected": bad.reason.value, "told": told.get(line)} for line, bad in enumerate(sent, 1)
        ]
        late = {
            "flight_id": "late.1", "carrier": "UA", "tail": None, "origin": "EWR", "dest": "ORD", "dep_delay": 90,
            "departed_at": at - LATE_BY_MS, "outcome": "departed",
        }  # fmt: skip
        (receipt,) = self._doors.send("departures", [orjson.dumps(late)]).result()
        self._board.facts["late_sent"] = receipt.accepted

    # -- play

    def play(self, wall_s_max: float) -> None:
        """June onward, until it is enough, the declared end, or so much wall time.

        Raises: Refused, Unanswered, GaveUp, Stopped.
        """
        board, began = self._board, time.monotonic()
        asked: list[Future[Any]] = []  # requests of the last step: they set out before its data, and need no longer than those
        for step in self._year.steps():
            if self._enough.is_set() or board.play_s > wall_s_max:
                break
            asks = self._year.requests(step)
            if asks:
                _done(asked)
                asked = self._request(step)
                board.feature_lag_ms_max = max(board.feature_lag_ms_max, self._year.last_request_ms(step) - step.start_ms)
                if board.steps % ASK_EVERY_STEPS == 0:
                    self._asker.ask(step)
            board.asked_ms = step.end_ms
            self._under_way = [sent for sent in self._under_way if not _failed(sent)]
            for hour in step.hours():
                self._under_way += self._hand_over(hour, DATA)
            board.clock_ms, board.steps, board.play_s = step.end_ms, board.steps + 1, time.monotonic() - began
        _done([*asked, *self._under_way])
        self._asker.close()

    def _hand_over(self, step: Step, streams: tuple[str, ...]) -> list[Future[Any]]:
        sent: list[Future[Any]] = []
        for name in streams:
            if name in HTTP_STREAMS:
                own = self._year.published(step.start_ms, step.end_ms) if name == "arrivals" else []
                lines = self._year.lines(name, step.start_ms, step.end_ms)
                if lines or own:
                    sent.append(self._doors.send(name, lines, own))
            elif self._year.streams[name].between(step.start_ms, step.end_ms).height:
                sent.append(self._doors.drop(self._year.streams[name].csv(step.start_ms, step.end_ms)))
        return sent


def _done(sent: list[Future[Any]]) -> None:
    """Wait for all; raises what one raised."""
    for each in sent:
        each.result()


def _failed(sent: Future[Any]) -> bool:
    """Whether it is done; raises what it raised."""
    if sent.done():
        sent.result()
    return sent.done()


class Asker:
    """Asks for a decision over REST now and then, with request ids of its own, and takes the time."""

    def __init__(self, year: Year, serve_url: str, board: Board) -> None:
        self._year, self._board = year, board
        self._http = httpx.Client(base_url=serve_url, timeout=30.0, trust_env=False)
        self._rng = random.Random(year.seed)
        self._thread: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, "ask")

    def ask(self, step: Step) -> None:
        """Ask for one flight of the step, unless the last question is still open."""
        if self._thread is not None and not self._thread.done():
            return
        rows = self._year.streams["scheduled"].between(step.start_ms, step.end_ms)
        row = rows.row(self._rng.randrange(rows.height), named=True)
        self._thread = self._pool.submit(self._ask, {**row, "flight_id": f"rest-{row['flight_id']}", "ask": True})

    def _ask(self, row: dict[str, Any]) -> None:
        body = orjson.dumps(row)
        began = time.perf_counter()
        try:
            answer = self._http.post("/v1/flights/late_arrival/decisions", content=body)
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            self._board.rest_ms.append((time.perf_counter() - began) * 1000)
            self._board.facts.setdefault("rest_reply", answer.json())
        else:
            self._board.facts["rest_refused"] = f"{answer.status_code}: {answer.text[:200]}"

    def close(self) -> None:
        self._pool.shutdown()
        self._http.close()
