"""Harm to what was: the world turns over under a model, and the end of the audit chain is cut off."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from drill.alerts.harm import crown
from drill.alerts.rig import Rig, stir, until

DAYS_MAX, DAY_S = 35, 3.0
SEEN_S = 20.0
AUDIT = "governance.audit-entries.v1"
HOUR_LATE, MIRROR, DELAY_MAX = 60, 30, 1_400  # minutes


# -- the world


@contextmanager
def turn_the_world_over(rig: Rig) -> Iterator[None]:
    """Departures go an hour later than ever, and flights that were late arrive early, the early ones late: what the champion
    has learnt is the wrong way round. Days of it, until svc-monitor has looked at a window of them."""
    crown(rig)
    for _ in range(DAYS_MAX):
        rig.at_ms = rig.played.a_day(rig.at_ms, turned)
        rig.asker.t_ms = rig.at_ms
        time.sleep(DAY_S)
        if rig.tower.query('ALERTS{alertname="DriftWithLoss"}'):
            break
    yield


def turned(stream: str, line: bytes) -> bytes:
    """A row of the turned world: departures an hour later, arrivals mirrored at what counts as late."""
    name = {"departures": "dep_delay", "arrivals": "arr_delay"}.get(stream)
    if name is None:
        return line
    row = orjson.loads(line)
    if row.get(name) is not None:
        row[name] = min(row[name] + HOUR_LATE, DELAY_MAX) if stream == "departures" else MIRROR - row[name]
    return orjson.dumps(row)


# -- the chain


@contextmanager
def cut_the_audit_chain(rig: Rig) -> Iterator[None]:
    """Somebody with the broker's disk puts an older copy of the audit topic there, and of the kept heads beside it."""
    log = _partition_of(rig, AUDIT)
    heads = rig.stack.layout.state / "svc-governance" / "audit-heads.jsonl"
    with TemporaryDirectory() as aside:
        older, newer = Copies(Path(aside) / "older", log, heads), Copies(Path(aside) / "newer", log, heads)
        older.take()
        before = int(float(rig.tower.query("governance_chain_entries")[0]["value"][1]))
        stir(rig, 2)  # the chain grows by what will be missing, and is seen so long
        until("a longer chain", lambda: bool(rig.tower.query(f"governance_chain_entries > {before}")), SEEN_S)
        _swap(rig, newer, older)
        try:
            yield
        finally:
            _swap(rig, None, newer)


class Copies:
    """A copy of the chain's files: its partition as the broker holds it, and the heads kept outside."""

    def __init__(self, aside: Path, log: Path, heads: Path) -> None:
        self._aside, self._log, self._heads = aside, log, heads

    def take(self) -> None:
        """Whole batches, as logs are only appended to and nobody appends now."""
        shutil.copytree(self._log, self._aside / "log")
        shutil.copy2(self._heads, self._aside / "heads")

    def put(self) -> None:
        shutil.rmtree(self._log)
        shutil.copytree(self._aside / "log", self._log)
        shutil.copy2(self._aside / "heads", self._heads)


def _swap(rig: Rig, kept: Copies | None, put: Copies) -> None:
    """Exchange the files while neither broker nor svc-governance looks."""
    for name in ("svc-governance", "kafka"):
        rig.stack.stop_component(name)
    if kept is not None:
        kept.take()
    put.put()
    for name in ("kafka", "svc-governance"):
        rig.stack.start_component(name)
    rig.stack.wait_ready()


def _partition_of(rig: Rig, topic: str) -> Path:
    """Folder of a topic's only partition under the broker's data."""
    (found,) = rig.stack.layout.data.glob(f"kafka/**/{topic}-0")
    return found
