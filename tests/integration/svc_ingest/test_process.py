"""The process on a real broker: what it takes, what a kill costs, what a foreign producer and the dead-letter tool see."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.dlq import app as dlq
from headrace.client.ingest import Receipt
from headrace.client.producer import publish
from headrace.contracts.catalogue import PLAN_ACKS
from headrace.contracts.records import PlanAcknowledged
from integration.svc_ingest.process import IngestProcess, own_plan
from unit.svc_ingest.rig import HOUR_MS, NOW_MS, departure, lines

HEADER = "Flight,origin,Off block,dep_delay,gust,hour,ratio,diverted\n"


@pytest.fixture
def ingest(tmp_path: Path, kafka: str, registry_url: str) -> Iterator[IngestProcess]:
    process = IngestProcess(tmp_path, kafka, registry_url, own_plan())
    try:
        yield process
    finally:
        process.close()


def test_a_running_process_takes_up_a_plan_and_both_its_doors_work(ingest: IngestProcess) -> None:
    ingest.start()
    ingest.admit()
    ingest.await_open()
    pipeline = ingest.plan.pipeline
    with ingest.client() as client:
        first = client.send(pipeline, "departures", [departure(n) for n in range(200)])
        again = client.send(pipeline, "departures", [departure(n) for n in range(200)])
    assert (first.accepted, first.duplicates, again.accepted, again.duplicates) == (200, 0, 0, 200)
    folder = ingest.drop / pipeline / "departure-files"
    (folder / "june.part").write_text(HEADER + "".join(f"UA-{n},EWR,2013-01-01T05:17:00Z,,,,,\n" for n in range(500, 520)))
    (folder / "june.part").rename(folder / "june.csv")
    _eventually((folder / "done" / "june.csv").exists)
    assert ingest.ids() == {f"UA-{n}": 1 for n in (*range(200), *range(500, 520))}
    acks = [ingest.codec.decode(record.value, PlanAcknowledged) for record in ingest.records(PLAN_ACKS)]
    assert [(ack.service, ack.status.value) for ack in acks if ack.pipeline == pipeline] == [("svc-ingest", "APPLIED")]
    assert ingest.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_any_moment_lose_nothing_and_write_nothing_twice(ingest: IngestProcess, seed: int) -> None:
    """A sender keeps one batch in flight and repeats it until it hears a receipt; the process is killed -9 four times at
    seeded moments; the topic must hold each event, and the dead-letter topic each bad row, once."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    ingest.admit()
    ingest.start()
    ingest.await_open()
    batches = [lines(*(departure(500 * b + n) for n in range(500)), b"{broken %d" % b) for b in range(60)]
    receipts: list[Receipt] = []

    def send() -> None:
        with ingest.client() as client:
            for body in batches:
                receipts.append(client.send(ingest.plan.pipeline, "departures", body))

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(4):
        target = len(receipts) + rng.randrange(1, 10)
        _eventually(lambda target=target: len(receipts) >= min(target, len(batches)))
        time.sleep(rng.random() * 0.02)
        ingest.kill()
        ingest.start()
    sender.join(120)
    assert len(receipts) == len(batches)
    assert ingest.ids() == {f"UA-{n}": 1 for n in range(500 * 60)}
    letters = [letter.origin_id for letter in ingest.letters()]
    assert len(letters) == len(set(letters)) == 60


def test_a_foreign_producer_publishes_into_the_same_topic(ingest: IngestProcess, kafka: str, registry_url: str) -> None:
    ingest.admit()
    ingest.start()
    ingest.await_open()
    topic = ingest.plan.events[0].topic
    none = dict.fromkeys(("dep_delay", "gust", "hour", "ratio", "diverted"))
    rows = [{"flight_id": f"DL-{n}", "origin": "JFK", "departed_at": NOW_MS + n, **none} for n in range(20)]
    assert publish(kafka, registry_url, topic, "flight_id", rows, id_field="flight_id") == 20
    with ingest.client() as client:
        client.send(ingest.plan.pipeline, "departures", [departure(n, flight_id=f"DL-{n}") for n in range(20, 40)])
    assert ingest.ids() == {f"DL-{n}": 1 for n in range(40)}
    by_partition = {(record.key, record.partition) for record in ingest.records(topic)}
    assert len(by_partition) == 40


def test_dead_letters_are_listed_shown_and_sent_again(ingest: IngestProcess, kafka: str, registry_url: str) -> None:
    ingest.admit()
    ingest.start()
    ingest.await_open()
    soon = int(time.time() * 1000) + 24 * HOUR_MS + 1500  # a second and a half too far ahead, for now
    with ingest.client() as client:
        client.send(ingest.plan.pipeline, "departures", lines(departure(0), departure(1, departed_at=soon), b"{broken"))
    topic, places = f"{ingest.plan.events[0].topic}.svc-ingest.dlq", ["--bootstrap", kafka, "--registry", registry_url]
    listed = CliRunner().invoke(dlq, ["list", *places, "--pipeline", ingest.plan.pipeline], env={"COLUMNS": "200"})
    assert listed.exit_code == 0, listed.output
    assert "far_future" in listed.output
    assert "broken_json" in listed.output
    shown = CliRunner().invoke(dlq, ["show", topic, *places, "--reason", "broken_json"])
    assert "{broken" in shown.output
    _shown_whole(shown.output, places)
    _eventually(lambda: time.time() * 1000 > soon - 24 * HOUR_MS)
    again = CliRunner().invoke(dlq, ["replay", topic, *places, "--ingest", ingest.url], env={"COLUMNS": "200"})
    assert "2 letters: 1 accepted, 0 known already, 1 rejected again" in again.output, again.output
    assert ingest.ids() == {"UA-0": 1, "UA-1": 1}


def _shown_whole(listing: str, places: list[str]) -> None:
    """The position a listing names opens that letter; so does its origin id; a position where nothing lies is told."""
    position = listing.split(" at ", 1)[1].split(" ", 1)[0]
    whole = CliRunner().invoke(dlq, ["show", position, *places], env={"COLUMNS": "200"})
    assert whole.exit_code == 0, whole.output
    for words in ("broken_json", position, "7b 62 72 6f 6b 65 6e", "neither a JSON object", "what to do", "dlq replay"):
        assert words in whole.output, whole.output
    origin = listing.split("; origin ", 1)[1].split(maxsplit=1)[0]
    assert CliRunner().invoke(dlq, ["show", origin, *places], env={"COLUMNS": "200"}).output == whole.output
    nothing = CliRunner().invoke(dlq, ["show", f"{position.rpartition('/')[0]}/99", *places])
    assert nothing.exit_code == 1


def test_an_unknown_setting_is_refused_at_start(ingest: IngestProcess) -> None:
    ingest._env["HEADRACE_DROP_DIRECTORY"] = "x"
    ingest.start()
    assert ingest._process is not None
    assert ingest._process.wait(30) == 2
    assert "did you mean HEADRACE_DROP_DIR?" in ingest.log.read_text()


def _eventually(holds, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
