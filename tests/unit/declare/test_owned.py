"""Placement `owned`: what a declaration must keep so that one partition holds all of an entity."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contracts.catalogue import plan_topics
from headrace.declare import DeclarationError, compile, load
from headrace.plan import ir

CARDS = """
from __future__ import annotations
from headrace.declare import *

class Paid(Event, topic="payments", key="card", time="at", lateness="1h", partitions=4, dedup=("payment_id", "6h")):
    payment_id: str
    card: str
    at: Timestamp
    cents: Annotated[Long, Range(0, 1_000_000)]

class Blocked(Event, topic="blocks", key="card", time="at", lateness="1h", partitions=4):
    card: str
    at: Timestamp

@feature_set(entity="card", ttl="3d", placement="owned", partitions=4)
class CardVelocity:
    paid_1h = Paid.count().over("1h", hop="5m")
    blocked_1d = Blocked.count().over("1d", hop="1h")

@feature_set(entity="card", ttl="3d", partitions=4)
class CardHistory:
    paid_sum_1d = Paid.cents.sum().over("1d", hop="1h")

fraud = Model(
    request=Paid, request_id="payment_id",
    label=Label(Blocked, "card = card", join="card", mature="1d"),
    inputs=[CardVelocity, CardHistory],
    trainer=GradientBoosting(rounds=10), gate=Gate(auc=">= rule", parity="exact"),
    serve=Serve(deadline="50ms", fallback=Rules("paid_1h > 3", score="paid_1h"), rollout=Canary([100], dwell="5 decisions"),
                explain="top2"),
    watch=Watch(window="1d"),
)

cards = Pipeline("cards", owner="ops", events=[Paid, Blocked], feature_sets=[CardVelocity, CardHistory], models=[fraud])
"""


def compiled(folder: Path, *changes: tuple[str, str]) -> ir.Plan:
    text = CARDS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "pipeline.py"
    file.write_text(text)
    return compile(load(file))


def test_an_owned_set_beside_a_replicated_one_is_a_sound_plan_with_a_topic_for_its_answers(tmp_path: Path) -> None:
    plan = compiled(tmp_path)
    assert [s.placement for s in plan.feature_sets] == ["owned", "replicated"]
    names = {spec.name for spec in plan_topics(plan)}
    assert {"cards.scoring-inputs.v1", "cards.scoring-inputs.v1.svc-serve.dlq"} <= names
    without = compiled(tmp_path, (', placement="owned"', ""))
    assert not any("scoring-inputs" in spec.name for spec in plan_topics(without))


def test_placement_is_part_of_a_set_s_hash_since_its_cut_spans_other_partitions(tmp_path: Path) -> None:
    owned, replicated = compiled(tmp_path), compiled(tmp_path, (', placement="owned"', ""))
    assert owned.feature_sets[0].hash != replicated.feature_sets[0].hash
    assert owned.feature_sets[1].hash == replicated.feature_sets[1].hash


NO_COUNT = ('    paid_1h = Paid.count().over("1h", hop="5m")\n', "")
OTHER_KEY = [
    ('topic="blocks", key="card"', 'topic="blocks", key="id"'),
    ("    at: Timestamp\n\n@", "    at: Timestamp\n    id: str\n\n@"),
]
MISTAKES = {
    "Blocked is keyed by 'id'": OTHER_KEY,
    "owned over 2 partitions, but Paid has 4": [('"owned", partitions=4', '"owned", partitions=2')],
    "is the entity": [('request_id="payment_id"', 'request_id="card"')],
    "does not read the request event payments": [
        NO_COUNT,
        ('"paid_1h > 3", score="paid_1h"', '"blocked_1d > 3", score="blocked_1d"'),
    ],
    "one owner answers a request": [('ttl="3d", partitions=4', 'ttl="3d", partitions=4, placement="owned"')],
}


@pytest.mark.parametrize("told", MISTAKES)
def test_what_an_owner_could_not_answer_is_refused(told: str, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=told):
        compiled(tmp_path, *MISTAKES[told])


HISTORY = '@feature_set(entity="card", ttl="3d", partitions=4)\nclass CardHistory'


def history(folder: Path, arguments: str) -> ir.FeatureSet:
    plan = compiled(folder, (HISTORY, HISTORY.replace("partitions=4", f"partitions=4, {arguments}")))
    return next(s for s in plan.feature_sets if s.name == "card_history")


def test_load_limit_and_freshness_are_declared_and_move_no_value(tmp_path: Path) -> None:
    """Goal: what is promised is in the plan and disturbs no state. Method: compile with and without; compare hashes."""
    said = history(tmp_path, 'keys=1_000, events_a_day={Paid: 2.5}, view_limit="64GiB", freshness="5s p99"')
    assert (said.keys_expected, said.events_a_day, said.view_bytes_max) == (1_000, (("payments", "2.5"),), 64 << 30)
    assert said.freshness_ms == 5_000
    unsaid = history(tmp_path, 'stale_after="1h"')
    assert (unsaid.keys_expected, unsaid.freshness_ms, unsaid.view_bytes_max) == (None, None, ir.VIEW_BYTES_MAX)
    assert said.hash == unsaid.hash
    assert history(tmp_path, 'freshness="500ms"').freshness_ms == 500


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("keys=60_000_000", r"pipeline\.py:\d+.*state projected for 60,000,000 entities"),
        ('view_limit="64 gigs"', "'64 gigs' is not a size"),
        ('freshness="5s p50"', "is not a duration"),
        ("events_a_day={Weather: 1}", "Weather"),
        ("events_a_day={Blocked: 1}", "unknown event 'blocks'"),
    ],
)
def test_a_promise_that_cannot_be_kept_or_read_is_refused_at_its_line(tmp_path: Path, arguments: str, told: str) -> None:
    with pytest.raises((DeclarationError, NameError), match=told):
        history(tmp_path, arguments)


def test_a_large_set_is_admitted_where_its_keys_come_seldom_or_its_limit_is_raised(tmp_path: Path) -> None:
    """What the refusal says to write is enough."""
    assert history(tmp_path, "keys=60_000_000, events_a_day={Paid: 0.5}").keys_expected == 60_000_000
    assert history(tmp_path, 'keys=60_000_000, view_limit="1TiB"').view_bytes_max == 1 << 40
