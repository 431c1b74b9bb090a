"""What the figures must be, and who wins at what, whoever it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.features.live import RATE
from headrace_demo.checks import Check

TARGETS_MS = {"http_200x1_p99_ms": 2.0, "inproc_200x1_p99_ms": 0.2, "http_200x100_p99_ms": 20.0}
READS_MIN = 100_000
CACHE_TIMES_MIN = 5.0
RATE_HELD_SHARE = 0.98

# what is compared, whether less is better, and by side the figure
MATCHES: tuple[tuple[str, bool, Mapping[str, str]], ...] = (
    ("one key of 200 features, p99 ms", True, {
        "headrace, in process": "inproc_200x1_p99_ms", "headrace, HTTP": "http_200x1_p99_ms",
        "Feast SQLite, in process": "feast_sqlite_200x1_p99_ms", "Feast Redis, in process": "feast_redis_200x1_p99_ms",
    }),
    ("100 keys of 200 features, p99 ms", True, {
        "headrace, in process": "inproc_200x100_p99_ms", "headrace, HTTP": "http_200x100_p99_ms",
        "Feast SQLite, in process": "feast_sqlite_200x100_p99_ms", "Feast Redis, in process": "feast_redis_200x100_p99_ms",
    }),
    ("point-in-time join from the raw log, rows/s", False, {
        "headrace, verdicts and join": "pit_rows_s", "Feast": "feast_pit_rows_s", "DuckDB ASOF": "pit_duckdb_asof_rows_s",
    }),
    ("point-in-time join alone, rows/s", False, {
        "headrace, join": "pit_join_rows_s", "Feast": "feast_pit_rows_s", "DuckDB ASOF": "pit_duckdb_asof_rows_s",
    }),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Match:
    """One comparison: the sides from the best to the worst."""

    what: str
    order: Sequence[tuple[str, float]]

    def told(self) -> str:
        """The winner, and the others by how many times they lose."""
        best = self.order[0][1]
        rest = ", ".join(f"{side} {value:,.3g} ({max(value / best, best / value):.1f}x)" for side, value in self.order[1:])
        return f"{self.what}: {self.order[0][0]} {best:,.3g}; {rest}"


def matches(figures: Mapping[str, Any]) -> list[Match]:
    """Those of which more than our own side was measured."""
    out: list[Match] = []
    for what, less, sides in MATCHES:
        found = [(side, float(figures[name])) for side, name in sides.items() if name in figures]
        if any(not side.startswith("headrace") for side, _ in found) and len(found) > 1:
            out.append(Match(what, sorted(found, key=lambda pair: pair[1], reverse=not less)))
    return out


def checks(figures: Mapping[str, Any], quick: bool) -> list[Check]:
    """Of the parts that were measured. The quick form is judged by answers only, not by speed."""
    return [*_answers(figures), *([] if quick else _speeds(figures))]


def _answers(f: Mapping[str, Any]) -> Iterator[Check]:
    for name, what in (("pit_rows_differing", "plain DuckDB's"), ("feast_pit_rows_differing", "Feast's and plain DuckDB's")):
        if name in f:
            yield Check(f"point in time: {what} answers are the same", f[name] == 0, f"{f[name]:,.0f} rows differ")
    if "feast_redis" in f:
        yield Check("Redis stood beside", f["feast_redis"] == "measured", f["feast_redis"])
    if "plan_features" in f:
        told = f"{f['plan_features']} features, {f['plan_cards']:,} cards, {f['plan_view']}"
        yield Check("the large declaration is planned", f["plan_features"] >= 200 and f["plan_cards"] == 60_000_000, told)


def _speeds(f: Mapping[str, Any]) -> Iterator[Check]:
    for name, target in TARGETS_MS.items():
        if name in f:
            yield Check(f"{name} below {target:g}", f[name] < target, f"{f[name]:.3f}")
    for name in ("inproc_200x1", "inproc_200x1_cold", "http_200x1", "http_200x1_cold"):
        if f"{name}_reads" in f:
            reads = f[f"{name}_reads"]
            yield Check(f"{name}: enough reads", reads >= READS_MIN, f"{reads:,.0f} of at least {READS_MIN:,}")
    if "state_times_block_cache" in f:
        times = f["state_times_block_cache"]
        yield Check("the state is five times the cache", times >= CACHE_TIMES_MIN, f"{times:.2f} times")
    if "event_to_readable_events_s" in f:
        rate = f["event_to_readable_events_s"]
        yield Check(f"{RATE:,} events/s were sent", rate >= RATE * RATE_HELD_SHARE, f"{rate:,.0f} a second")
