"""The routing table: sticky, monotone, the same on every replica."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from headrace.contracts.records import ArmServed, RolloutChanged, RolloutState
from svc_serve.domain.table import Table
from unit.svc_serve.rig import Rig

KEYS = [f"flight-{n}" for n in range(10_000)]


def table(challenger: int, salt: str = "s", flip: bool = False) -> Table:
    arms = (ArmServed(name="champion", weight=10_000 - challenger), ArmServed(name="challenger", weight=challenger))
    rollout = RolloutChanged(
        pipeline="flights", model="m", epoch=1, plan_hash="h", salt=salt, arms=arms[::-1] if flip else arms, step=5,
        state=RolloutState.CANARY, hold_ms=0, reason="", approved_by="", changed_ms=0,
    )  # fmt: skip
    return Table.of(rollout)


def test_two_replicas_agree_on_every_key_whatever_the_order_of_arms() -> None:
    here, there = table(2_000), table(2_000, flip=True)
    assert [here.route(k).name for k in KEYS] == [there.route(k).name for k in KEYS]


def test_a_growing_canary_moves_nobody_back() -> None:
    before: set[str] = set()
    for weight in (0, 1, 500, 2_000, 5_000, 10_000):
        of = table(weight)
        now = {k for k in KEYS if of.route(k).name == "challenger"}
        assert before <= now, weight
        assert abs(len(now) - weight) < 200, "about its share of ten thousand keys"
        before = now
    assert len(before) == len(KEYS)


def test_another_salt_is_another_draw() -> None:
    counts = Counter(table(5_000, "a").route(k).name == table(5_000, "b").route(k).name for k in KEYS)
    assert 4_500 < counts[True] < 5_500


def test_before_any_rollout_rules_answer_every_key() -> None:
    assert {Table.empty().route(k).name for k in KEYS[:100]} == {"rules"}


@pytest.mark.parametrize("weight", [0, 10_000])
def test_an_arm_without_weight_answers_nobody(weight: int, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm(0, weight=10_000 - weight), rig.arm(1, name="challenger", weight=weight))
    arms = {rig.decide(n).arm for n in range(20)}
    assert arms == {"challenger" if weight else "champion"}
