"""CSV (RFC 4180, comma, UTF-8, header line) to outside rows. An empty cell is null."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from headrace.contracts.errors import Poison, Reason
from svc_ingest.domain.fields import shown
from svc_ingest.domain.normalise import Normaliser
from svc_ingest.ports import OutsideRow

CELL_CHARACTERS_MAX = 131_072  # of Python's csv module; a quote left open ends there, not at the end of the file


class CsvRefused(Exception):
    """The header does not fit the declaration: no row of this file can be read."""


def csv_rows(lines: Iterable[bytes], normaliser: Normaliser) -> Iterator[OutsideRow]:
    """Rows of a file, numbered from 0 by the physical line they start on; the header is line 0.

    Each row's original bytes are the header line and its own lines: a file in itself, so that a dead letter can be sent
    again as it is. Columns nobody declared are ignored where the source declares a mapping, else they refuse the file.

    Raises: CsvRefused if the header misses a declared column, or has one nobody declared.
    """
    taken: list[bytes] = []  # physical lines of the row being read
    reader = csv.reader(_texts(lines, taken), strict=True)
    try:
        names = next(reader, None)
    except csv.Error as error:
        raise CsvRefused(f"the header cannot be read: {error}") from None
    if not names:
        raise CsvRefused("the first line is empty, expected a header")
    return _rows(reader, taken, len(names), _places(names, normaliser))


def _rows(
    reader: Iterator[list[str]], taken: list[bytes], width: int, places: tuple[tuple[int, str], ...]
) -> Iterator[OutsideRow]:
    header, line = b"".join(taken), len(taken)
    while True:
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield OutsideRow(line, header + b"".join(taken), Poison(Reason.BROKEN_CSV, str(error)))
        else:
            if cells:
                raw = b"".join(taken)
                yield OutsideRow(line, header + raw, _values(cells, raw, width, places))
        line += len(taken)


def _texts(lines: Iterable[bytes], taken: list[bytes]) -> Iterator[str]:
    for raw in lines:
        taken.append(raw)
        yield raw.decode(errors="surrogateescape")


def _places(names: list[str], normaliser: Normaliser) -> tuple[tuple[int, str], ...]:
    names = [names[0].removeprefix("\ufeff"), *names[1:]]
    twice = sorted({name for name in names if names.count(name) > 1})
    missing = [name for name in normaliser.sources if name not in names]
    unknown = [name for name in names if name not in normaliser.known]
    for fault, columns in (("has twice", twice), ("lacks", missing), ("has undeclared", unknown)):
        if columns and (columns is not unknown or not normaliser.columns_mapped):
            raise CsvRefused(f"the header {fault} {', '.join(shown(name) for name in columns[:5])}")
    return tuple((place, name) for place, name in enumerate(names) if name in normaliser.known)


def _values(cells: list[str], raw: bytes, width: int, places: tuple[tuple[int, str], ...]) -> dict[str, str | None] | Poison:
    if len(cells) != width:
        return Poison(Reason.BROKEN_CSV, f"the row has {len(cells)} cells, the header {width}")
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as undecodable:
            return Poison(Reason.BROKEN_CSV, f"not UTF-8 at byte {undecodable.start}")
    return {name: cells[place] or None for place, name in places}
