"""What breaks inside a pipeline parks that pipeline; the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from headrace.chassis.errors import Fatal, Fenced, PipelineFault, Retryable


@contextmanager
def computing(pipeline: str, part: str) -> Iterator[None]:
    """Whatever breaks inside, but the world and a lost place, is this pipeline's. part: its feature set or stream.

    Raises: PipelineFault.
    """
    try:
        yield
    except (Retryable, PipelineFault, Fenced):
        raise
    except Exception as error:
        kind = "" if isinstance(error, Fatal) else f"{type(error).__name__}: "
        raise PipelineFault(pipeline, f"{part}: {kind}{error}") from error
