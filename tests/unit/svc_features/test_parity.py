"""Parity over small worlds: what was served is what the lake says, and an altered lake says exactly what it must."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import typer
from deltalake import DeltaTable
from typer.testing import CliRunner

from headrace.cli.parity import register
from headrace.plan.assemble import Assembler
from headrace.plan.hashes import sealed, to_json
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.retained import with_retained
from headrace.plan.tiles import entity_of
from headrace.plan.verdicts import Verdict
from support.lakes import alter
from support.law_worlds import make_world
from svc_features.adapters.lake import TOPIC_ID, DeltaLake, LakeReader
from svc_features.domain.columns import event_columns
from svc_features.incarnations import of_other_topics
from svc_features.parity import main
from svc_features.recompute import Choice, NotReached, Recomputation
from svc_features.warehouse import connect
from unit.svc_features.worlds import EVENTS, PLAN, PREDICTIONS_TOPIC, SETS, Rig, played

SEEDS = (4, 6, 9)


def judge(lake: Path, **choice: Any) -> Recomputation:
    run = Recomputation(connect(1, 500, lake / "spill"), LakeReader(lake), PLAN, Choice(**choice))
    run.findings.mismatches_max = 1_000_000
    run.run()
    return run


def expected(rig: Rig, log: list[RawRecord]) -> Counter[tuple[str, str, str, str]]:
    """What parity must find if the archive held this log: (kind, request, set, feature), by the naive oracle."""
    oracle = Oracle(list(EVENTS.values()), log)
    requests = {(r.event, r.partition, r.offset): r.fields for r in log}
    found: Counter[tuple[str, str, str, str]] = Counter()
    assembler = Assembler(PLAN, PLAN.models[0])
    for p in rig.passports:
        body = orjson.loads(p.request_body)
        if p.event_id is not None:
            topic, part, off = p.event_id.rsplit("-", 2)
            body = requests[topic.split(".")[1], int(part), int(off)] or {}
        values = {}
        for read, feature_set in zip(p.sets, SETS, strict=True):
            cut = {(c.event, c.partition): c.next_offset for c in read.cut}
            entity = "\x00" if read.entity is None else read.entity
            values[read.set], statuses = oracle.answer(feature_set, entity, p.t_ms, cut, None)
            for i, feature in enumerate(feature_set.features):
                if bits(values[read.set][i]) != bits(read.values[i]):
                    found["value", p.request_id, read.set, feature.name] += 1
                if int(statuses[i]) != read.statuses[i]:
                    found["status", p.request_id, read.set, feature.name] += 1
            if entity_of(feature_set, body) != read.entity:
                found["entity", p.request_id, read.set, ""] += 1
        row = assembler.row(body, values).tolist()
        for column, mine, served in zip(PLAN.models[0].inputs, row, p.vector, strict=True):
            if bits(mine) != bits(served):
                found["vector", p.request_id, "", column.name] += 1
    return found


def bits(value: float | None) -> str:
    return "none" if value is None or value != value else value.hex()


def told(run: Recomputation) -> Counter[tuple[str, str, str, str]]:
    return Counter((m.kind, m.request_id, m.feature_set, m.feature) for m in run.findings.mismatches)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_passport_is_recomputed_from_the_lake_bit_for_bit(tmp_path: Path, seed: int) -> None:
    """Garbage, late, poison, duplicates, ties, null entities, two sets at different progress; the oracle says the same."""
    rig = played(make_world(seed), random.Random(seed))
    rig.archived(tmp_path)
    run = judge(tmp_path)
    assert run.findings.mismatches == []
    assert run.findings.checked == len(rig.passports) > 15
    assert run.findings.values == len(rig.passports) * sum(len(s.features) for s in SETS)
    assert run.findings.oracle_checked == 2 * len(rig.passports)
    served = Counter(status for p in rig.passports for r in p.sets for status in r.statuses)
    assert run.findings.fresh == served[0] > 0
    assert run.findings.fresh < run.findings.values
    assert expected(rig, rig.log) == Counter()


@pytest.mark.parametrize("seed", SEEDS)
def test_one_altered_event_gives_exactly_the_mismatches_the_oracle_predicts(tmp_path: Path, seed: int) -> None:
    """Goal: parity sees one changed bit of the archive, and nothing else. Method: change one delay that was read."""
    rig = played(make_world(seed), random.Random(seed))
    rig.archived(tmp_path)
    verdicts = Oracle(list(EVENTS.values()), rig.log).verdicts()
    accepted = [r for r in rig.log if r.event == "departures" and verdicts[r.event, r.partition, r.offset] is Verdict.OK]
    for raw in random.Random(seed).sample(accepted, len(accepted)):
        changed = replace(raw, fields={**(raw.fields or {}), "delay": 12_345, "origin": "EWR"})
        predicted = expected(rig, [changed if r is raw else r for r in rig.log])
        if predicted:
            break
    else:
        raise AssertionError("no event of the world was read by a decision")
    alter(tmp_path, EVENTS["departures"].topic, raw.partition, raw.offset, {"delay": 12_345, "origin": "EWR"})
    run = judge(tmp_path, oracle=0)
    assert told(run) == predicted
    page = run.page()
    assert page["bits_differing"] == sum(n for key, n in predicted.items() if key[0] in ("value", "vector"))
    assert page["mismatches"][0]["cut"] or page["mismatches"][0]["kind"] == "vector"


def test_an_altered_request_is_seen_too(tmp_path: Path) -> None:
    """The archived event is what was asked; the passport's own body does not vouch for itself."""
    rig = played(make_world(4), random.Random(4))
    rig.archived(tmp_path)
    passport = next(p for p in rig.passports if p.event_id)
    topic, part, off = str(passport.event_id).rsplit("-", 2)
    alter(tmp_path, topic, int(part), int(off), {"gate": 7})
    run = judge(tmp_path, oracle=0)
    kinds = Counter(m.kind for m in run.findings.mismatches)
    assert kinds["request"] == 1
    assert kinds["entity"] <= 1
    assert {m.request_id for m in run.findings.mismatches} == {passport.request_id}
    assert {m.feature for m in run.findings.mismatches if m.kind == "vector"} == {"gate"}


def test_a_cut_beyond_the_archive_is_refused_by_name(tmp_path: Path) -> None:
    rig = played(make_world(4), random.Random(4), asks=10)
    rig.archived(tmp_path)
    ahead = rig.passports[0]
    cut = (replace(ahead.sets[0].cut[0], next_offset=10_000), *ahead.sets[0].cut[1:])
    rig.decide(replace(ahead, request_id="ahead", sets=(replace(ahead.sets[0], cut=cut), ahead.sets[1])))
    rig.archived(tmp_path)
    with pytest.raises(NotReached, match="up to 10000, archived up to"):
        judge(tmp_path)


def test_the_command_prints_one_object_and_its_exit_code_is_the_verdict(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    rig = played(make_world(4), random.Random(4), asks=15)
    lake, plan = tmp_path / "lake", tmp_path / "plan.json"
    lake.mkdir()
    plan.write_bytes(to_json(PLAN))
    asked = ["--lake", str(lake), "--plan", str(plan), "--wait-s", "0"]
    assert main(asked) == 2  # nothing archived yet
    rig.archived(lake)
    capsysbinary.readouterr()
    assert main([*asked, "--limit", "5"]) == 0
    page = orjson.loads(capsysbinary.readouterr().out)
    assert (page["checked"], page["bits_differing"], page["verdicts"]["departures"]["ok"] > 0) == (5, 0, True)
    alter(lake, PREDICTIONS_TOPIC, *_place(lake), {"vector": [0.25] * len(PLAN.models[0].inputs)})
    assert main(asked) == 1


def test_the_command_line_runs_it_beside_itself_and_shows_the_verdict(tmp_path: Path) -> None:
    """Goal: `headrace parity` on a lake, in words and as JSON, with the exit code of the verdict."""
    rig = played(make_world(4), random.Random(4), asks=15)
    lake, plan = tmp_path / "lake", tmp_path / "plan.json"
    plan.write_bytes(to_json(PLAN))
    rig.archived(lake)
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    shown = CliRunner().invoke(app, ["parity", str(plan), "--lake", str(lake)])
    assert (shown.exit_code, "bits differing: 0" in shown.output) == (0, True), shown.output
    alter(lake, PREDICTIONS_TOPIC, *_place(lake), {"vector": [0.25] * len(PLAN.models[0].inputs)})
    found = CliRunner().invoke(app, ["parity", str(plan), "--lake", str(lake), "--json"])
    assert found.exit_code == 1
    assert orjson.loads(found.output)["vector_differing"] > 0


def _place(lake: Path) -> tuple[int, int]:
    rows = LakeReader(lake).batches(PREDICTIONS_TOPIC, ["part", "off"]).read_all().to_pydict()
    return rows["part"][0], rows["off"][0]


def test_decisions_for_rows_of_a_retained_version_are_recomputed_under_it(tmp_path: Path, capsysbinary: Any) -> None:
    """The decisions were made for PLAN's rows; the plan in force is another one that retains it."""
    rig, lake, file = played(make_world(SEEDS[0], 80), random.Random(1)), tmp_path / "lake", tmp_path / "plan.json"
    rig.archived(lake)
    newer = sealed(replace(PLAN, models=tuple(replace(m, threshold="0.25") for m in PLAN.models)))
    file.write_bytes(to_json(with_retained(newer, [PLAN])))
    capsysbinary.readouterr()
    assert main(["--lake", str(lake), "--plan", str(file), "--wait-s", "0"]) == 0
    page = orjson.loads(capsysbinary.readouterr().out)
    assert (page["checked"], page["other_plans"], page["plan_hash"]) == (0, len(rig.passports), newer.hash)
    (older,) = page["retained"]
    assert (older["checked"], older["plan_hash"], older["differing"]) == (len(rig.passports), PLAN.hash, 0)


def moved_away(lake: Path, topic: str) -> None:
    """The table under the id of another incarnation, as if it had been moved away and begun anew."""
    DeltaTable(str(lake / topic)).alter.set_table_properties({TOPIC_ID: "another"}, raise_if_not_exists=False)


def test_decisions_made_of_another_incarnation_of_a_topic_are_told_not_recomputed(tmp_path: Path) -> None:
    """Goal: no decision is judged by records it was not made of. Method: the lake says another topic id than the cuts."""
    rig = played(make_world(SEEDS[0], 80), random.Random(SEEDS[0]), asks=20)
    rig.archived(tmp_path)
    made_of_weather = [p for p in rig.passports if any(c.event == "weather" for read in p.sets for c in read.cut)]
    assert len(made_of_weather) > 3
    moved_away(tmp_path, EVENTS["weather"].topic)
    run = judge(tmp_path)
    assert {m.request_id for m in run.findings.mismatches} == {p.request_id for p in made_of_weather}
    assert {m.kind for m in run.findings.mismatches} == {"topic"}
    assert run.findings.topics_differing == len(made_of_weather) == run.findings.differing
    assert run.findings.checked == len(rig.passports) - len(made_of_weather)
    named = rig.topic_ids()["weather"]
    assert {(m.served, m.recomputed) for m in run.findings.mismatches} == {
        (f"weather of topic {named}", "the lake holds topic another")
    }


def test_a_cut_beyond_the_archive_is_not_waited_for_where_it_is_of_another_topic(tmp_path: Path) -> None:
    """Goal: parity does not wait for offsets that will never come. Method: an empty table of another topic."""
    rig = played(make_world(SEEDS[0], 80), random.Random(SEEDS[0]), asks=20)
    rig.archived(tmp_path)
    topic = EVENTS["weather"].topic
    shutil.rmtree(tmp_path / topic)
    DeltaLake(tmp_path).open(topic, event_columns(EVENTS["weather"]), 2)
    with pytest.raises(NotReached):
        judge(tmp_path)
    moved_away(tmp_path, topic)
    assert judge(tmp_path).findings.kinds().keys() == {"topic"}


def test_passports_that_do_not_name_topics_are_judged_as_before() -> None:
    """Cuts without the field, or with an empty one, fit any lake."""
    cut = {"event": "weather", "partition": 0, "next_offset": 3}
    for cuts in ([cut], [cut | {"topic_id": ""}], [cut | {"topic_id": None}], []):
        frame = pl.DataFrame({"pid": [1], "sets": [[{"set": "s", "cut": cuts}]]})
        assert len(of_other_topics(frame, {"weather": "here"})) == 0
    named = pl.DataFrame({"pid": [1, 2], "sets": [[{"cut": [cut | {"topic_id": t}]}] for t in ("here", "there")]})
    assert of_other_topics(named, {"weather": "here"}).rows() == [(2, "weather", "there")]
    assert len(of_other_topics(named, {})) == 0
