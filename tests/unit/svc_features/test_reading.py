"""Reading over HTTP: the values of the law at any keys and times, and refusals that say what to do."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pytest

from headrace.chassis.view import PROGRESS_KEY
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.signing import token
from headrace.plan.oracle import Oracle
from headrace.plan.tiles import entity_of
from support.law_worlds import HOUR, make_world
from svc_features.domain.answers import STATUS_NAMES
from svc_features.read_door import ARROW
from svc_features.reading import BlockCache, NotLive
from unit.svc_features.reading_rig import NOW, Desk, desk_of, reader_of, some_keys, state_of
from unit.svc_features.worlds import EVENTS, PIPELINE, PLAN, SETS

PATH = f"/v1/{PIPELINE}/features"


def bits(values: list[float | None]) -> list[str | None]:
    return [None if v is None or math.isnan(v) else float(v).hex() for v in values]


@pytest.mark.parametrize("seed", range(4))
async def test_every_value_and_status_read_is_the_oracles_under_the_cut_the_answer_names(tmp_path: Path, seed: int) -> None:
    """Goal: many keys, many sets, a time per key, parts of the log. Method: the naive oracle answers under the cut told."""
    rng = random.Random(seed)
    world = make_world(seed)
    states = [state_of(world, s, rng.random()) for s in SETS]
    desk = Desk(tmp_path, states)
    oracle = Oracle(list(EVENTS.values()), list(world.log))
    keys = some_keys(rng, 12)
    times = [world.start_ms + rng.randint(0, world.span_ms + HOUR) for _ in keys]
    async with desk.caller() as http:
        page = (await http.post(PATH, json={"keys": keys, "sets": [s.name for s in SETS], "t_ms": times})).json()
    assert page["t_ms"] == times and page["plan_hash"] == PLAN.hash
    for feature_set in SETS:
        told = page["sets"][feature_set.name]
        assert told["features"] == [f.name for f in feature_set.features]
        for row, (key, t) in enumerate(zip(keys, times, strict=True)):
            cut = told["cuts"][str(told["partitions"][row])]["cut"]
            under = {(c["event"], c["partition"]): c["next_offset"] for c in cut}
            values, statuses = oracle.answer(feature_set, entity_of(feature_set, key) or "", t, under, None)
            assert bits(told["values"][row]) == bits(values)
            assert told["statuses"][row] == [STATUS_NAMES[s] for s in statuses]


async def test_arrow_holds_the_same_bits_as_json(tmp_path: Path) -> None:
    desk = desk_of(make_world(2), tmp_path)
    asked = {"keys": some_keys(random.Random(2), 9)}
    async with desk.caller() as http:
        page = (await http.post(PATH, json=asked)).json()
        body = (await http.post(PATH, json=asked, headers={"accept": ARROW})).content
    table = pa.ipc.open_stream(body).read_all()
    for name, told in page["sets"].items():
        for at, feature in enumerate(told["features"]):
            assert bits(table[f"{name}.{feature}"].to_pylist()) == bits([row[at] for row in told["values"]])
            named = [STATUS_NAMES[s] for s in table[f"{name}.{feature}.status"].to_pylist()]
            assert named == [row[at] for row in told["statuses"]]
    assert table["t_ms"].to_pylist() == page["t_ms"]
    assert table["gate"].to_pylist() == [key["gate"] for key in page["keys"]]
    about = orjson.loads(table.schema.metadata[b"headrace"])
    assert {name: s["cuts"] for name, s in about["sets"].items()} == {n: s["cuts"] for n, s in page["sets"].items()}


async def test_a_key_in_the_address_reads_the_same_and_features_can_be_picked(tmp_path: Path) -> None:
    desk = desk_of(make_world(3), tmp_path)
    async with desk.caller() as http:
        by_address = (await http.get(f"{PATH}/gate_load", params={"origin": "EWR", "gate": 1})).json()
        by_body = (await http.post(PATH, json={"keys": [{"origin": "EWR", "gate": 1}], "sets": ["gate_load"]})).json()
        picked = (
            await http.post(PATH, json={"keys": [{"origin": "EWR", "gate": 1}], "sets": {"gate_load": ["delay_last"]}})
        ).json()
    assert by_address == by_body
    one, whole = picked["sets"]["gate_load"], by_body["sets"]["gate_load"]
    assert (one["features"], one["values"][0]) == (["delay_last"], whole["values"][0][1:])


async def test_newest_is_the_newest_event_time_under_the_cuts_and_now_is_the_clock(tmp_path: Path) -> None:
    world = make_world(5)
    desk = desk_of(world, tmp_path)
    key = {"keys": [{"origin": "EWR"}], "sets": ["origin_load"]}
    async with desk.caller() as http:
        newest = (await http.post(PATH, json=key)).json()
        now = (await http.post(PATH, json=key | {"t_ms": "now"})).json()
    cuts = [c for cut in newest["sets"]["origin_load"]["cuts"].values() for c in cut["cut"]]
    assert newest["t_ms"] == [max(c["maximum_ms"] for c in cuts if c["maximum_ms"] is not None)]
    assert now["t_ms"] == [NOW]


GOOD = {"keys": [{"origin": "EWR"}]}
REFUSED: list[tuple[str, object, int, str]] = [
    ("no JSON", b"{", 400, "not JSON"),
    ("a list", b"[]", 400, "object"),
    ("no keys", {}, 422, "keys"),
    ("no list of keys", {"keys": {"origin": "EWR"}}, 422, "list of objects"),
    ("a key that is no object", {"keys": ["EWR"]}, 422, "no object"),
    ("too many keys", {"keys": [{"origin": "EWR"}] * 21}, 413, "at most 20"),
    ("an unknown name", GOOD | {"time": 1}, 422, "t_ms"),
    ("an unknown set", GOOD | {"sets": ["other"]}, 404, "origin_load"),
    ("an unknown feature", GOOD | {"sets": {"origin_load": ["other"]}}, 404, "departures_1h"),
    ("no sets", GOOD | {"sets": []}, 422, "leave"),
    ("sets as text", GOOD | {"sets": "origin_load"}, 422, "list of names"),
    ("features as text", GOOD | {"sets": {"origin_load": "gust"}}, 422, "list of names"),
    ("a key without its field", GOOD | {"sets": ["gate_load"]}, 422, "gate"),
    ("a field of another type", {"keys": [{"origin": "EWR", "gate": "B4"}]}, 422, "gate is a long"),
    ("a float where an integer stands", {"keys": [{"origin": "EWR", "gate": 1.0}]}, 422, "gate is a long"),
    ("a null", {"keys": [{"origin": None}]}, 422, "origin"),
    ("a field no set has", {"keys": [{"origin": "EWR", "colour": "red"}]}, 422, "colour"),
    ("keys no set has", {"keys": [{"colour": "red"}]}, 422, "entities by set"),
    ("a time as text", GOOD | {"t_ms": "yesterday"}, 422, "newest"),
    ("a time that is true", GOOD | {"t_ms": True}, 422, "newest"),
    ("times for other keys", GOOD | {"t_ms": [1, 2]}, 422, "one per key"),
    ("a time beyond all time", GOOD | {"t_ms": 1 << 60}, 422, "ms UTC"),
    ("a long body", b" " * 5_000, 413, "split"),
]


@pytest.mark.parametrize(("body", "status", "says"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
async def test_a_refusal_says_what_to_do(body: Any, status: int, says: str, tmp_path: Path) -> None:
    desk = desk_of(make_world(1, 20), tmp_path, read_keys_max=20, read_body_bytes_max=4_096)
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    async with desk.caller() as http:
        answer = await http.post(PATH, content=content)
    assert answer.status_code == status and says in answer.text, answer.text
    assert set(answer.json()) == {"error", "hint"}


async def test_without_a_token_of_a_trusted_key_nothing_is_told(tmp_path: Path) -> None:
    """No header, another audience, a key removed after its token was accepted: 401 each."""
    desk = desk_of(make_world(1, 20), tmp_path)
    bearer = desk.bearer()
    other = {"authorization": f"Bearer {token(desk.private, 'ada', 60, 'svc-governance')}"}

    async def ask(http: httpx.AsyncClient, headers: dict[str, str]) -> int:
        return (await http.post(PATH, json=GOOD, headers=headers)).status_code

    async with desk.caller(bearer=False) as http:
        assert [await ask(http, h) for h in ({}, other, {"authorization": "ada"}, bearer, bearer)] == [401, 401, 401, 200, 200]
        assert (await http.get(PATH)).status_code == 401
        (tmp_path / "keys" / "ada.pub").unlink()
        assert await ask(http, bearer) == 401


async def test_a_view_that_is_not_live_answers_nothing(tmp_path: Path) -> None:
    desk = desk_of(make_world(1, 20), tmp_path)
    desk.readers["origin_load"].views[0].live = False
    async with desk.caller() as http:
        answer = await http.post(PATH, json=GOOD)
        page = (await http.get(PATH)).json()
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert (page["sets"]["origin_load"]["live"], page["sets"]["gate_load"]["live"]) == (False, True)
    with pytest.raises(NotLive):
        desk.readers["origin_load"].read(["EWR"], [0])


async def test_a_large_answer_equals_the_small_ones_it_is_made_of(tmp_path: Path) -> None:
    """Answers above the inline bound are read in a thread."""
    desk = desk_of(make_world(7), tmp_path, read_keys_max=5_000)
    keys = [{"origin": o, "gate": g} for o in ("EWR", "JFK") for g in range(1_000)]
    async with desk.caller() as http:
        whole = (await http.post(PATH, json={"keys": keys})).json()
        part = (await http.post(PATH, json={"keys": keys[:5], "t_ms": whole["t_ms"][:5]})).json()
    for name, told in part["sets"].items():
        assert told["values"] == whole["sets"][name]["values"][:5]


async def test_the_api_describes_itself(tmp_path: Path) -> None:
    desk = desk_of(make_world(1, 20), tmp_path)
    async with desk.caller() as http:
        api = (await http.get("/openapi.json")).json()
    read = api["paths"]["/v1/{pipeline}/features"]["post"]
    assert ARROW in read["responses"]["200"]["content"]
    assert read["requestBody"]["content"]["application/json"]["schema"]["required"] == ["keys"]


def test_the_cache_gives_a_block_back_only_for_the_bytes_it_was_made_of() -> None:
    """And stays within its bound: one generation is let go when the next is full."""
    desk = state_of(make_world(1), SETS[0])
    blocks = list(desk.blocks.values())
    cache = BlockCache(bytes_max=40_000)
    for number, block in enumerate(blocks * 3):
        cache.put(b"%d" % number, b"raw", block)
        assert cache.get(b"%d" % number, b"raw") is block
        assert cache.get(b"%d" % number, b"other") is None
    held = [n for n in range(len(blocks) * 3) if cache.get(b"%d" % n, b"raw") is not None]
    assert 0 < len(held) < len(blocks) * 3
    assert sum(blocks[n % len(blocks)].slots.nbytes for n in held) < 40_000


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_of_an_entity_is_forgotten_when_its_blocks_change(seed: int) -> None:
    """Goal: a read after a write sees the write. Method: the state grows by steps; between them the same keys are read by a
    reader that has kept what it read and by a new one."""
    rng = random.Random(seed)
    world = make_world(seed)
    codec = Codec(MemoryRegistry())
    kept = [reader_of(state_of(world, s, 0.2), codec) for s in SETS]
    changed = 0
    times = [world.start_ms + h * HOUR for h in (12, 30, 48)]
    for share in (0.2, 0.5, 0.7, 1.0):
        for reader, feature_set in zip(kept, SETS, strict=True):
            fresh = reader_of(state_of(world, feature_set, share), codec)
            for mine, new in zip(reader.views, fresh.views, strict=True):
                puts = {k: v for k, v in new.store.range(b"\x01") if mine.store.get(k) != v}
                gone = [k for k, _ in mine.store.range(b"\x01") if new.store.get(k) is None]
                changed += len(puts)
                mine.write(puts, gone, new.store.get(PROGRESS_KEY) or b"", 2)
            for _ in range(2):
                entities = ["\x1f".join(str(key[f]) for f in feature_set.entity) for key in some_keys(rng, 8)]
                asked = [rng.choice(times) for _ in entities]
                one, other = reader.read(entities, asked).rows, fresh.read(entities, asked).rows
                assert one.values.tobytes() == other.values.tobytes()
                assert one.statuses.tobytes() == other.statuses.tobytes()
    assert changed > 20
