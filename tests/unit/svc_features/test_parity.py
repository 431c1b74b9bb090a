"""Parity over small worlds: what was served is what the lake says, and an altered lake says exactly what it must."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
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
from svc_features.adapters.lake import LakeReader
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
