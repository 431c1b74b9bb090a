"""Signed heads in a file kept outside Kafka: one line after each transaction, on disk before it counts."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.contracts.audit import Head
from headrace.contracts.errors import Fatal, Poison


class HeadsFile:
    """Append-only JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, head: Head) -> None:
        """Durable when it returns. Raises Fatal if the file cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(head.to_json() + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Fatal(f"cannot keep the audit's head in {self._path}: {error}") from error

    def read(self) -> list[Head]:
        """All heads; a last line cut short by a crash is not one. Raises Fatal for any other broken line."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        lines = text.split("\n")[:-1]
        try:
            return [Head.from_json(line) for line in lines if line.strip()]
        except Poison as error:
            raise Fatal(f"{self._path} is damaged: {error.detail}") from error
