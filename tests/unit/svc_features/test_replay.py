"""Decision diff: what a replay says of past decisions is what one finds asking the oracle of the law about each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from headrace.contracts.errors import Fatal
from headrace.plan.hashes import sealed
from headrace.plan.ir import Input, Plan
from headrace.plan.lower import Status
from headrace.plan.oracle import Oracle
from headrace.plan.tiles import entity_of
from support.law_worlds import GATE_LOAD, HOUR, MIN, ORIGIN_LOAD
from svc_features.adapters.lake import LakeReader
from svc_features.domain.served import cells
from svc_features.revaluing import Asking, Revaluer
from svc_features.warehouse import connect
from unit.svc_features.replay_rig import Past, changed, naive, naive_label, past, told, windowed
from unit.svc_features.worlds import MODEL, PLAN

SEEDS = (4, 6, 9)
Worlds = Callable[[int], Past]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """A world by its seed, played once: replays only read."""
    return cache(lambda seed: past(tmp_path_factory.mktemp(f"world{seed}"), seed))


def only(page: dict[str, Any]) -> dict[str, Any]:
    """The one model's part."""
    (found,) = page["models"].values()
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unchanged_declaration_flips_nothing_and_gives_every_score_again(worlds: Worlds, seed: int) -> None:
    world = worlds(seed)
    page, flips = world.replay(PLAN)
    found = only(page)
    scored = [p for p in world.rig.passports if p.score is not None]
    assert (flips, found["flips"], found["rows_moved"], found["scores"]["moved"]) == ([], 0, 0, 0)
    assert found["decisions"] == found["replayed"] == len(world.rig.passports) > 15
    assert found["scores"]["compared"] == len(scored) > 5
    assert {r["old"] for r in found["rungs"]} >= {"MODEL", "RULES"}
    assert all(modes["kept"] == found["replayed"] for modes in page["values"].values())


@pytest.mark.parametrize("seed", SEEDS)
def test_values_computed_anew_where_only_the_hash_moved_are_the_served_ones(worlds: Worlds, seed: int) -> None:
    """Another owner of nothing: a longer ttl moves the hash, and no value of a world shorter than either."""
    world = worlds(seed)
    page, flips = world.replay(changed(sets={s.name: replace(s, ttl_ms=90 * HOUR) for s in (ORIGIN_LOAD, GATE_LOAD)}))
    before = world.replay(PLAN)[0]
    same = only(page)["rows_moved"]
    assert {(m["kept"], m["as_served"]) for m in page["values"].values()} == {(0, only(before)["replayed"])}
    assert (same, flips) == (0, [])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [1, 9])
def test_every_value_of_a_changed_set_is_the_oracles_to_the_bit(worlds: Worlds, tmp_path: Path, seed: int, rows: int) -> None:
    """Goal: values under the passports' cuts, not only the flips they lead to. Method: a short ttl, so that windows expire;
    one decision at a time, so that nothing older is loaded than its own windows need, and several together."""
    world = worlds(seed)
    sets = {s.name: replace(s, ttl_ms=26 * HOUR) for s in (windowed(ORIGIN_LOAD, "departures_1h", 3 * HOUR), GATE_LOAD)}
    plan = changed(sets=sets)
    oracle, expired = Oracle(list(plan.events), world.rig.log), 0
    run = Revaluer(connect(1, 500, tmp_path), LakeReader(world.lake), plan, lambda _: None, lambda: connect(1, 500, tmp_path))
    for feature_set in plan.feature_sets:
        for start in range(0, len(world.rig.passports), rows):
            mine = world.rig.passports[start : start + rows]
            asked = [Asking(p.t_ms, orjson.loads(p.request_body), [asdict(r) for r in p.sets]) for p in mine]
            found, there = run.values(feature_set, asked)
            for line, p, one in zip(cells(found), mine, asked, strict=True):
                (read,) = [r for r in p.sets if r.set == feature_set.name]
                cut = {(c.event, c.partition): c.next_offset for c in read.cut}
                if {event for event, _ in cut} != set(feature_set.events):
                    continue  # nothing tells that a topic without records was read: that set is valued as of t
                entity = entity_of(feature_set, one.request)
                values, statuses = oracle.answer(feature_set, "\x00" if entity is None else entity, p.t_ms, cut, None)
                assert [hexed(v) for v in line] == [hexed(v) for v in values], (p.request_id, feature_set.name)
                expired += Status.EXPIRED in statuses
            assert there.all()
    assert expired > 0


def hexed(value: float | None) -> str:
    return "none" if value is None else float(value).hex()


CHANGES: dict[str, Callable[[], Plan]] = {
    "a shorter window": lambda: changed(sets={"origin_load": windowed(ORIGIN_LOAD, "departures_1h", 15 * MIN)}),
    "a longer window": lambda: changed(sets={"origin_load": windowed(ORIGIN_LOAD, "departures_1h", 12 * HOUR)}),
    "another set's window": lambda: changed(sets={"gate_load": windowed(GATE_LOAD, "delay_sum_12h", 2 * HOUR)}),
    "a lower bar of the rules": lambda: changed(rules="departures_1h > 0"),
    "rules that read another input": lambda: changed(rules="delay_last_3h > 0", rules_score="delay_last_3h"),
    "a threshold": lambda: changed(threshold="0.3"),
    "another default": lambda: changed(default_decision=True),
    "another lateness": lambda: sealed(
        replace(PLAN, events=tuple(replace(e, lateness_ms=e.lateness_ms // 8 + 1, poison_bound_ms=1) for e in PLAN.events))
    ),
    "an expression": lambda: changed(
        inputs=tuple(replace(i, expression="departures_1h * gust + 500") if i.name == "load" else i for i in MODEL.inputs)
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_flips_exactly_what_the_oracle_predicts(worlds: Worlds, seed: int, what: str) -> None:
    """Goal: the same flips, with the same scores to the bit. Method: verdicts, windows and rows one by one in plain Python."""
    world, plan = worlds(seed), CHANGES[what]()
    page, flips = world.replay(plan)
    assert told(flips) == naive(world, plan)
    found = only(page)
    assert found["flips"] == len(flips) == found["to_true"] + found["to_false"]
    assert found["replayed"] == len(world.rig.passports)
    assert Counter((f.old.source, f.new.source) for f in flips) == Counter(
        {(r["old"], r["new"]): r["flips"] for r in found["rungs"] if r["flips"]}
    )


def test_every_change_of_the_list_flips_something_somewhere(worlds: Worlds) -> None:
    """Or the test above would compare nothing with nothing."""
    quiet = [what for what, plan in CHANGES.items() if not any(naive(world, plan()) for world in map(worlds, SEEDS))]
    assert quiet == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_candidate_answers_every_request(worlds: Worlds, seed: int) -> None:
    world = worlds(seed)
    digest = list(world.arms)[1]
    page, flips = world.replay(PLAN, model=digest[:12])
    assert told(flips) == naive(world, PLAN, candidate=digest)
    assert {r["new"] for r in only(page)["rungs"]} == {"MODEL"}
    assert world.replay(PLAN, model=f"run-{digest[:6]}")[1] == flips
    with pytest.raises(ValueError, match="means no model"):
        world.replay(PLAN, model="unheard-of")


def test_gains_are_counted_on_mature_outcomes_alone(worlds: Worlds) -> None:
    """Goal: corrected, broken, alarms and misses as a list of labels says. Method: outcomes found by hand."""
    world = worlds(6)
    plan = changed(threshold="0.3", rules="departures_1h > 0", label=replace(MODEL.label, mature_ms=20 * HOUR))
    page, flips = world.replay(plan)
    labels = {p.request_id: naive_label(world, plan.models[0], p) for p in world.rig.passports}
    sooner = replace(MODEL, label=replace(MODEL.label, mature_ms=HOUR))
    immature = [p for p in world.rig.passports if labels[p.request_id] is None]
    assert any(naive_label(world, sooner, p) is not None for p in immature)
    before = {p.request_id: p.decision for p in world.rig.passports}
    after = before | {f.request_id: f.new.decision for f in flips}
    known = [r for r, label in labels.items() if label is not None]
    gains = only(page)["gains"]
    assert 0 < gains["labelled"] == len(known) < len(labels)
    for side, decisions in (("old", before), ("new", after)):
        assert gains[side]["false_alarms"] == sum(decisions[r] and not labels[r] for r in known)
        assert gains[side]["misses"] == sum(not decisions[r] and bool(labels[r]) for r in known)
        assert gains[side]["correct"] == sum(decisions[r] == labels[r] for r in known)
    turned = [r for r in known if before[r] != after[r]]
    assert gains["corrected"] == sum(after[r] == labels[r] for r in turned)
    assert gains["broken"] == sum(before[r] == labels[r] for r in turned)


def test_outcomes_a_candidate_was_fitted_on_count_for_no_gain(tmp_path: Path) -> None:
    world = past(tmp_path, 6, fitted_until_ms=1 << 42)
    plan = changed(label=replace(MODEL.label, mature_ms=6 * HOUR))
    page, _ = world.replay(plan, model=next(iter(world.arms)))
    assert page["candidate"]["fitted_until_ms"] == 1 << 42
    found = only(page)
    assert found["gains"]["labelled"] == 0 < found["fitted_on"]
    assert only(world.replay(plan)[0])["gains"]["labelled"] == found["fitted_on"]


def test_the_span_is_event_time_before_the_newest_decision(worlds: Worlds) -> None:
    world = worlds(4)
    newest = max(p.t_ms for p in world.rig.passports)
    page, _ = world.replay(PLAN, span_ms=10 * HOUR)
    assert only(page)["decisions"] == sum(p.t_ms > newest - 10 * HOUR for p in world.rig.passports) < len(world.rig.passports)
    assert (page["from_ms"], page["until_ms"]) == (newest - 10 * HOUR + 1, newest)


def test_flips_are_counted_by_the_values_of_a_request_field(worlds: Worlds) -> None:
    world = worlds(6)
    page, flips = world.replay(CHANGES["a threshold"](), by=("origin",))
    origins = Counter(str(f.request["origin"]) if f.request["origin"] is not None else "null" for f in flips)
    groups = only(page)["groups"]["origin"]
    assert {name: g["flips"] for name, g in groups.items() if g["flips"]} == origins
    assert sum(g["replayed"] for g in groups.values()) == only(page)["replayed"]


def test_what_moved_is_told_by_input(worlds: Worlds) -> None:
    world = worlds(6)
    page, _ = world.replay(CHANGES["a longer window"]())
    names = {i["input"] for i in only(page)["inputs"]}
    assert names <= {"departures_1h", "load"}
    assert "departures_1h" in names


# -- what cannot be replayed


def reasons(page: dict[str, Any]) -> dict[str, int]:
    return {r["reason"]: r["decisions"] for r in only(page)["not_replayed"]}


def test_a_model_that_does_not_know_a_column_scores_nothing_and_the_rules_still_answer(worlds: Worlds) -> None:
    world = worlds(4)
    more = (*MODEL.inputs, Input("twice", "on_demand", expression="departures_1h * 2"))
    page, flips = world.replay(changed(inputs=more, rules="departures_1h > 0"))
    by_model = [p for p in world.rig.passports if p.score is not None]
    assert reasons(page) == {"model_does_not_fit": len(by_model)}
    assert "does not know twice" in only(page)["not_replayed"][0]["detail"]
    assert {f.request_id for f in flips}.isdisjoint(p.request_id for p in by_model)
    assert only(page)["replayed"] == len(world.rig.passports) - len(by_model)


def test_inputs_in_another_order_are_the_same_inputs(worlds: Worlds) -> None:
    world = worlds(4)
    page, flips = world.replay(changed(inputs=(*reversed(MODEL.inputs[:-1]), MODEL.inputs[-1])))
    assert (flips, only(page)["scores"]["moved"], only(page)["rows_moved"], reasons(page)) == ([], 0, 0, {})


def test_a_model_that_is_gone_or_was_tampered_with_scores_nothing(tmp_path: Path) -> None:
    world = past(tmp_path, 4)
    first, second = world.arms.values()
    counts = Counter(p.model_digest for p in world.rig.passports)
    (world.home / "objects" / first.model_digest[:2] / f"{first.model_digest}.onnx").unlink()
    damaged = world.home / "objects" / second.model_digest[:2] / f"{second.model_digest}.onnx"
    damaged.write_bytes(damaged.read_bytes() + b"\x00")
    page, _ = world.replay(PLAN)
    assert reasons(page) == {"model_missing": counts[first.model_digest], "model_refused": counts[second.model_digest]}


def test_a_model_nobody_signed_for_is_refused(tmp_path: Path) -> None:
    world = past(tmp_path, 4)
    (world.home / "keys" / "trusted" / "svc-train.pub").unlink()
    assert set(reasons(world.replay(PLAN)[0])) == {"model_refused"}


def test_requests_the_declaration_would_not_have_decided_are_counted_apart(worlds: Worlds) -> None:
    world = worlds(4)
    page, _ = world.replay(changed(when="gate > 0"))
    outside = sum(orjson.loads(p.request_body)["gate"] == 0 for p in world.rig.passports)
    assert only(page)["not_asked"] == outside > 0
    assert only(page)["decisions"] == only(page)["replayed"] + outside


def test_a_set_whose_events_no_decision_had_read_is_valued_as_of_t(worlds: Worlds) -> None:
    """A new set on the requests themselves: no passport has a cut of those."""
    asked = replace(
        GATE_LOAD, name="asked", entity=("origin",), events=("asks",),
        measures=(replace(GATE_LOAD.measures[0], event="asks", value=None, slots=("rows",)),),
        features=(replace(
            GATE_LOAD.features[0], name="asks_1h",
            terms=(replace(GATE_LOAD.features[0].terms[0], kind="count", window_ms=6 * HOUR),),
        ),),
    )  # fmt: skip
    more = (*MODEL.inputs, Input("asks_1h", "feature", "asked", "asks_1h"))
    model = replace(MODEL, inputs=more, rules="asks_1h > 1")
    plan = sealed(replace(PLAN, feature_sets=(*PLAN.feature_sets, asked), models=(model,)))
    world = worlds(6)
    page, flips = world.replay(plan)
    assert page["values"]["asked"]["as_of"] == len(world.rig.passports)
    assert told(flips) == naive(world, plan, scored=False)
    assert flips


def test_an_empty_lake_and_a_topic_never_archived_are_said(tmp_path: Path) -> None:
    world = past(tmp_path / "world", 4)
    elsewhere = replace(PLAN.events[1], topic="small-world.never.v1")
    plan = sealed(replace(PLAN, events=(PLAN.events[0], elsewhere, PLAN.events[2])))
    with pytest.raises(Fatal, match=r"no table of small-world\.never\.v1"):
        world.replay(plan)
