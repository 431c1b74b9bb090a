"""What must be true of a run, said of what it left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace_demo.evidence import SERVICES_OF_A_TRACE, services_of
from headrace_demo.findings import Findings

PARITY_DECISIONS_MIN = 10_000
PLAY_S_MAX = 185.0  # three minutes, and the step under way
FIRST_DECISION_S_MAX = 30.0  # after the stack is up
FEATURE_LAG_MS_MAX = 3_600_000
MONTH_LABELLED_MIN = 300  # fewer labelled decisions are no evidence about a month
DETAIL_CHARACTERS_MAX = 120


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be true."""

    name: str
    ok: bool
    detail: str


def checks(found: Findings) -> list[Check]:
    """All of them; those on drift turn round in the null run."""
    loop = _null_loop(found) if found.null else _loop(found)
    parts = (_events(found), _decisions(found), _parity(found), _people(found), _rollouts(found), _quality(found))
    return [check for part in (*parts, loop, _secure(found), _following(found)) for check in part]


def _events(found: Findings) -> Iterator[Check]:
    facts = found.facts
    told = f"{found.sent:,} acknowledged, {found.archived:,} archived"
    yield Check("every event is in the archive, once", found.archived == found.sent, told)
    resent = facts.get("resent", {"rows": 0, "accepted": 0})
    all_known = resent["rows"] > 0 and resent["accepted"] == 0
    yield Check("a batch sent again is all duplicates", all_known, f"{resent['rows']:,} rows sent again")
    malformed = facts.get("malformed", [])
    wrong = [bad["what"] for bad in malformed if bad["expected"] != bad["told"]]
    told = f"{len(malformed)} kinds" + (f"; not: {', '.join(wrong)}" if wrong else "")
    yield Check("malformed rows get their reason", bool(malformed) and not wrong, told)
    late = found.verdicts("late")
    yield Check("an event too late is judged late", late >= facts.get("late_sent", 1), f"{late} late")


def _decisions(found: Findings) -> Iterator[Check]:
    ids = found.decisions["request_id"]
    yield Check("one passport per request", ids.n_unique() == len(ids), f"{len(ids):,} passports, {ids.n_unique():,} requests")
    missing = found.asked - set(ids.to_list())
    told = f"{len(found.asked):,} asked, {len(missing)} without an answer"
    yield Check("every request asked in play is answered", bool(found.asked) and not missing, told)
    told = f"{found.feature_lag_ms / 60_000:.0f} min at most"
    yield Check("features at most an hour behind a request", found.feature_lag_ms <= FEATURE_LAG_MS_MAX, told)
    yield Check("play within three minutes", found.play_s <= PLAY_S_MAX, f"{found.play_s:.0f} s")
    first = found.first_decision_s
    told = "none" if first is None else f"{first:.1f} s after the stack was up"
    yield Check("first decision of the rules within 30 s", first is not None and first <= FIRST_DECISION_S_MAX, told)


def _parity(found: Findings) -> Iterator[Check]:
    parity = found.parity
    checked, values, fresh = (parity.get(name) or 0 for name in ("checked", "values", "fresh"))
    enough = checked >= PARITY_DECISIONS_MIN
    told = parity.get("error") or f"{checked:,} of at least {PARITY_DECISIONS_MIN:,}"
    yield Check("parity: decisions recomputed from the archive", enough, told)
    yield Check("parity: at least half of the values fresh", values > 0 and 2 * fresh >= values, f"{fresh:,} of {values:,}")
    bits, all_kinds = parity.get("bits_differing"), parity.get("differing")
    yield Check("parity: bits differing 0", bits == 0, f"{bits} of {values:,} values")
    told = f"{all_kinds} differences of any kind; {parity.get('oracle_checked', 0):,} answers of the naive oracle among them"
    yield Check("parity: nothing else differs", all_kinds == 0, told)


def _people(found: Findings) -> Iterator[Check]:
    refused = found.facts.get("refused", {})
    for who, status, name in (
        ("anonymous", 401, "approval without a name is refused"),
        ("proposer", 403, "the proposer's own approval is refused"),
    ):
        answer = refused.get(who, {})
        told = str(answer.get("detail", "never tried"))[:DETAIL_CHARACTERS_MAX]
        yield Check(name, answer.get("status") == status, f"{answer.get('status', '-')}: {told}")
    parked = found.facts.get("parked", [])
    told = f"parked in {', '.join(parked) or 'no service'}"
    yield Check("the faulty pipeline is parked, flights go on", parked == ["svc-ingest"], told)
    audit = found.audit
    told = f"{audit['entries']} entries, {audit['heads']} heads kept outside found again {audit['problem']}".rstrip()
    yield Check("the audit chain verifies", bool(audit["verified"]) and audit["heads"] > 0, told)


def _rollouts(found: Findings) -> Iterator[Check]:
    refused = found.facts.get("rollouts refused", ())
    told = "none refused" if not refused else "; ".join(f"epoch {epoch} by {instance}" for epoch, instance in sorted(refused))
    yield Check("every rollout is taken up", not refused, told)


def _secure(found: Findings) -> Iterator[Check]:
    for who, by, name in (
        ("stranger", "broker", "a certificate of another authority is refused"),
        ("trespasser", "broker", "a service on a topic that is not its own is refused"),
        ("forger", "readers", "a forged rollout is refused by all who read it"),
    ):
        if found.intruders:
            refusal = found.intruders[who]
            told = f"by {refusal['by']}, counted {refusal['counted']}: {refusal['detail']}"
            yield Check(name, refusal["by"] == by and refusal["counted"] > 0, told)


def _quality(found: Findings) -> Iterator[Check]:
    months = [(m.month, m.labelled, m.model, m.rule) for m in found.months if m.labelled >= MONTH_LABELLED_MIN]
    judged = [(month, n, model, rule) for month, n, model, rule in months if model is not None and rule is not None]
    worse = [month for month, _, model, rule in judged if not model > rule]
    told = "; ".join(f"{month} {model:.3f} against {rule:.3f} ({n:,})" for month, n, model, rule in judged)
    name = "the model beats the rule on months it was not trained on"
    yield Check(name, bool(judged) and not worse, told or "no month with enough labels")


def _loop(found: Findings) -> Iterator[Check]:
    looks, drift, promoted = len(found.looks), len(found.drift), found.promoted
    yield Check("drift is found in the real data", drift > 0, f"{looks} looks, {drift} findings")
    answers = found.answers
    yield Check("a drift finding led to one training request", 0 < len(answers) <= drift, f"{len(answers)} for {drift}")
    told = ", ".join(view["model_digest"][:8] for view in promoted) or "none"
    yield Check("two models were promoted", len(promoted) == 2, told)


def _null_loop(found: Findings) -> Iterator[Check]:
    yield Check("null run: the first model is promoted", len(found.promoted) == 1, f"{len(found.promoted)} promoted")
    told = f"{len(found.looks)} looks, {len(found.drift)} findings"
    yield Check("null run: no drift finding", bool(found.looks) and not found.drift, told)
    count = len(found.governance["candidates"])
    yield Check("null run: no second model", count == 1, f"{count} candidates")


def _following(found: Findings) -> Iterator[Check]:
    followed = found.followed
    missing = sorted(set(SERVICES_OF_A_TRACE) - services_of(followed.get("spans", [])))
    told = f"trace {followed.get('trace_id', 'none')}" + (f", missing {', '.join(missing)}" if missing else "")
    yield Check("one flight's trace goes through ingest, stream, serve, monitor", bool(followed) and not missing, told)
    refused = found.facts.get("rest_refused", "")
    told = f"{len(found.rest_ms):,} replies" + (f"; refused: {refused}" if refused else "")
    yield Check("decisions are answered over REST", bool(found.rest_ms) and not refused, told)
