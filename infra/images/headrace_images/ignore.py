"""What of the clone a build may see: `.dockerignore`, of whose patterns the last that matches wins. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath


def admits(patterns: list[str], path: str) -> bool:
    """Whether a file of the build context is sent to the build.

    Args:
        patterns: the lines of the file.
        path: relative to the root of the context, with slashes.
    """
    kept = True
    names = [path, *(str(parent) for parent in PurePosixPath(path).parents)][:-1]
    for line in patterns:
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        excludes = not pattern.startswith("!")
        expression = _expression(pattern.removeprefix("!").strip("/"))
        if any(re.fullmatch(expression, name) for name in names):
            kept = not excludes
    return kept


def _expression(pattern: str) -> str:
    """`**/` any folders or none, `*` anything but a slash, the rest literally."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    return "".join(meaning.get(part) or re.escape(part) for part in parts)
