"""The parent of the stream workers: starts lives, sees deaths, sometimes loses their disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from parity.worker import POINTS, Life

STOP_TIMEOUT_S = 30.0
PRODUCED_PER_TRANSACTION = 10  # about: so much later comes a death at the n-th record than one at the n-th commit
DISK_LOST_SHARE = 0.3


@dataclass
class Workers:
    """At most one process at a time; `poll` in the driver's loop keeps it alive through its deaths."""

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
