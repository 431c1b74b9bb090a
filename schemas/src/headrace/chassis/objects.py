"""Large bodies (data sets, models, snapshots) under their SHA-256; topics carry reference and digest.

Read bytes once, verify, use those bytes: nothing opens a path again after the check. Formats that can
run code when they are loaded (pickle and what wraps it) are refused both ways.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.chassis.files import write_whole
from headrace.contracts.errors import Fatal, Poison, Reason, Retryable

# What may lie here. Absent on purpose: .pkl, .pickle, .joblib, .pt, .pth, .npy, .npz: loading them can run code.
SUFFIXES = frozenset({".json", ".onnx", ".parquet", ".ubj", ".csv", ".txt", ".html", ".bin"})
_REFERENCE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}(\.[a-z]+)")
_PICKLE_PROTOCOLS = range(2, 6)  # a pickle of protocol 2 or later starts with 0x80 and its number
_ZIP = b"PK\x03\x04"  # torch and numpy wrap pickles in zip files


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a body lies, and its SHA-256 (64 hex)."""

    reference: str
    digest: str


class ObjectStore(Protocol):
    """Content-addressed and write-once; putting the same bytes again is harmless."""

    def put(self, data: bytes, suffix: str) -> Stored:
        """Durable when it returns. Raises: Poison UNSAFE_FORMAT, Retryable if the store does not answer."""
        ...

    def get(self, reference: str, digest: str) -> bytes:
        """The bytes, verified.

        Raises: Poison BAD_DIGEST (other bytes), UNSAFE_FORMAT, WRONG_TYPE (no reference);
            Retryable if it is not there or the store does not answer.
        """
        ...


class FolderObjectStore:
    """Objects as files `ab/abcdef... .suffix` below one folder, which replicas may share."""

    def __init__(self, folder: str | Path) -> None:
        """Creates the folder. Fatal if that is impossible."""
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise Fatal(f"object store folder cannot be made: {self._folder}: {e}: see HEADRACE_OBJECT_STORE") from e

    def put(self, data: bytes, suffix: str) -> Stored:
        check_format(data, suffix)
        digest = hashlib.sha256(data).hexdigest()
        reference = f"{digest[:2]}/{digest}{suffix}"
        path = self._folder / reference
        try:
            if not (path.exists() and path.read_bytes() == data):
                path.parent.mkdir(exist_ok=True)
                write_whole(path, data)
        except OSError as e:
            raise Retryable(f"object store cannot write {reference}: {e}") from e
        return Stored(reference, digest)

    def get(self, reference: str, digest: str) -> bytes:
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise Poison(Reason.WRONG_TYPE, f"not an object reference: {reference[:200]!r}")
        try:
            data = (self._folder / reference).read_bytes()
        except OSError as e:
            raise Retryable(f"object store cannot read {reference}: {e}") from e
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise Poison(Reason.BAD_DIGEST, f"{reference} holds bytes of digest {found}, expected {digest}")
        check_format(data, match[1])
        return data


def check_format(data: bytes, suffix: str) -> None:
    """Raises: Poison UNSAFE_FORMAT for suffixes we do not know and for bytes that look like a pickle."""
    if suffix not in SUFFIXES:
        raise Poison(Reason.UNSAFE_FORMAT, f"suffix {suffix!r} is none of {', '.join(sorted(SUFFIXES))}")
    if data[:4] == _ZIP or (len(data) > 1 and data[0] == 0x80 and data[1] in _PICKLE_PROTOCOLS):
        raise Poison(Reason.UNSAFE_FORMAT, f"bytes of a {suffix} object look like a pickle or an archive")
