"""What the figures must be, and who wins at what, whoever it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_demo.checks import Check

# records a second at least, and at least so many times what Kafka Streams does with all its code compiled
FLOORS: Mapping[str, tuple[float, float]] = {"w1": (400_000, 1.25), "w2": (200_000, 0), "w3": (100_000, 0), "w4": (200_000, 0)}
AIMS: Mapping[str, tuple[float, float]] = {"w1": (800_000, 2.5), "w2": (0, 3), "w3": (0, 1), "w4": (0, 2)}
RESTORE_KEYS_S_MIN = 400_000
EOS_COST_SHARE_MAX = 0.10
LOOP_LAG_P99_MS_MAX = 50.0
IDLE_TRANSACTIONS_MAX, IDLE_CPU_SHARE_MAX = 1.0, 0.01
RATE_HELD_SHARE = 0.98

WORDS = {
    "w1": "W1 tumbling windows, records/s", "w2": "W2 hopping windows, records/s", "w3": "W3 interval join, records/s",
    "w4": "W4 sessions, records/s",
}  # fmt: skip
_SIDES = {
    "headrace": "", "Kafka Streams warm": "kafka_streams_warm_", "Kafka Streams cold": "kafka_streams_cold_", "Quix": "quix_",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Match:
    """One comparison: the sides from the best to the worst."""

    what: str
    order: Sequence[tuple[str, float]]

    def told(self) -> str:
        """The winner, and the others by how many times they lose."""
        best = self.order[0][1]
        rest = ", ".join(f"{side} {value:,.4g} ({max(value / best, best / value):.1f}x)" for side, value in self.order[1:])
        return f"{self.what}: {self.order[0][0]} {best:,.4g}; {rest}"


def matches(figures: Mapping[str, Any]) -> list[Match]:
    """What more than one contender was measured at."""
    asked: list[tuple[str, bool, dict[str, str]]] = []
    for name, words in WORDS.items():
        asked.append((words, False, {side: f"{name}_{infix}rec_s" for side, infix in _SIDES.items()}))
        cost = words.replace("records/s", "processor us a record")
        asked.append((cost, True, {side: f"{name}_{infix}cpu_us" for side, infix in _SIDES.items()}))
        peak = words.replace("records/s", "peak MB")
        asked.append((peak, True, {side: f"{name}_{infix}peak_mb" for side, infix in _SIDES.items()}))
    asked.append(("restore, keys/s", False, {side: f"restore_{infix}keys_s" for side, infix in _SIDES.items()}))
    for commit_ms in (100, 20):
        sides = {"headrace": "", "Kafka Streams": "kafka_streams_", "Quix": "quix_"}
        for share in ("p50", "p99"):
            names = {side: f"latency_{infix}{commit_ms}_{share}_ms" for side, infix in sides.items()}
            asked.append((f"produce to committed read at {commit_ms} ms commits, {share} ms", True, names))
    asked.append(("idle, share of a core", True, {"headrace": "idle_cpu_share", "Kafka Streams": "idle_kafka_streams_cpu_share",
                                                  "Quix": "idle_quix_cpu_share"}))  # fmt: skip
    out: list[Match] = []
    for what, less, names in asked:
        found = [(side, float(figures[name])) for side, name in names.items() if figures.get(name)]
        if len(found) > 1:
            out.append(Match(what, sorted(found, key=lambda pair: pair[1], reverse=not less)))
    return out


def checks(figures: Mapping[str, Any], quick: bool) -> list[Check]:
    """Of what was measured. The quick form is judged by answers only, not by speed."""
    return [*_answers(figures), *([] if quick else [*_rates(figures), *_others(figures)])]


def _answers(f: Mapping[str, Any]) -> Iterator[Check]:
    for name, faults in f.items():
        if name.endswith("_faults"):
            told = "every run complete, every result right" if not faults else f"{faults} runs with faults"
            yield Check(f"{name.removesuffix('_faults')}: answers", faults == 0, told)


def _rates(f: Mapping[str, Any]) -> Iterator[Check]:
    for name, (least, times) in FLOORS.items():
        ours, theirs = f.get(f"{name}_rec_s"), f.get(f"{name}_kafka_streams_warm_rec_s")
        if ours is None:
            continue
        ratio = f", {ours / theirs:.2f} times Kafka Streams warm" if theirs else ""
        aim, aim_times = AIMS[name]
        reached = ours >= aim and (not theirs or ours >= aim_times * theirs)
        told = f"{ours:,.0f} records/s{ratio}; aim {'reached' if reached else 'not reached'}"
        yield Check(f"{name} at its floor of {least:,.0f}", ours >= least and (not theirs or ours >= times * theirs), told)


def _others(f: Mapping[str, Any]) -> Iterator[Check]:
    if "w1_loop_lag_p99_ms" in f:
        lag = f["w1_loop_lag_p99_ms"]
        yield Check("event loop lag p99 below 50 ms at full speed", lag <= LOOP_LAG_P99_MS_MAX, f"at most {lag:g} ms")
    if "restore_keys_s" in f:
        told = f"{f['restore_keys_s']:,.0f} keys/s"
        yield Check(f"restore at its floor of {RESTORE_KEYS_S_MIN:,}", f["restore_keys_s"] >= RESTORE_KEYS_S_MIN, told)
    for commit_ms in (100, 20):
        ours, theirs = (f.get(f"latency_{infix}{commit_ms}_p99_ms") for infix in ("", "kafka_streams_"))
        if ours is not None and theirs is not None:
            told = f"{ours:.1f} ms, Kafka Streams {theirs:.1f} ms"
            yield Check(f"p99 at {commit_ms} ms commits not above Kafka Streams", ours <= theirs, told)
    if "latency_rate" in f:
        yield Check("20,000 records/s were sent", f["latency_rate"] >= 20_000 * RATE_HELD_SHARE, f"{f['latency_rate']:,.0f}")
    if "eos_cost_share" in f:
        yield Check(
            "exactly-once costs at most a tenth", f["eos_cost_share"] <= EOS_COST_SHARE_MAX, f"{f['eos_cost_share']:.1%}"
        )
    if "idle_transactions_10s" in f:
        held = f["idle_transactions_10s"] < IDLE_TRANSACTIONS_MAX and f["idle_cpu_share"] < IDLE_CPU_SHARE_MAX
        told = f"{f['idle_transactions_10s']:.2f} transactions in 10 s, {f['idle_cpu_share']:.2%} of a core"
        yield Check("idle costs next to nothing", held, told)
