"""Errors of a declaration: where in the user's file, what is wrong, what to write instead."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DECLARE_FOLDER = str(Path(__file__).resolve().parent)


@dataclass(frozen=True, slots=True)
class Where:
    """A line of the user's file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


NOWHERE = Where("<unknown>", 0)


@dataclass(frozen=True, slots=True)
class Complaint:
    where: Where
    detail: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}" + (f"\n    {self.hint}" if self.hint else "")


class DeclarationError(ValueError):
    """One or more mistakes in a declaration. `complaints` holds them in file order."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(sorted(dict.fromkeys(complaints), key=lambda item: (item.where.file, item.where.line)))
        super().__init__("\n".join(map(str, self.complaints)))


class UnknownField(DeclarationError, AttributeError):
    """A field an event does not have; also an AttributeError, as Python's own machinery expects of attributes."""


def refuse(where: Where, detail: str, hint: str = "") -> DeclarationError:
    return DeclarationError([Complaint(where, detail, hint)])


def here() -> Where:
    """The nearest caller outside this package: the user's line."""
    frame = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename.startswith((DECLARE_FOLDER, "<string>", "<frozen"))):
        frame = frame.f_back  # dataclass constructors are compiled from "<string>"
    return Where(frame.f_code.co_filename, frame.f_lineno) if frame is not None else NOWHERE


def attribute_line(where: Where, name: str) -> Where:
    """The line below `where` that assigns or annotates the name; `where` itself if none is found."""
    pattern = re.compile(rf"\s+(?:.*;\s*)?{re.escape(name)}\s*[:=]")
    for line in range(where.line + 1, where.line + 200):
        text = linecache.getline(where.file, line)
        if pattern.match(text):
            return Where(where.file, line)
        if text and not text[0].isspace() and text[0] not in ")@#c":
            break  # the class body is over; decorators and the class line itself may still come
    return where
