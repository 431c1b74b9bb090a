"""Keeps the board up to date: passports as they are appended, status pages, memory. Two threads, both stop with the board."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import orjson

from headrace.chassis.bus import Bus, TopicPartition
from headrace.contracts.catalogue import predictions_topic
from headrace.contracts.codec import Codec
from headrace.contracts.errors import HeadraceError, Poison
from headrace.contracts.records import DecisionSource, PredictionMade
from headrace_demo.board import Board, Decision
from headrace_demo.waiting import Stopped, until
from headrace_local import Stack

CONSUME_MAX = 500
CONSUME_WAIT_S = 0.2
PAGES_EVERY_S = 1.0
MEMORY_EVERY_PAGES = 3
REQUEST_TIMEOUT_S = 5.0
TOPIC_TIMEOUT_S = 60.0
WHOLE_PASSPORTS_MAX = 500  # of traced flights


class Passports(threading.Thread):
    """Reads the passports' topic from its beginning on."""

    def __init__(self, bus: Bus, codec: Codec, pipeline: str, board: Board) -> None:
        super().__init__(name="passports", daemon=True)
        self._bus, self._codec, self._board = bus, codec, board
        self._topic = predictions_topic(pipeline)
        self.done = threading.Event()  # set: read on to what is there, then end

    def run(self) -> None:
        try:
            count = until(
                "the passports' topic", lambda: self._bus.admin().partitions(self._topic), TOPIC_TIMEOUT_S, self._board.stop
            )
        except Stopped:
            return
        consumer = self._bus.consumer(None, "headrace-demo.passports")
        try:
            consumer.assign({TopicPartition(self._topic, number): 0 for number in range(count)})
            while not self._board.stop.is_set():
                try:
                    records = consumer.consume(CONSUME_MAX, CONSUME_WAIT_S)
                except HeadraceError:
                    continue  # the broker is away: it comes back, or the demo ends
                for record in records:
                    self._take(record.value, record.append_time_ms)
                if not records and self.done.is_set():
                    return
        finally:
            consumer.close()

    def _take(self, value: bytes | None, append_ms: int) -> None:
        board = self._board
        try:
            made = self._codec.decode(value, PredictionMade)
        except Poison:
            return
        if board.first_decision_s is None and made.decision_source is DecisionSource.RULES:
            board.first_decision_s = board.elapsed_s
            board.say(f"first decision of the rules: {made.request_id} {'late' if made.decision else 'punctual'}")
        board.decisions.append(decision_of(made, append_ms))
        board.sources[made.decision_source.value.lower()] += 1
        board.latest = made
        if made.trace_id and len(board.kept) < WHOLE_PASSPORTS_MAX:
            board.kept[made.request_id] = made


def decision_of(made: PredictionMade, append_ms: int) -> Decision:
    return Decision(
        made.request_id, made.t_ms, made.decision_source.value.lower(), made.arm, made.epoch, made.model_digest or "",
        made.score, made.rule_score, made.decision, made.trace_id, made.request_append_ms, append_ms, made.door.value.lower(),
    )  # fmt: skip


class Pages(threading.Thread):
    """Asks the services for their status about once a second, and the machine for their memory."""

    def __init__(self, stack: Stack, board: Board) -> None:
        super().__init__(name="pages", daemon=True)
        self._stack, self._board = stack, board
        self._http = httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False)
        self._seen: dict[str, tuple[float, float]] = {}
        self._looks: dict[tuple[int, int], dict[str, Any]] = {}
        self.done = threading.Event()

    def run(self) -> None:
        rounds = 0
        while not self.done.wait(PAGES_EVERY_S) and not self._board.stop.is_set():
            self.look(rounds % MEMORY_EVERY_PAGES == 0)
            rounds += 1
        self._http.close()

    def look(self, memory: bool = True) -> None:
        """One round."""
        board = self._board
        looks: list[Callable[[], None]] = [self._ingest, self._stream, self._rollout, self._monitor]
        for one in looks:
            try:
                one()
            except (httpx.HTTPError, KeyError, ValueError, TypeError):
                continue  # a service is away: its last page stays
        total = len(board.decisions)
        self._rate("decisions", total)
        if memory:
            board.memory_mb = self._stack.memory_mb()
            board.peak_memory_mb = max(board.peak_memory_mb, sum(board.memory_mb.values()))

    def _page(self, service: str, path: str) -> Any:
        answer = self._http.get(self._stack.url(service) + path)
        answer.raise_for_status()
        return orjson.loads(answer.content)

    def _ingest(self) -> None:
        page = self._board.services["svc-ingest"] = self._page("svc-ingest", "/v1/status")["sources"]
        self._rate("events", sum(source["accepted"] for source in page.values()))

    def _stream(self) -> None:
        page = self._board.services["svc-stream"] = self._page("svc-stream", "/v1/status")
        self._rate("stream records", sum(worker["records"] for worker in page.values()))

    def _rollout(self) -> None:
        board = self._board
        found = [view for view in self._page("svc-governance", "/v1/rollouts") if view["pipeline"] == "flights"]
        if not found:
            return
        board.rollout = view = found[0]
        weight = next((arm["weight"] // 100 for arm in view["arms"] if arm["name"] == "challenger"), 0)
        if view["state"] == "PROMOTED":
            weight = 100
        if not board.weights or board.weights[-1][1:] != (weight, view["state"]):
            board.weights.append((board.clock_ms, weight, view["state"]))

    def _monitor(self) -> None:
        board = self._board
        board.months = self._page("svc-monitor", "/v1/flights/late_arrival/performance?by=month")["rows"]
        for look in self._page("svc-monitor", "/v1/flights/late_arrival/drift")["looks"]:
            self._looks[look["start_ms"], look["end_ms"]] = look  # a new champion begins a new list; the report wants all
        board.looks = [look for _, look in sorted(self._looks.items())]

    def _rate(self, name: str, total: float) -> None:
        now = time.monotonic()
        before, at = self._seen.get(name, (total, now))
        self._seen[name] = (total, now)
        if now > at:
            self._board.rates[name] = max(0.0, total - before) / (now - at)
