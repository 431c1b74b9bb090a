"""Deviations of workers and views, as patches; those of the law itself are support's."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.chassis import view
from headrace.chassis.view import StateView
from svc_stream import tasks
from svc_stream.domain.entity import EntityState

Patch = pytest.MonkeyPatch


def ids_not_rebuilt(patch: Patch) -> None:
    """A worker that comes back has forgotten the ids it saw."""
    real = tasks.restore_source

    def restore(*args: Any) -> Any:
        task = real(*args)
        task.state.ids.clear()
        return task

    patch.setattr(tasks, "restore_source", restore)


def maximum_not_restored(patch: Patch) -> None:
    """A worker that comes back begins with no M."""
    real = tasks.restore_source

    def restore(*args: Any) -> Any:
        task = real(*args)
        task.state.maximum_ms = None
        return task

    patch.setattr(tasks, "restore_source", restore)


def blocks_not_loaded(patch: Patch) -> None:
    """A worker that comes back merges into empty blocks."""
    patch.setattr(EntityState, "_fetch", lambda self, keys: None)


def view_between_two_progress(patch: Patch) -> None:
    """Blocks as they come, under the cut of the Progress before them."""
    newest: dict[int, Any] = {}
    real = StateView.write

    def write(self: StateView, puts: Any, deletes: Any, raw_progress: bytes, position: int) -> None:
        real(self, puts, deletes, raw_progress, position)
        self.progress, newest[id(self)] = newest.get(id(self), self.progress), self.progress

    patch.setattr(StateView, "write", write)
    patch.setattr(view, "CONSUME_RECORDS_MAX", 5)


WORKERS = (ids_not_rebuilt, maximum_not_restored, blocks_not_loaded)
VIEWS = (view_between_two_progress,)
