"""All that was served, recomputed from the lake in DuckDB, a hash sample by the naive oracle, and compared bit by bit."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.ir import EventType, FeatureSet
from headrace.plan.lower import Status
from headrace.plan.offline import as_served, quoted
from parity.playing import Played
from parity.serving import Answers
from parity.traits import traits_of_log
from svc_features.adapters.lake import LakeReader
from svc_features.domain.served import float64_bits
from svc_features.naive import answer_naively
from svc_features.warehouse import connect, load_verdicts, register

CHUNK = 40_000  # questions recomputed at once: bounds memory
ORACLE_CHUNK = 500
MISMATCHES_MAX = 20
DUCKDB_MEMORY_MB = 4_000
Tell = Callable[[str, int], None]


@dataclass(slots=True)
class Findings:
    """Counts over everything compared; one read is one feature value. statuses: of the served values."""

    reads: int = 0
    fresh: int = 0
    bits_differing: int = 0
    statuses_differing: int = 0
    oracle_reads: int = 0
    oracle_bits_differing: int = 0
    oracle_statuses_differing: int = 0
    records: int = 0
    verdicts_differing: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)  # by event: distinct ids accepted
    statuses: Counter[str] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=Counter)  # see traits.py
    mismatches: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Count another's in."""
        for name in self.__slots__:
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(getattr(other, name))
            else:
                setattr(self, name, mine + getattr(other, name))

    @property
    def differing(self) -> int:
        """Of any kind."""
        return (
            self.bits_differing + self.statuses_differing + self.oracle_bits_differing + self.oracle_statuses_differing
            + self.verdicts_differing
        )  # fmt: skip

    def told(self, text: str) -> None:
        """Keep the first few."""
        if len(self.mismatches) < MISMATCHES_MAX:
            self.mismatches.append(text)


def recompute(played: Played, oracle_share: float, folder: Path, tell: Tell) -> Findings:
    """oracle_share: of the questions, by hash, that the naive oracle answers too."""
    found = Findings()
    plan, connection = played.world.plan, connect(2, DUCKDB_MEMORY_MB, folder / "spill")
    events = {e.name: e for e in plan.events}
    try:
        for event in plan.events:
            load_verdicts(connection, LakeReader(played.lake), event)
            _judge_again(connection, event, found)
            sets = [s for s in plan.feature_sets if event.name in s.events]
            found.traits.update(traits_of_log(connection, LakeReader(played.lake), event, sets))
        for feature_set in plan.feature_sets:
            answers = played.answers[feature_set.name]
            found.traits["two_sources"] += len(answers.times_ms) * len(feature_set.features) * (len(feature_set.events) > 1)
            _Set(connection, feature_set, events, answers, found, tell).run(plan.pipeline, oracle_share)
    finally:
        connection.close()
    return found


@dataclass(slots=True)
class _Set:
    connection: duckdb.DuckDBPyConnection
    feature_set: FeatureSet
    events: dict[str, EventType]
    answers: Answers
    found: Findings
    tell: Tell

    def run(self, salt: str, oracle_share: float) -> None:
        asked, cuts = self.answers.asked(), self.answers.cut_rows()
        values, statuses = np.concatenate(self.answers.values), np.concatenate(self.answers.statuses)
        self.found.reads += values.size
        self.found.fresh += int((statuses == Status.FRESH).sum())
        for status, count in enumerate(np.bincount(statuses.ravel(), minlength=len(Status)).tolist()):
            self.found.statuses[Status(status).name.lower()] += count
        for start in range(0, len(asked), CHUNK):
            part = asked.slice(start, CHUNK)
            register(self.connection, "passports", part.select("pid", "entity", "t"))
            register(self.connection, "cuts", _cuts_of(part, cuts))
            rows = as_served(self.connection, self.feature_set, self.events).features
            here = slice(start, start + len(part))
            bits, states = self._compare("duckdb", part, values[here], statuses[here], rows.values, rows.statuses)
            self.found.bits_differing += bits
            self.found.statuses_differing += states
            self.tell("recomputed", len(part) * values.shape[1])
        self._oracle(asked, cuts, values, statuses, salt, oracle_share)

    def _oracle(
        self, asked: pl.DataFrame, cuts: pl.DataFrame, values: npt.NDArray[np.float64], statuses: npt.NDArray[np.int8],
        salt: str, share: float,
    ) -> None:  # fmt: skip
        picked = asked.filter(pl.Series(sampled(f"{salt}/{self.feature_set.name}", len(asked), share)))
        for start in range(0, len(picked), ORACLE_CHUNK):
            part = picked.slice(start, ORACLE_CHUNK)
            questions = part.select("pid", "entity", "t", pl.lit(None, pl.Int64).alias("base_floor_ms"))
            said = answer_naively(self.connection, self.feature_set, self.events, questions, _cuts_of(part, cuts))
            pids = part["pid"].to_list()
            told = np.array([[np.nan if v is None else v for v in said[p][0]] for p in pids], np.float64)
            states = np.array([said[p][1] for p in pids], np.int8)
            bits, wrong = self._compare("oracle", part, values[pids], statuses[pids], told, states)
            self.found.oracle_bits_differing += bits
            self.found.oracle_statuses_differing += wrong
            self.found.oracle_reads += told.size
            self.tell("oracle", told.size)

    def _compare(
        self, who: str, asked: pl.DataFrame, values: npt.NDArray[np.float64], statuses: npt.NDArray[np.int8],
        wanted: npt.NDArray[np.float64], wanted_statuses: npt.NDArray[np.int8],
    ) -> tuple[int, int]:  # fmt: skip
        bits, states = float64_bits(values) != float64_bits(wanted), statuses != wanted_statuses
        for row, column in zip(*np.nonzero(bits | states), strict=True):
            if len(self.found.mismatches) >= MISMATCHES_MAX:
                break
            pid, entity, t, cut = asked.row(int(row))
            where = next(c for c, i in self.answers.cuts.items() if i == cut)
            served = f"{_text(float(values[row, column]))} {Status(int(statuses[row, column])).name.lower()}"
            said = f"{_text(float(wanted[row, column]))} {Status(int(wanted_statuses[row, column])).name.lower()}"
            name = f"{self.feature_set.name}.{self.feature_set.features[column].name}"
            self.found.told(f"{name} of {entity!r} at {t} (question {pid}): served {served}, {who} {said}, cut {where}")
        return int(bits.sum()), int(states.sum())


def _text(value: float) -> str:
    return "nothing" if math.isnan(value) else value.hex()


def _cuts_of(asked: pl.DataFrame, cuts: pl.DataFrame) -> pl.DataFrame:
    return asked.select("pid", "cut").join(cuts, on="cut").select("pid", "event", "part", "next_offset")


def sampled(salt: str, n: int, share: float) -> npt.NDArray[np.bool_]:
    """Which of n questions, by hash of their number: the same in every run."""
    digest = hashlib.sha256(salt.encode()).digest()
    start = np.uint64(int.from_bytes(digest[:8], "big"))
    mixed = (np.arange(n, dtype=np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(32)
    return mixed < np.uint64(min(share, 1.0) * float(2**64 - 2**11))


# ---------------------------------------------------------------- verdicts, one record after the other


def _judge_again(connection: duckdb.DuckDBPyConnection, event: EventType, found: Findings) -> None:
    """SQL's verdicts against the rules word for word, over every record of the lake."""
    table = quoted("verdict_" + event.name)
    if event.dedup_id is not None:
        counted = f"select count(distinct {quoted(event.dedup_id)}) from {table} where verdict = 'ok'"
        found.ids[event.name] += (connection.execute(counted).fetchone() or (0,))[0]
    identity = "null" if event.dedup_id is None else quoted(event.dedup_id)
    columns = f"part, decodable, append_ms, {quoted(event.time)}, {identity}, verdict"
    rows = connection.execute(f"select {columns} from {table} order by part, off").fetchall()
    for said, (part, *_, verdict) in zip(judged(event, rows), rows, strict=True):
        found.records += 1
        found.verdicts[verdict] += 1
        if said != verdict:
            found.verdicts_differing += 1
            found.told(f"a record of {event.name}-{part} is {said} by the rules, {verdict} by SQL")


def judged(event: EventType, rows: Sequence[tuple[int, bool, int, int, str | None, str]]) -> list[str]:
    """Verdicts of (part, decodable, append time, event time, id, _) in order of part and offset: a fold, no engine."""
    out: list[str] = []
    maximum: dict[int, int] = {}
    last: dict[tuple[int, str], int] = {}
    for part, decodable, append, time, ident, _ in rows:
        before = maximum.get(part)
        if not decodable or time > append + event.poison_bound_ms:
            out.append("poison" if decodable else "undecodable")
            continue
        after = maximum[part] = time if before is None else max(before, time)
        if before is not None and time < before - event.lateness_ms:
            out.append("late")
            continue
        verdict = "ok"
        if ident is not None:
            previous = last.get((part, ident))
            if previous is not None and before is not None and before - previous <= event.dedup_horizon_ms:
                verdict = "duplicate"
            last[part, ident] = after
        out.append(verdict)
    return out
