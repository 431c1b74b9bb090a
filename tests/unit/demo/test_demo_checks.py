"""Each check of the closing report fails when, and only when, what it speaks of is not so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from headrace_demo import report
from headrace_demo.checks import checks
from headrace_demo.evidence import MonthAuc
from headrace_demo.findings import Findings

PASSPORTS = 10_000


def sound(null: bool = False) -> Findings:
    """What a run leaves behind that held in everything."""
    ids = [f"f{at}" for at in range(PASSPORTS)]
    candidates = [{"state": state, "model_digest": state.lower()} for state in ("SUPERSEDED", "PROMOTED")]
    drift = [{"kind": "drift"}]
    return Findings(
        null=null, seed=1, wall_s=200.0,
        facts={
            "resent": {"rows": 10, "accepted": 0}, "malformed": [{"what": "x", "expected": "wrong_type", "told": "wrong_type"}],
            "late_sent": 1, "parked": ["svc-ingest"], "rest_reply": {},
            "refused": {"anonymous": {"status": 401, "detail": "who"}, "proposer": {"status": 403, "detail": "four eyes"}},
        },
        decisions=pl.DataFrame({"request_id": ids, "decision_source": ["model"] * PASSPORTS}), outcomes=pl.DataFrame(),
        months=[MonthAuc("2013-06", 900, 0.76, 0.65)], latency_ms=[5.0, 9.0], rest_ms=[3.0], letters=Counter(wrong_type=1),
        parity={
            "checked": PASSPORTS, "values": 100, "fresh": 50, "bits_differing": 0, "differing": 0,
            "verdicts": {"departures": {"ok": 7, "late": 1, "duplicate": 2}},
        },
        audit={"entries": 9, "verified": True, "heads": 3, "problem": ""},
        governance={
            "candidates": candidates[1:] if null else candidates, "findings": [] if null else drift,
            "trainings": [{"trigger_kind": "person"}, *([] if null else [{"trigger_kind": "finding"}])], "rollouts": [],
        },
        followed={
            "trace_id": "ab",
            "spans": [{"localEndpoint": {"serviceName": f"svc-{name}"}} for name in ("ingest", "stream", "serve", "monitor")],
        },
        sent=50, archived=50, asked=set(ids[:100]), peak_memory_mb=3000.4, first_decision_s=4.0, play_s=150.0,
        feature_lag_ms=3_599_000, duplicates_in=10, looks=[{}],
    )  # fmt: skip


def failing(found: Findings) -> set[str]:
    return {check.name for check in checks(found) if not check.ok}


@pytest.mark.parametrize("null", [False, True])
def test_a_run_that_held_passes_every_check(null: bool) -> None:
    assert failing(sound(null)) == set()


def change(name: str, value: object) -> Callable[[Findings], None]:
    return lambda found: setattr(found, name, value)


def fact(name: str, value: object) -> Callable[[Findings], None]:
    return lambda found: found.facts.__setitem__(name, value)


def parity(**changes: object) -> Callable[[Findings], None]:
    return lambda found: found.parity.update(changes)


BROKEN: list[tuple[str, Callable[[Findings], None]]] = [
    ("every event is in the archive, once", change("archived", 49)),
    ("a batch sent again is all duplicates", fact("resent", {"rows": 10, "accepted": 1})),
    ("malformed rows get their reason", fact("malformed", [{"what": "x", "expected": "wrong_type", "told": None}])),
    ("an event too late is judged late", parity(verdicts={"departures": {"ok": 8}})),
    ("every request asked in play is answered", change("asked", {"nobody answered"})),
    ("features at most an hour behind a request", change("feature_lag_ms", 3_600_001)),
    ("play within three minutes", change("play_s", 200.0)),
    ("first decision of the rules within 30 s", change("first_decision_s", None)),
    ("parity: decisions recomputed from the archive", parity(checked=9_999)),
    ("parity: at least half of the values fresh", parity(fresh=49)),
    ("parity: bits differing 0", parity(bits_differing=1)),
    ("parity: nothing else differs", parity(differing=1)),
    ("approval without a name is refused", fact("refused", {"proposer": {"status": 403}})),
    ("the proposer's own approval is refused", fact("refused", {"anonymous": {"status": 401}, "proposer": {"status": 200}})),
    ("the faulty pipeline is parked, flights go on", fact("parked", [])),
    ("the audit chain verifies", change("audit", {"entries": 9, "verified": False, "heads": 3, "problem": "entry 4"})),
    ("every rollout is taken up", fact("rollouts refused", {(2, "svc-serve-0")})),
    ("the model beats the rule on months it was not trained on", change("months", [MonthAuc("2013-06", 900, 0.6, 0.65)])),
    ("drift is found in the real data", lambda found: found.governance["findings"].clear()),
    ("a drift finding led to one training request", lambda found: found.governance["trainings"].pop()),
    ("two models were promoted", lambda found: found.governance["candidates"].pop()),
    ("one flight's trace goes through ingest, stream, serve, monitor", lambda found: found.followed["spans"].pop()),
    ("decisions are answered over REST", change("rest_ms", [])),
]


@pytest.mark.parametrize(("name", "damage"), BROKEN, ids=[name for name, _ in BROKEN])
def test_what_does_not_hold_fails_its_check(name: str, damage: Callable[[Findings], None]) -> None:
    found = sound()
    damage(found)
    assert name in failing(found)


def test_two_passports_of_one_request_are_told() -> None:
    found = sound()
    found.decisions = pl.concat([found.decisions, found.decisions.head(1)])
    assert failing(found) == {"one passport per request"}


def test_every_check_has_a_case_that_breaks_it() -> None:
    assert {check.name for check in checks(sound())} == {name for name, _ in BROKEN} | {"one passport per request"}


def test_a_finding_or_a_second_model_fails_the_null_run() -> None:
    found = sound(null=True)
    found.governance["findings"].append({"kind": "drift"})
    found.governance["candidates"].append({"state": "CANARY", "model_digest": "x"})
    assert failing(found) == {"null run: no drift finding", "null run: no second model"}


def test_the_report_has_the_shape_and_the_figures_tools_read(tmp_path: Path) -> None:
    path = report.write(report.document(sound(), tmp_path), tmp_path)
    written: dict[str, Any] = orjson.loads(path.read_bytes())
    assert path.name == "demo.json"
    assert {"verb", "commit", "machine", "seed", "wall_s", "figures", "checks"} <= written.keys()
    figures = written["figures"]
    assert (figures["events"], figures["duplicates"], figures["late"]) == (50, 12, 1)
    assert figures["dead_letters"] == {"wrong_type": 1}
    assert figures["decisions"] == {"model": PASSPORTS}
    assert figures["latency_ms"] == {"p50": 5.0, "p99": 9.0}
    assert figures["auc_by_month"] == {"2013-06": 0.76}
    assert figures["parity"] == {"checked": PASSPORTS, "values": 100, "fresh": 50, "bits_differing": 0}
    assert (figures["findings"], figures["models"], figures["promotions"]) == (1, 2, 2)
    assert figures["audit"] == {"entries": 9, "verified": True}
    assert (figures["peak_memory_mb"], figures["trace_id"]) == (3000, "ab")
    assert all(check.keys() == {"name", "ok", "detail"} for check in written["checks"])


def test_the_null_run_writes_a_report_of_its_own(tmp_path: Path) -> None:
    assert report.write(report.document(sound(null=True), tmp_path), tmp_path).name == "demo-null.json"


def intruders() -> dict[str, dict[str, Any]]:
    by = {"stranger": "broker", "trespasser": "broker", "forger": "readers"}
    return {who: {"who": who, "by": refuser, "detail": "no", "counted": 1} for who, refuser in by.items()}


def secured() -> Findings:
    found = sound()
    found.facts["intruders"] = intruders()
    return found


REFUSALS = {
    "stranger": "a certificate of another authority is refused",
    "trespasser": "a service on a topic that is not its own is refused",
    "forger": "a forged rollout is refused by all who read it",
}


def test_a_secure_run_counts_its_three_refusals_in_a_report_of_its_own(tmp_path: Path) -> None:
    document = report.document(secured(), tmp_path)
    assert failing(secured()) == set()
    assert document["figures"]["refused"] == {"stranger": 1, "trespasser": 1, "forger": 1}
    assert report.write(document, tmp_path).name == "demo-secure.json"
    assert {check.name for check in checks(secured())} - {check.name for check in checks(sound())} == {*REFUSALS.values()}


@pytest.mark.parametrize("who", sorted(REFUSALS))
@pytest.mark.parametrize("damage", [{"by": "nobody"}, {"counted": 0}, {"by": "somebody else"}])
def test_an_intruder_who_is_let_in_or_not_counted_fails_its_check(who: str, damage: dict[str, Any]) -> None:
    found = secured()
    found.facts["intruders"][who].update(damage)
    assert failing(found) == {REFUSALS[who]}
