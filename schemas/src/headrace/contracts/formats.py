"""Versions of the records feature state is made of. plan/FORMATS.md says what each looks like; golden files hold it."""

from __future__ import annotations

from typing import Protocol, TypeVar

from headrace.contracts.errors import Fatal

FORMAT = 1  # of TileBlock, Progress, PartialTiles and of the metadata of a source's offset: they move together


class Versioned(Protocol):
    """A record that says its format."""

    @property
    def format(self) -> int: ...


V = TypeVar("V", bound=Versioned)


def readable(record: V) -> V:
    """The record, if this version knows its format. Raises: Fatal."""
    check(type(record).__name__, record.format)
    return record


def check(what: str, found: int) -> None:
    """Raises: Fatal if this version does not know the format."""
    if found != FORMAT:
        raise Fatal(f"{what} has format {found}, this version reads format {FORMAT}: run the version that wrote it, or newer")
