"""How events get in: HTTP batches, dropped files, and a producer that is not ours. One batch in flight per source."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from headrace.chassis.access import AccessSettings
from headrace.client.ingest import IngestClient, Receipt
from headrace.client.producer import publish
from headrace_demo.board import Board

PIPELINE = "flights"
HTTP_STREAMS = ("scheduled", "departures", "arrivals")
ROWS_PER_BATCH = 5_000  # some 1.3 MB of JSON
BUDGET_S = 120.0  # of one batch: svc-ingest may be killed and come back


def source_of(stream: str) -> str:
    """The declared source of a stream."""
    return f"flights-{stream}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where things are."""

    ingest: str
    bootstrap: str
    registry: str
    drop: Path
    producer: AccessSettings  # who the producer is that is not ours


class Doors:
    """One worker per source: batches of a source go out in order, one at a time, sources side by side.

    A batch is repeated, the same bytes, until it is answered.
    """

    def __init__(self, where: Addresses, board: Board) -> None:
        self._where, self._board = where, board
        self._clients = {name: IngestClient(where.ingest, budget_s=BUDGET_S, patient=True) for name in HTTP_STREAMS}
        self._workers = {name: ThreadPoolExecutor(1, f"send-{name}") for name in (*HTTP_STREAMS, "weather")}
        self._files = count()
        self._folder = where.drop / PIPELINE / source_of("weather")

    def send(self, stream: str, lines: Sequence[bytes], own: Sequence[dict[str, Any]] = ()) -> Future[list[Receipt]]:
        """Hand JSON lines to svc-ingest; the receipts come when everything is durable.

        Args:
            own: rows of the same stream that go past svc-ingest, before the lines: by confluent-kafka with the registry's
                Avro serializer, a producer that is not ours.
        Raises: in the future, Refused, Unanswered, RuntimeError.
        """
        return self._workers[stream].submit(self._send, stream, lines, own)

    def _send(self, stream: str, lines: Sequence[bytes], own: Sequence[dict[str, Any]]) -> list[Receipt]:
        receipts = []
        if own:
            topic = f"{PIPELINE}.{stream}.v1"
            self._board.published += publish(
                self._where.bootstrap,
                self._where.registry,
                topic,
                "flight_id",
                own,
                id_field="flight_id",
                access=self._where.producer,
            )
        for start in range(0, len(lines), ROWS_PER_BATCH):
            body = b"\n".join(lines[start : start + ROWS_PER_BATCH])
            receipt = self._clients[stream].send(PIPELINE, source_of(stream), body)
            receipts.append(receipt)
            self._board.accepted[stream] += receipt.accepted
            self._board.duplicates += receipt.duplicates
            for rejection in receipt.rejected:
                self._board.rejected[rejection.reason] += 1
        return receipts

    def drop(self, csv: bytes) -> Future[Path]:
        """Put a CSV file of weather into svc-ingest's folder: written beside it, then moved in whole."""
        return self._workers["weather"].submit(self._drop, csv)

    def _drop(self, csv: bytes) -> Path:
        name = f"{next(self._files):06d}.csv"
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._where.drop / f".{name}"
        aside.write_bytes(csv)
        return aside.rename(self._folder / name)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.shutdown(cancel_futures=True)
        for client in self._clients.values():
            client.close()
