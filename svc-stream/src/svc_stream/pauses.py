"""How long the interpreter may keep work waiting for other work of the process."""

from __future__ import annotations

import gc
import sys

SWITCH_S = 0.0005  # for the interpreter lock, while a commit encodes its blocks; the default is ten times as long
# Young collections stay short, and rare in batches of thousands of records, which all live until their commit. A full one walks
# every cached block, some tens of milliseconds; it comes a hundred times less often than by default, for what Python does not
# free by counting is little: exceptions and their frames.
COLLECT_AFTER = (20_000, 10, 1_000)


def shorten_pauses() -> None:
    """For this process, from now on: once, at start-up, when all is imported."""
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
    gc.set_threshold(*COLLECT_AFTER)
    gc.collect()
    gc.freeze()  # what is imported lives as long as the process: not walking it saves some 4 % of a round of few records
