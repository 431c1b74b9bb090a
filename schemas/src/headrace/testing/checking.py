"""The driver's answers beside the oracle's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.lower import Status
from headrace.plan.oracle import Oracle, RawRecord
from headrace.testing.outcomes import Checked, Features, Mismatch
from headrace.testing.replica import Replica

LINES_MAX = 20  # of a mismatch
TIMES_MAX = 4  # the newest event times at which every entity is asked again

Answer = tuple[list[float | None], list[Status]]


def check(
    plan: Plan, log: Sequence[RawRecord], online: Replica, whole: Replica, reads: Sequence[Features], now_ms: int
) -> Checked:
    """Compare verdicts and values, bit for bit.

    Args:
        log: everything fed, in order.
        online: the state the reads came from, built in the batches of the test.
        whole: the same log in one batch.
    Raises: Mismatch.
    """
    lines = _verdicts(Oracle(plan.events, log), online, whole)
    oracles = {s.name: Oracle(plan.events, [raw for raw in log if raw.event in s.events]) for s in plan.feature_sets}
    asked = [*reads, *_sweep(plan, log, online, now_ms)]
    sets = {item.name: item for item in plan.feature_sets}
    values = fresh = 0
    for read in asked:
        said = (list(read.values()), list(read.statuses.values()))
        fresh += said[1].count(Status.FRESH)
        values += len(said[0])
        if read.entity is not None:
            wanted = oracles[read.feature_set].answer(sets[read.feature_set], read.entity, read.t_ms, read.cut, None)
            lines += _differences(read, said, wanted, "the oracle")
    for read in _sweep(plan, log, whole, now_ms):
        wanted = _answer(online, sets[read.feature_set], read.entity or "", read.t_ms)
        lines += _differences(read, (list(read.values()), list(read.statuses.values())), wanted, "other batches")
    if lines:
        raise Mismatch([*lines[:LINES_MAX], *([f"and {len(lines) - LINES_MAX} more"] if len(lines) > LINES_MAX else [])])
    return Checked(len(log), len(asked), values, fresh)


def _verdicts(oracle: Oracle, online: Replica, whole: Replica) -> list[str]:
    wanted = oracle.verdicts()
    return [
        f"{event}-{partition}@{offset}: {replica.verdicts[event, partition, offset].name}, {says} {verdict.name}"
        for replica, says in ((online, "the oracle says"), (whole, "in one batch; the oracle says"))
        for (event, partition, offset), verdict in wanted.items()
        if replica.verdicts[event, partition, offset] != verdict
    ]


def _sweep(plan: Plan, log: Sequence[RawRecord], replica: Replica, now_ms: int) -> list[Features]:
    """Every entity at the newest event times, one before and one behind each, and now."""
    clocks: Mapping[str, str] = {event.name: event.time for event in plan.events}
    times = sorted({raw.fields[clocks[raw.event]] for raw in log if raw.fields is not None})[-TIMES_MAX:]
    moments = sorted({now_ms, *(t + d for t in times for d in (-1, 0, 1))})
    found: list[Features] = []
    for feature_set in plan.feature_sets:
        names = [feature.name for feature in feature_set.features]
        for entity in replica.entities(feature_set):
            for t_ms in moments:
                values, statuses = _answer(replica, feature_set, entity, t_ms)
                pairs = dict(zip(names, values, strict=True)), dict(zip(names, statuses, strict=True))
                found.append(Features(feature_set.name, entity, t_ms, dict(replica.cut), *pairs))
    return found


def _answer(replica: Replica, feature_set: FeatureSet, entity: str, t_ms: int) -> Answer:
    rows = replica.read(feature_set, [entity], [t_ms])
    return rows.rows()[0], [Status(status) for status in rows.statuses[0].tolist()]


def _differences(read: Features, said: Answer, wanted: Answer, who: str) -> list[str]:
    return [
        f"{read.feature_set}.{name} of {read.entity!r} at {read.t_ms}: {_shown(*mine)}, {who}: {_shown(*theirs)}"
        for name, mine, theirs in zip(read, zip(*said, strict=True), zip(*wanted, strict=True), strict=True)
        if _shown(*mine) != _shown(*theirs)
    ]


def _shown(value: float | None, status: Status) -> str:
    """To the last bit."""
    return f"{'nothing' if value is None else value.hex()} ({status.name.lower()})"
