"""The folder door: finished CSV files that are moved into a source's folder.

    <drop>/<pipeline>/<source>/name.csv         written elsewhere on the same disk, then renamed to here
                              /done/name.csv    all its rows are durable, as events or dead letters
                              /refused/name.csv its header does not fit; name.csv.why.txt says why, a dead letter too

A file's origin is its digest. It is moved only when everything is durable, so a kill repeats it and the ledger drops what
was written; a file dropped twice is counted as duplicates. Per source one part of one file is in flight, in name order.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path

from headrace.chassis.health import Heartbeat
from headrace.contracts.errors import HeadraceError, Poison, Reason, Retryable
from svc_ingest.adapters.csv_rows import CsvRefused, csv_rows
from svc_ingest.desk import Desk, Full
from svc_ingest.domain.identity import DIGEST_CHARACTERS
from svc_ingest.ports import LINE_BYTES_MAX, Batch, OutsideRow, Receipt, Route
from svc_ingest.routes import Routes
from svc_ingest.telemetry import Telemetry

PART_ROWS_MAX = 5_000  # answered together
PART_BYTES_MAX = 4 << 20  # of one part, so that it always fits the admission bounds
READ_BYTES = 1 << 20  # also the longest physical line; longer ones are refused by the cell bound anyway
BACKOFF_S = 0.5
ANSWER_TIMEOUT_S = 120.0


class FolderDoor:
    """One thread looks at the folders of all open sources in turn."""

    def __init__(self, root: Path, routes: Routes, desk: Desk, telemetry: Telemetry, poll_s: float = 0.5) -> None:
        self.name = "folder"
        self.heartbeat = Heartbeat(self.name)
        self._root = root
        self._routes = routes
        self._desk = desk
        self._telemetry = telemetry
        self._poll_s = poll_s
        self._stop = threading.Event()

    def step(self) -> int:
        """Look once, after a pause."""
        self.heartbeat.beat()
        return 0 if self._stop.wait(self._poll_s) else self.look()

    def stop(self) -> None:
        """Give up waiting; callable from any thread. A file half taken in stays where it is."""
        self._stop.set()

    def close(self) -> None:
        """Nothing is held open between steps."""

    def look(self) -> int:
        """Take in every finished file there is; returns how many were moved away."""
        return sum(
            self._take(route, path) for route in self._routes.all() if route.form == "csv" for path in self._files(route)
        )

    def folder(self, route: Route) -> Path:
        return self._root / route.pipeline / route.source.name

    def _files(self, route: Route) -> list[Path]:
        folder = self.folder(route)
        folder.mkdir(parents=True, exist_ok=True)
        found = folder.glob("*.csv")
        return sorted(path for path in found if not path.name.startswith(".") and path.is_file())

    def _take(self, route: Route, path: Path) -> bool:
        if self._stop.is_set():
            return False
        try:
            with path.open("rb") as file:
                origin = f"{route.source.name}:{_digest(file)}"
                receipt = self._read(route, origin, file)
        except CsvRefused as refused:
            return self._refuse(route, path, str(refused))
        except (HeadraceError, OSError, TimeoutError) as fault:
            self._telemetry.file_postponed(path.name, fault)
            return False
        _move(path, "done")
        self._telemetry.file_done(path.name, receipt)
        return True

    def _read(self, route: Route, origin: str, file: BufferedReader) -> Receipt:
        receipt = Receipt()
        rows = csv_rows(iter(partial(file.readline, READ_BYTES), b""), route.rows)
        for part in _parts(rows):
            receipt.add(self._hand_in(route, origin, part))
        return receipt

    def _hand_in(self, route: Route, origin: str, rows: list[OutsideRow]) -> Receipt:
        """One part, sent again until it is durable or the process stops."""
        batch = Batch(route, origin, rows, size_bytes=_size(rows))
        while True:
            self.heartbeat.beat()
            try:
                with self._desk.enter(batch.size_bytes):
                    return self._desk.hand_in(batch).result(ANSWER_TIMEOUT_S)
            except (Full, Retryable) as fault:
                if self._stop.wait(BACKOFF_S):
                    raise Retryable("stopping: the file stays where it is") from fault

    def _refuse(self, route: Route, path: Path, why: str) -> bool:
        """A dead letter for the file as a whole, then out of the way with an explanation beside it."""
        with path.open("rb") as file:
            head = file.read(LINE_BYTES_MAX)
            file.seek(0)
            origin = f"{route.source.name}:{_digest(file)}"
        try:
            self._hand_in(route, origin, [OutsideRow(0, head, Poison(Reason.BROKEN_CSV, why))])
        except HeadraceError as fault:
            self._telemetry.file_postponed(path.name, fault)
            return False
        moved = _move(path, "refused")
        moved.with_name(moved.name + ".why.txt").write_text(f"{why}\nthe columns are: {', '.join(route.rows.sources)}\n")
        self._telemetry.file_refused(path.name, Reason.BROKEN_CSV, why)
        return True


def _digest(file: BufferedReader) -> str:
    """Digest of a whole file, equal to that of its bytes; rewinds it."""
    found = hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_CHARACTERS]
    file.seek(0)
    return found


def _parts(rows: Iterable[OutsideRow]) -> Iterator[list[OutsideRow]]:
    part: list[OutsideRow] = []
    size_bytes = 0
    for row in rows:
        part.append(row)
        size_bytes += len(row.raw)
        if len(part) >= PART_ROWS_MAX or size_bytes >= PART_BYTES_MAX:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


def _size(rows: Iterable[OutsideRow]) -> int:
    return sum(len(row.raw) for row in rows)


def _move(path: Path, folder: str) -> Path:
    """Rename into a sibling folder, beside what has the same name there already."""
    target = path.parent / folder
    target.mkdir(exist_ok=True)
    moved = next(place for place in _places(target, path) if not place.exists())
    return path.rename(moved)


def _places(target: Path, path: Path) -> Iterator[Path]:
    yield target / path.name
    number = 1
    while True:
        yield target / f"{path.stem}.{number}{path.suffix}"
        number += 1
