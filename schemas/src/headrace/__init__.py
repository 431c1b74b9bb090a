"""Headrace: real-time machine learning on Kafka that can prove what it did.

    import headrace
    headrace.read({"origin": "EWR"})                              # feature values, as they would be served
    headrace.dataset("late_arrival", "2013-01-01", "2013-06-01")  # labelled rows, point in time
    headrace.why("2013-06-20.UA.1545.EWR").features               # one decision
    headrace.diff("schemas/pipelines/flights", "30d").flips       # decisions an edited declaration would have flipped

Declarations are written with `headrace.declare`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.client.connection import Connection
    from headrace.client.diffs import Diff, diff
    from headrace.client.notebook import Why, dataset, read, why

__all__ = ["Connection", "Diff", "Why", "dataset", "diff", "read", "why"]


def __getattr__(name: str) -> object:
    """On first use: services import the rest of the package and never need what notebooks do."""
    if name in ("Diff", "diff"):
        from headrace.client import diffs

        return getattr(diffs, name)
    if name in __all__:
        from headrace.client import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'headrace' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
