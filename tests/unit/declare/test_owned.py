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
