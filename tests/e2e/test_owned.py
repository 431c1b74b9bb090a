"""The payments pipeline through all seven services: payments scored from what their card's owner read at their own rows.

svc-stream is killed -9 while payments flow, with rows answered and not yet committed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.client.producer import publish
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.records import DecisionSource, Door, PredictionMade, SetRead
from headrace.declare import compile, load
from headrace.plan.topics import predictions_topic
from headrace_demo.evidence import count_archived
from headrace_demo.waiting import until
from headrace_local import Stack, clone_root

FOLDER = clone_root() / "schemas" / "pipelines" / "payments"
PLAN = compile(load(FOLDER))
PAYMENTS, LOGINS = "payments.payments.v1", "payments.logins.v1"
ROUNDS, ROUND_ROWS, CARDS = 12, 50, 20
KILLED_AFTER = 6  # rounds
IN_TIME, CALLS_MAX = 5, 40
DECIDED_S_MAX = 90.0
ARCHIVED_S_MAX = 90.0


def command(stack: Stack, *arguments: str, timeout_s: float = 180.0) -> str:
    """What `headrace ...` printed."""
    env = dict(os.environ, COLUMNS="140", PYTHONPATH=os.pathsep.join(p for p in sys.path if p)) | stack.client_env()
    done = subprocess.run(
        [sys.executable, "-m", "headrace.cli.main", *arguments], check=False, capture_output=True, text=True,
        timeout=timeout_s, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Played:
    """payments: by id, as they were sent, in order. called: those asked over REST, with their replies."""

    stack: Stack
    payments: dict[str, dict[str, Any]]
    called: dict[str, dict[str, Any]]
    passports: list[PredictionMade]


def payment(number: int, card: str) -> dict[str, Any]:
    now_ms = int(time.time() * 1000)
    return {"payment_id": f"p{number}", "card": card, "merchant": f"m{number % 7}", "amount": 100 + number % 90,
            "abroad": number % 5 == 0, "paid_at": now_ms}  # fmt: skip


@pytest.fixture(scope="module")
def played(platform: Stack) -> Played:
    key: Path = platform.layout.keys / "private" / "ada.pem"
    url = platform.url("svc-governance")
    command(platform, "apply", str(FOLDER), "--as", "ada", "--key", str(key), "--url", url, "--wait", "90")
    where = (platform.bootstrap, platform.registry_url)
    sent: dict[str, dict[str, Any]] = {}
    for round_ in range(ROUNDS):
        logins = [{"login_id": f"l{round_}-{n}", "card": f"c{n % CARDS}", "failed": n % 3 == 0, "at": int(time.time() * 1000)}
                  for n in range(20)]  # fmt: skip
        # Half of a round is one card's burst: its rows come in one batch, and each must count those before it.
        rows = [payment(len(sent) + n, f"c{round_ % CARDS}" if n % 2 else f"c{n % CARDS}") for n in range(ROUND_ROWS)]
        publish(*where, LOGINS, "card", logins, id_field="login_id")
        publish(*where, PAYMENTS, "card", rows, id_field="payment_id")
        sent |= {row["payment_id"]: row for row in rows}
        if round_ == KILLED_AFTER:
            platform.kill("svc-stream")
    platform.wait_ready()
    passports(platform, set(sent))  # the owner is back
    called: dict[str, dict[str, Any]] = {}
    in_time = 0
    while in_time < IN_TIME and len(called) < CALLS_MAX:  # a busy machine may miss a deadline: then the rules' default answers
        row = payment(len(called), "caller") | {"payment_id": f"called{len(called)}"}
        reply = httpx.post(platform.url("svc-serve") + "/v1/payments/fraud/decisions", json=row, trust_env=False, timeout=20)
        assert reply.status_code == 200, reply.text
        called[row["payment_id"]] = row | {"reply": reply.json()}
        in_time += reply.json()["source"] == "rules"
    return Played(platform, sent, called, passports(platform, {*sent, *called}))


def passports(stack: Stack, wanted: set[str]) -> list[PredictionMade]:
    """All passports, once every wanted request has one and a little while nothing more came."""
    bus, codec = ConfluentBus(stack.bootstrap), Codec(ConfluentRegistry(stack.registry_url))
    topic = predictions_topic("payments")
    consumer, found = bus.consumer(None, "e2e.passports"), list[PredictionMade]()
    consumer.assign({TopicPartition(topic, p): 0 for p in range(bus.admin().partitions(topic) or 0)})

    def read() -> bool:
        records = consumer.consume(500, 1.0)
        found.extend(codec.decode(r.value, PredictionMade) for r in records)
        return not records and wanted <= {p.request_id for p in found}

    until("a passport for every payment", read, DECIDED_S_MAX)
    consumer.close()
    return found


def owned(made: PredictionMade) -> SetRead:
    (read,) = (s for s in made.sets if s.placement == "owned")
    return read


def _position(feature: str) -> int:
    feature_set = next(s for s in PLAN.feature_sets if s.placement == "owned")
    return [f.name for f in feature_set.features].index(feature)


def test_every_payment_has_one_passport_though_the_owner_died_on_the_way(played: Played) -> None:
    counts = Counter(made.request_id for made in played.passports)
    assert counts == Counter([*played.payments, *played.called])
    of_events = {made.decision_source for made in played.passports if made.door is Door.EVENT}
    assert of_events == {DecisionSource.RULES}, "there is no model yet"


def test_each_payment_counts_all_payments_of_its_card_before_it_in_the_log_and_none_after(played: Played) -> None:
    """Goal: the prefix of the batch is seen, nothing is lost or counted twice by the death. Method: counted by hand."""
    count_1d = _position("paid_1d")
    by_card: dict[str, list[tuple[int, PredictionMade]]] = defaultdict(list)
    for made in played.passports:
        if made.door is Door.REST:
            continue
        assert made.event_id is not None
        topic, partition, offset = made.event_id.rsplit("-", 2)
        read = owned(made)
        assert (topic, read.partition) == (PAYMENTS, int(partition))
        assert {c.next_offset for c in read.cut if c.event == "payments"} == {int(offset)}, "the cut ends at the row itself"
        by_card[read.entity or ""].append((int(offset), made))
    for card, rows in by_card.items():
        rows.sort(key=lambda row: row[0])
        assert [owned(made).values[count_1d] for _, made in rows] == [float(n) for n in range(len(rows))], card


def test_a_call_is_answered_by_the_owner_and_its_payment_counts_like_any_other(played: Played) -> None:
    """Whoever was late is told apart: no read of the owned set, the default. The payments of all of them count."""
    count_1d, in_time = _position("paid_1d"), 0
    made = {p.request_id: p for p in played.passports}
    for earlier, (request_id, row) in enumerate(played.called.items()):
        passport, reply = made[request_id], row["reply"]
        assert passport.door is Door.REST
        assert (reply["request_id"], reply["decision"]) == (request_id, passport.decision)
        if reply["source"] == "rules":
            in_time += 1
            assert (owned(passport).entity, owned(passport).values[count_1d]) == ("caller", float(earlier))
        else:
            assert (reply["source"], reply["reason"]) == ("default", "deadline,rule_input_missing")
            assert [s.placement for s in passport.sets] == ["replicated"]
    assert in_time == IN_TIME


def test_parity_recomputes_every_owned_value_from_the_archive(played: Played) -> None:
    lake, every = played.stack.layout.lake, len(played.payments) + len(played.called)
    until("every passport in the archive", lambda: count_archived(lake, predictions_topic("payments")) >= every, ARCHIVED_S_MAX)
    page = json.loads(command(played.stack, "parity", str(FOLDER), "--lake", str(lake), "--wait", "90", "--json"))
    assert page["checked"] == every
    assert (page["bits_differing"], page["statuses_differing"], page["oracle_differing"], page["mismatches"]) == (0, 0, 0, [])
    assert page["oracle_checked"] > 0
    mine = [f for f in page["by_feature"] if f["set"] == "card_pace"]
    read = sum(s.placement == "owned" for p in played.passports for s in p.sets)
    assert len(mine) == 11 and {f["values"] for f in mine} == {read} and read >= len(played.payments) + IN_TIME
