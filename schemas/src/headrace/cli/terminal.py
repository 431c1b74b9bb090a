"""Where commands print: as wide as the terminal, and wide enough for a table where there is none."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPED_WIDTH = 128  # a file or a pipe has no width; 80 would break tables in the middle of words


def printer(*, stderr: bool = False, highlight: bool = True) -> Console:
    """A console on stdout, or stderr. COLUMNS wins over everything."""
    stream = sys.stderr if stderr else sys.stdout
    wide = PIPED_WIDTH if not stream.isatty() and "COLUMNS" not in os.environ else None
    return Console(stderr=stderr, highlight=highlight, width=wide)
