"""The parents of the stream workers: start lives, see deaths, sometimes lose their disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from parity.worker import POINTS, TASKS, Life

STOP_TIMEOUT_S = 30.0
PRODUCED_PER_TRANSACTION = 10  # about: so much later comes a death at the n-th record than one at the n-th commit
DISK_LOST_SHARE = 0.3


@dataclass(eq=False)
class Workers:
    """One process at a time; `poll` in the driver's loop keeps it alive through its deaths."""

    folder: Path
    life: Life  # of every life but seed and death
    deaths: int  # how many of them
    transactions: int  # about so many are made in all; deaths spread over the first half of them
    rng: random.Random
    died: Counter[str] = field(default_factory=Counter)
    disks_lost: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _lives: int = 0
    _point: str = ""

    def start(self) -> None:
        """Begin a life."""
        self.folder.mkdir(parents=True, exist_ok=True)
        death = None
        if sum(self.died.values()) < self.deaths:
            self._point = self.rng.choice(POINTS)
            passages = max(4, self.transactions // self.deaths)
            factor = PRODUCED_PER_TRANSACTION if self._point == "produce" else 1
            death = (self._point, self.rng.randint(1, passages * factor))
        self._lives += 1
        path = self.folder / f"life-{self._lives}.json"
        replace(self.life, seed=self.rng.randrange(1 << 30), death=death).write(path)
        env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        env |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "POLARS_MAX_THREADS": "1"}
        with (self.folder / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "parity.worker", str(path)]
            self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def poll(self) -> None:
        """A death that was meant begins the next life. Raises RuntimeError with the log's tail if it ended otherwise."""
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            return
        if code != -signal.SIGKILL:
            tail = (self.folder / "worker.log").read_text(errors="replace")[-3_000:]
            raise RuntimeError(f"the stream workers ended with {code}\n{tail}")
        self.died[self._point] += 1
        if self.rng.random() < DISK_LOST_SHARE:
            shutil.rmtree(self.life.state_dir, ignore_errors=True)
            self.disks_lost += 1
        self.start()

    def stop(self) -> None:
        """End in order, or at once if it does not."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@dataclass(eq=False)
class Crew:
    """The processes of a world, each there for a span of it: (first, last) share of its steps."""

    members: list[tuple[Workers, float, float]]
    _here: list[Workers] = field(default_factory=list)
    _done: int = 0  # members that have begun
    _settled: list[Workers] = field(default_factory=list)

    def reached(self, share: float) -> None:
        """Whoever is due begins, or leaves."""
        while self._done < len(self.members) and self.members[self._done][1] <= share:
            workers = self.members[self._done][0]
            workers.start()
            self._here.append(workers)
            self._done += 1
        for workers, _, last in self.members:
            if workers in self._here and share > last:
                workers.stop()
                self._here.remove(workers)

    def settled(self) -> bool:
        """Whether everybody here has had tasks by now: a small world would be over before a second worker has joined."""
        for workers in self._here:
            if workers not in self._settled and any(count for _, count in _tasks(workers)):
                self._settled.append(workers)
        return all(workers in self._settled for workers in self._here)

    def poll(self) -> None:
        """See deaths; see Workers."""
        for workers in self._here:
            workers.poll()

    def stop(self) -> None:
        for workers in self._here:
            workers.stop()
        self._here = []

    def died(self) -> dict[str, int]:
        """Deaths by point."""
        return dict(sum((workers.died for workers, _, _ in self.members), Counter[str]()))

    def disks_lost(self) -> int:
        return sum(workers.disks_lost for workers, _, _ in self.members)

    def moves(self) -> int:
        """How often a worker that had tasks of a set came to have more or fewer of them."""
        found = 0
        for workers, _, _ in self.members:
            held: dict[str, int] = {}
            for name, count in _tasks(workers):
                found += held.get(name, 0) not in (0, count) and count > 0
                held[name] = count
        return found


def _tasks(workers: Workers) -> Iterator[tuple[str, int]]:
    """(set, how many tasks of it the process holds from then on), as it noted them."""
    notes = Path(workers.life.state_dir).with_name(TASKS)
    for line in notes.read_text().splitlines() if notes.exists() else ():
        _, name, count = line.split()
        yield name, int(count)
