"""What users write becomes the plan they meant; mistakes are told at their line, with what to write instead."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.declare import DeclarationError, Pipeline, compile, load
from headrace.plan import costs, difference, ir, report
from headrace.plan.assemble import Assembler
from headrace.plan.hashes import from_json, to_json
from headrace.plan.validate import validate

FLIGHTS_FOLDER = Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"

SOUND = """
from __future__ import annotations
from headrace.declare import *

class Asked(Event, topic="asked", key="id", time="at", lateness="1h"):
    id: str
    at: Timestamp
    user: str
    amount: Annotated[Decimal, Scale(2), Range(0, 1000)]

class Paid(Event, topic="payments", key="id", time="at", lateness="1h", poison_bound="10m", dedup=("id", "6h")):
    id: str
    at: Timestamp
    user: str
    cents: Annotated[Long, Range(0, 1_000_000), Unit("ct")]
    fee: Annotated[Decimal, Scale(2), Range(0, 100)] | None
    refused: bool
    note: Nullable[Text]

@feature_set(entity="user", ttl="3d")
class UserLoad:
    paid_1h = Paid.count().over("1h", hop="5m")
    paid_sum_1h = Paid.cents.sum(where="not refused").over("1h", hop="5m")
    paid_mean_1d = Paid.cents.mean(where="not refused").over("1d", hop="1h").impute("-1.5")
    fee_share_1h = Paid.fee.sum().over("1h", hop="5m") / Paid.fee.count().over("1h", hop="5m")
    refused_mean_1h = Paid.refused.mean().over("1h", hop="5m")
    last_fee = Paid.fee.last(max_age="1d")

fraud = Model(
    request=Asked, sample="12.5%", when="amount > 1.5",
    label=Label(Paid, "refused", join="id", mature="1d", exclude=Paid.note == "test"),
    inputs=[UserLoad["paid_1h", "paid_mean_1d"], request("amount"), on_demand("amount / paid_mean_1d", name="against_mean")],
    trainer=GradientBoosting(rounds=10), gate=Gate(auc=">= rule", parity="exact"),
    serve=Serve(deadline="50ms", fallback=Rules("paid_1h > 3", score="paid_1h"), rollout=Canary([10, 100], dwell="5 decisions"),
                explain="top2"),
    watch=Watch(window="1d"),
)

shop = Pipeline("shop", owner="ops", events=[Asked, Paid], feature_sets=[UserLoad], models=[fraud],
                sources=[Source("payments", Paid, "http_json_lines", columns={"cents": "amount_ct"})])
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "pipeline.py"
    file.write_text(textwrap.dedent(text))
    return file


@pytest.fixture
def sound(tmp_path: Path) -> ir.Plan:
    return compile(load(written(tmp_path, SOUND)))


def test_an_event_keeps_its_law_and_its_typed_fields(sound: ir.Plan) -> None:
    event = sound.events[1]
    assert (event.name, event.record, event.topic, event.key, event.time) == (
        "payments",
        "Paid",
        "shop.payments.v1",
        "id",
        "at",
    )
    assert (event.lateness_ms, event.poison_bound_ms, event.dedup_id, event.dedup_horizon_ms) == (
        3_600_000,
        600_000,
        "id",
        21_600_000,
    )
    fields = {field.name: field for field in event.fields}
    assert fields["cents"] == ir.Field("cents", "long", unit="ct", minimum=0, maximum=1_000_000)
    assert fields["fee"] == ir.Field("fee", "decimal", nullable=True, scale=2, minimum=0, maximum=10_000)
    assert fields["refused"] == ir.Field("refused", "boolean")
    assert fields["note"] == ir.Field("note", "string", nullable=True)
    assert sound.events[0].poison_bound_ms == 300_000


def test_aggregates_over_the_same_rows_share_one_measure(sound: ir.Plan) -> None:
    measures = {(m.value, m.where): m for m in sound.feature_sets[0].measures if m.slots != ("last",)}
    assert measures[(None, None)].slots == ("rows",)
    assert measures[("cents", "NOT refused")].slots == ("nonnull", "sum")  # the sum and the mean
    assert measures[("fee", None)] == replace(measures[("fee", None)], slots=("nonnull", "sum"), scale=2)
    assert len(measures) == 4
    assert [m.id for m in sound.feature_sets[0].measures] == ["m0", "m1", "m2", "m3", "m4"]


def test_a_boolean_is_accumulated_as_one_and_zero(sound: ir.Plan) -> None:
    values = [m.value for m in sound.feature_sets[0].measures if m.value and m.value.startswith("CASE")]
    assert values == ["CASE WHEN refused THEN 1 WHEN NOT refused THEN 0 ELSE NULL END"]


def test_features_keep_windows_ratios_ages_and_imputation(sound: ir.Plan) -> None:
    features = {feature.name: feature for feature in sound.feature_sets[0].features}
    mean = features["paid_mean_1d"]
    assert (mean.impute, mean.lowering, mean.terms[0].kind) == ("-1.5", "value", "mean")
    assert (mean.terms[0].window_ms, mean.terms[0].hop_ms) == (86_400_000, 3_600_000)
    assert features["fee_share_1h"].lowering == "ratio"
    assert [term.kind for term in features["fee_share_1h"].terms] == ["sum", "count"]
    assert (features["last_fee"].terms[0].window_ms, features["last_fee"].terms[0].hop_ms) == (86_400_000, 0)


def test_a_model_takes_its_name_from_its_variable_and_its_keys_from_the_request(sound: ir.Plan) -> None:
    model = sound.models[0]
    assert (model.name, model.request, model.routing_key, model.request_id, model.owner) == (
        "fraud",
        "asked",
        "id",
        "id",
        "ops",
    )
    assert (model.sample_bp, model.when, model.explain_top) == (1250, "amount > 1.5", 2)
    assert model.label == ir.Label("payments", "refused", "id", 86_400_000, "note = 'test'")
    assert [(i.name, i.kind, i.expression) for i in model.inputs] == [
        ("paid_1h", "feature", None),
        ("paid_mean_1d", "feature", None),
        ("amount", "request", "amount / 1"),
        ("against_mean", "on_demand", "amount / paid_mean_1d"),
    ]
    assert model.watch.inputs == ("paid_1h", "paid_mean_1d")


def test_a_decimal_of_the_request_enters_the_model_in_its_unit(sound: ir.Plan) -> None:
    """The request holds 12.50 as 1250; the model sees 12.5, and so do expressions after it."""
    values = {"user_load": [4.0, None, 5.0, None, None, None]}
    found = Assembler(sound, sound.models[0]).assemble({"id": "a", "at": 0, "user": "u", "amount": 1250}, values)
    assert found.row.tolist() == [4.0, 5.0, 12.5, 2.5]
    assert found.rule_decision is True


def test_the_compiled_plan_is_sound_and_survives_its_json(sound: ir.Plan) -> None:
    validate(sound)
    assert from_json(to_json(sound)) == sound


def test_compiling_twice_gives_the_same_hash(tmp_path: Path, sound: ir.Plan) -> None:
    assert compile(load(written(tmp_path, SOUND))).hash == sound.hash


def test_operators_build_the_same_expression_as_text(tmp_path: Path, sound: ir.Plan) -> None:
    text = SOUND.replace('where="not refused"', "where=~Paid.refused")
    assert compile(load(written(tmp_path, text))).feature_sets == sound.feature_sets


@pytest.mark.parametrize(
    ("old", "new", "marker", "detail", "hint"),
    [
        ("Paid.cents.sum", "Paid.cent.sum", "paid_sum_1h", "unknown field 'cent' of Paid", "did you mean 'cents'?"),
        (
            'where="not refused").over("1d"',
            'where="not refusd").over("1d"',
            "paid_mean_1d",
            "unknown column 'refusd'",
            "'refused'",
        ),
        (
            "    refused: ",
            "    verdict: Flag\n    refused: ",
            "verdict",
            "'verdict' is a column of the archive",
            "another name",
        ),
        ('.over("1d", hop="1h")', '.over("1d", hop="7h")', "paid_mean_1d", "hop 7h does not divide window 1d", '"1d4h"'),
        ('.over("1d", hop="1h")', '.over("1d", hop="8m")', "paid_mean_1d", "no multiple of the finest", "5m"),
        ('.over("1d", hop="1h")', '.over("1 day", hop="1h")', "paid_mean_1d", "'1 day' is not a duration", "90m"),
        ('.over("1d", hop="1h")', "", "paid_mean_1d", "has no attribute 'impute'", ""),
        ('.over("1d", hop="1h").impute("-1.5")', "", "paid_mean_1d", "has no window", ".over("),
        ('.impute("-1.5")', ".impute(1.5)", "paid_mean_1d", "impute(1.5)", "decimal text"),
        ("Paid.fee.count()", "Paid.fee.mean()", "fee_share_1h", "two counts or sums", "mean and variance divide already"),
        ('ttl="3d"', 'ttl="1d"', "paid_mean_1d", "ttl 1d is too short", '"1d1h10m"'),
        ('ttl="3d"', 'ttl="2d", request_lag="1d"', "paid_mean_1d", "ttl 2d is too short", 'ttl="2d1h10m"'),
        ('entity="user"', 'entity="usr"', "@feature_set", "unknown entity field 'usr' of Paid", "did you mean 'user'?"),
        ('entity="user"', 'entity="refused"', "@feature_set", "is a boolean", "strings and integers"),
        ('entity="user"', 'entity="note"', "fraud = Model", "unknown entity field 'note' of the request", ""),
        ('poison_bound="10m"', 'poison_bound="2h"', "class Paid", "poison_bound 2h is above lateness 1h", ""),
        ('dedup=("id", "6h")', 'dedup=("idd", "6h")', "class Paid", "unknown dedup id field 'idd'", "'id'"),
        ('topic="payments", key="id"', 'topic="payments", key="note"', "note: Nullable", "not a plain string", "never null"),
        (
            'topic="payments", key="id", time="at"',
            'topic="payments", key="id", time="cents"',
            "cents: Ann",
            "plain timestamp",
            "",
        ),
        ("refused: bool", "refused: bytes", "refused: bytes", "is not a field type", "str, int, bool"),
        ("refused: bool", "count: int", "count: int", "field name 'count' is taken", ""),
        (
            'cents: Annotated[Long, Range(0, 1_000_000), Unit("ct")]',
            "cents: int",
            "paid_sum_1h",
            "may overflow when summed",
            "Range(",
        ),
        ("Paid.cents.sum(", "Paid.note.sum(", "paid_sum_1h", "value `note` is a string", ""),
        (
            'where="not refused").over("1d"',
            'where="cents").over("1d"',
            "paid_mean_1d",
            "where `cents` is a integer",
            "condition",
        ),
        ('mature="1d"', 'mature="0s"', "label=Label", "mature is not positive", ""),
        ('join="id"', 'join="idx"', "label=Label", "unknown join field 'idx'", "did you mean 'id'?"),
        ('Label(Paid, "refused"', 'Label(Paid, "refuse"', "label=Label", "unknown column 'refuse'", ""),
        ('UserLoad["paid_1h", ', 'UserLoad["paid_1hh", ', "inputs=", "unknown feature 'paid_1hh'", "did you mean 'paid_1h'?"),
        ('request("amount")', 'request("user")', "inputs=", "`user` is a string", "numbers"),
        ('request("amount")', 'UserLoad["paid_1h"]', "fraud = Model", "input 'paid_1h' comes twice", ""),
        ("amount / paid_mean_1d", "amount / last_fee", "inputs=", "unknown column 'last_fee'", ""),
        ("paid_1h > 3", "paid_1h + 3", "fraud = Model", "`paid_1h + 3` is a float", "condition"),
        ('score="paid_1h"', 'score="paid"', "fraud = Model", "unknown rules score 'paid'", "did you mean 'paid_1h'?"),
        ("Canary([10, 100]", "Canary([10, 50]", "fraud = Model", "steps [10, 50]", "end in 100"),
        ('dwell="5 decisions"', 'dwell="some"', "fraud = Model", "'some' is not", "2000 decisions"),
        ('auc=">= rule"', 'auc="good"', "fraud = Model", "auc 'good'", ">= champion"),
        ('sample="12.5%"', 'sample="120%"', "fraud = Model", "12000 basis points", ""),
        ('when="amount > 1.5"', 'when="paid_1h > 1"', "fraud = Model", "unknown column 'paid_1h'", ""),
        ("events=[Asked, Paid]", "events=[Asked]", "paid_1h =", "event Paid is not in the pipeline", "Pipeline(events=[...])"),
        ("feature_sets=[UserLoad]", "feature_sets=[]", "fraud = Model", "feature set user_load is not in the pipeline", ""),
        ("models=[fraud]", "models=[fraud, fraud]", "fraud = Model", "declared twice", ""),
        ('Pipeline("shop"', 'Pipeline("Shop_1"', "shop = Pipeline", "pipeline name 'Shop_1'", "lower case"),
        ('columns={"cents"', 'columns={"cent"', "sources=", "unknown field 'cent'", "did you mean 'cents'?"),
        ("shop = Pipeline", "shop = undefined_name", "shop = undefined", "NameError", ""),
        ("shop = Pipeline(", "shop = Pipeline((", "", "syntax error", ""),
    ],
)
def test_a_mistake_is_told_at_its_line_with_what_to_write(
    tmp_path: Path, old: str, new: str, marker: str, detail: str, hint: str
) -> None:
    """Goal: errors point at the user's file. Method: one edit of a sound declaration at a time."""
    text = SOUND.replace(old, new, 1)
    assert text != SOUND
    file = written(tmp_path, text)
    with pytest.raises(DeclarationError) as caught:
        compile(load(file))
    found = [item for item in caught.value.complaints if detail in item.detail]
    assert found, str(caught.value)
    assert any(hint in item.hint or hint in item.detail for item in found), str(caught.value)
    lines = text.splitlines()
    assert all(item.where.file == str(file) for item in found)
    assert any(marker in lines[item.where.line - 1] for item in found), str(caught.value)


def test_all_mistakes_are_told_at_once_in_file_order(tmp_path: Path) -> None:
    text = SOUND.replace('hop="1h"', 'hop="7h"').replace('mature="1d"', 'mature="0s"').replace('entity="user"', 'entity="usr"')
    with pytest.raises(DeclarationError) as caught:
        compile(load(written(tmp_path, text)))
    lines = [item.where.line for item in caught.value.complaints]
    assert len(set(lines)) == 4  # the set, a feature, the label, and the model whose request lacks the entity
    assert lines == sorted(lines)


def test_a_file_without_a_pipeline_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="0 pipelines"):
        load(written(tmp_path, "x = 1"))
    with pytest.raises(DeclarationError, match="no such file"):
        load(tmp_path / "elsewhere.py")


@pytest.fixture(scope="module")
def flights() -> Pipeline:
    return load(FLIGHTS_FOLDER)


def test_the_flights_pipeline_compiles_over_at_least_four_entities(flights: Pipeline) -> None:
    plan = compile(flights)
    validate(plan)
    assert {item.entity for item in plan.feature_sets} >= {("origin",), ("carrier",), ("tail",), ("origin", "dest")}
    assert [event.topic for event in plan.events] == [
        "flights.scheduled.v1", "flights.departures.v1", "flights.arrivals.v1", "flights.weather.v1",
    ]  # fmt: skip
    assert all(event.available_after_ms is not None for event in plan.events)


def test_the_report_names_every_topic_and_what_a_change_invalidates(flights: Pipeline) -> None:
    plan = compile(flights)
    assert difference.changes(plan, plan) == []
    longer = replace(plan.feature_sets[0], ttl_ms=plan.feature_sets[0].ttl_ms * 2, hash="f" * 64)
    other = replace(plan, feature_sets=(longer, *plan.feature_sets[1:]), hash="f" * 64)
    (change,) = difference.changes(other, plan)
    assert (change.name, change.verb, change.what) == (longer.name, "changed", ("ttl_ms",))
    assert "is built beside" in change.effect
    text = report.text(plan)
    assert all(event.topic in text for event in plan.events)
    assert all(f"{item.name} {item.hash[:8]}" in text for item in plan.feature_sets)


def test_the_cost_of_a_set_counts_tiles_over_its_time_to_live(sound: ir.Plan) -> None:
    """By hand: 3 days at 5 min and at 1 h, one tile more each, plus the last; a tile holds 10 tile slots and 5 of the last."""
    cost = costs.set_cost(sound, sound.feature_sets[0])
    tiles = (3 * 288 + 1) + (3 * 24 + 1) + 1
    width = 1 + 2 + 2 + 2 + 5
    assert (cost.tiles_per_key, cost.bytes_per_key) == (tiles, tiles * (16 + 8 * width))
    assert cost.reads_per_request == 2 + 3 + 1  # 13 tiles, 25 tiles, one last; 16 to a block, worst alignment
