"""Plans that kill the process: counted in a small file, so that the next start knows.

A start of a plan is counted before it is applied and forgotten once the process has lived
PROBATION_S with it, or ended in order. What is left after a crash is a death. The second death
quarantines the plan until its control record gets a new epoch. A plan that has once lived through its
probation is proven: it is counted only while it is being applied, so one bad pipeline does not put the
good ones beside it under suspicion.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.chassis.files import write_whole
from headrace.contracts.errors import Fatal

DEATHS_MAX = 2
PROBATION_S = 20.0  # longer than applying, restoring and a first batch take


@dataclass(slots=True)
class Trial:
    """What is known of one pipeline's plan at one epoch."""

    plan_hash: str
    epoch: int
    open_starts: int = 0  # starts that neither lived through probation nor ended in order
    proven: bool = False


class Quarantine:
    """Trials by pipeline, written through before anything risky is done."""

    def __init__(self, file: Path) -> None:
        """Raises: Fatal if the file's folder cannot be made. A file that does not parse counts as none."""
        self._file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise Fatal(f"state folder cannot be made: {file.parent}: {e}: see HEADRACE_STATE_DIR") from e
        self._trials = _read(file)
        self._risky: dict[str, float] = {}  # pipeline -> when applied, monotonic s, of this process

    def refuses(self, pipeline: str, plan_hash: str, epoch: int) -> bool:
        """True if this plan at this epoch has killed the process DEATHS_MAX times."""
        trial = self._trials.get(pipeline)
        return trial is not None and (trial.plan_hash, trial.epoch) == (plan_hash, epoch) and trial.open_starts >= DEATHS_MAX

    def starting(self, pipeline: str, plan_hash: str, epoch: int) -> None:
        """Call right before a plan is applied; durable when it returns."""
        trial = self._trials.get(pipeline)
        if trial is None or (trial.plan_hash, trial.epoch) != (plan_hash, epoch):
            trial = self._trials[pipeline] = Trial(plan_hash, epoch)
        trial.open_starts += 1
        self._write()

    def applied(self, pipeline: str, now_s: float) -> None:
        """The plan is applied: probation begins, unless it is proven."""
        trial = self._trials[pipeline]
        if trial.proven:
            trial.open_starts = 0
            self._write()
        else:
            self._risky[pipeline] = now_s

    def not_running(self, pipeline: str) -> None:
        """The plan was parked or retired and the process lives: it did not die of it."""
        self._risky.pop(pipeline, None)
        trial = self._trials.get(pipeline)
        if trial is not None and trial.open_starts:
            trial.open_starts = 0
            self._write()

    def lived(self, now_s: float) -> None:
        """Call now and then: ends the probation of plans that have lived long enough."""
        over = [pipeline for pipeline, since in self._risky.items() if now_s - since >= PROBATION_S]
        for pipeline in over:
            del self._risky[pipeline]
            self._trials[pipeline].open_starts = 0
            self._trials[pipeline].proven = True
        if over:
            self._write()

    def ended_in_order(self) -> None:
        """The process ends for reasons that are not a plan's: the starts of this life are forgotten."""
        for pipeline in self._risky:
            self._trials[pipeline].open_starts = 0
        self._risky.clear()
        self._write()

    def _write(self) -> None:
        text = json.dumps({pipeline: asdict(trial) for pipeline, trial in sorted(self._trials.items())}, indent=1)
        try:
            write_whole(self._file, text.encode())
        except OSError as e:
            raise Fatal(f"state folder cannot be written: {self._file}: {e}: free space or fix HEADRACE_STATE_DIR") from e


def _read(file: Path) -> dict[str, Trial]:
    try:
        return {pipeline: Trial(**fields) for pipeline, fields in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
