"""What is read: 200 features of a card over five windows, and as many cards as make the state several times the cache.

State is written as a stream task writes it (keys, framed blocks, Progress), from a few block bodies used again for many
cards: what a card's blocks hold does not matter to how long reading takes, that they are its own keys and bytes does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import fastavro
import numpy as np

from headrace.chassis.bus import TopicPartition
from headrace.chassis.state import RocksStore
from headrace.chassis.view import StateView
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.partition import partition_for
from headrace.contracts.records import Progress, SourceCut
from headrace.plan.blocks import record_of
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, Feature, FeatureSet, Field, Measure, Plan, SlotKind, Term
from headrace.plan.lower import terms_of
from headrace.plan.slots import NEWEST, layout_of
from headrace.plan.tiles import BLOCK_TILES, Block, BlockKey, encode_key
from headrace.plan.topics import state_topic

MIN, HOUR = 60_000, 3_600_000
DAY = 24 * HOUR
NOW = 1_800_000_000_000 // DAY * DAY + 13 * HOUR + 7 * MIN  # the newest event
WINDOWS = ((HOUR, 5 * MIN), (6 * HOUR, 30 * MIN), (DAY, HOUR), (7 * DAY, 6 * HOUR), (30 * DAY, DAY))
VALUES = tuple(f"v{i}" for i in range(8))
KINDS = ("count", "sum", "mean", "min", "max")
SLOTS: tuple[SlotKind, ...] = ("nonnull", "sum", "min", "max")
BODIES = 64  # distinct block bodies per level
BATCH_PAIRS = 4_000
TOLD_CARDS = 25_000

PAYMENTS = EventType(
    name="payments", record="Paid", topic="bench.payments.v1", key="card", time="paid_at",
    fields=(
        Field("card", "string"), Field("paid_at", "timestamp"),
        *(Field(v, "long", nullable=True, minimum=-1_000_000, maximum=1_000_000) for v in VALUES),
    ),
    lateness_ms=HOUR, poison_bound_ms=MIN, partitions=2,
)  # fmt: skip
CARDS = FeatureSet(
    name="card_activity", entity=("card",), events=("payments",),
    measures=tuple(Measure(f"m{i}", "payments", v, None, SLOTS) for i, v in enumerate(VALUES)),
    features=tuple(
        Feature(f"{v}_{kind}_{window // HOUR}h", (Term(f"m{i}", kind, window, hop),))
        for i, v in enumerate(VALUES) for kind in KINDS for window, hop in WINDOWS
    ),
    ttl_ms=40 * DAY, stale_after_ms=HOUR, partitions=2,
)  # fmt: skip
PLAN = sealed(Plan("bench", "ops", (PAYMENTS,), (), (CARDS,), ()))
SET = PLAN.feature_sets[0]
TOPIC = state_topic(PLAN, SET)
assert len(terms_of(SET)) == 200


def card(number: int) -> str:
    return f"card-{number:08d}"


@dataclass(frozen=True, slots=True)
class Body:
    """One block without its card: its place, its content, and its Avro bytes behind the card's name."""

    hop_ms: int
    index: int
    block: Block
    tail: bytes


def bodies(codec: Codec, seed: int = 1) -> list[list[list[Body]]]:
    """By level, by block of the widest window, BODIES variants. One tile in four is empty, as cards are."""
    rng = np.random.default_rng(seed)
    layout = layout_of(SET, "payments")
    out: list[list[list[Body]]] = []
    for window, hop in WINDOWS:
        first, last = (NOW - window) // (hop * BLOCK_TILES), NOW // (hop * BLOCK_TILES)
        level: list[list[Body]] = []
        for index in range(first, last + 1):
            starts = np.arange(index * BLOCK_TILES, (index + 1) * BLOCK_TILES) * hop
            starts = starts[starts <= NOW]
            level.append([_body(codec, rng, layout.width, hop, index, starts) for _ in range(BODIES)])
        out.append(level)
    return out


def _body(codec: Codec, rng: np.random.Generator, width: int, hop: int, index: int, starts: np.ndarray) -> Body:
    held = rng.random(len(starts)) < 0.75
    held[-1] = True  # a block without tiles does not exist
    starts = starts[held]
    slots = np.zeros((len(starts), width), np.int64)
    slots[:, NEWEST] = np.minimum(starts + rng.integers(0, hop, len(starts)), NOW)
    layout = layout_of(SET, "payments")
    for places in layout.of.values():
        count = rng.integers(0, 6, len(starts))
        low = rng.integers(-500_000, 500_000, len(starts))
        high = low + rng.integers(0, 100_000, len(starts))
        slots[:, places["nonnull"]] = count
        slots[:, places["min"]] = np.where(count > 0, low, 0)
        slots[:, places["max"]] = np.where(count > 0, high, 0)
        slots[:, places["sum"]] = count * (low + high) // 2
    block = Block(starts, slots)
    whole = codec.encode(TOPIC, record_of(BlockKey("", "payments", hop, index), block))
    head = 5 + len(_text(""))  # the frame, then the empty card
    return Body(hop, index, block, whole[head:])


def _text(value: str) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "string", value)
    return out.getvalue()


def blocks_of(parts: list[list[list[Body]]], number: int) -> list[Body]:
    """The blocks of a card: which variant is a function of card and place."""
    return [
        variants[(number * 31 + level * 7 + at) % BODIES]
        for level, blocks in enumerate(parts)
        for at, variants in enumerate(blocks)
    ]


def pairs(codec: Codec, parts: list[list[list[Body]]], number: int) -> Iterator[tuple[bytes, bytes]]:
    """State keys and values of a card."""
    sample = codec.encode(
        TOPIC, record_of(BlockKey("", "payments", 1, 0), Block(np.empty(0, np.int64), np.empty((0, 1), np.int64)))
    )
    name = _text(card(number))
    for body in blocks_of(parts, number):
        yield encode_key(SET, BlockKey(card(number), "payments", body.hop_ms, body.index)), sample[:5] + name + body.tail


def views(folder: Path, codec: Codec) -> list[StateView]:
    """The views on a folder, live, without anything to follow."""
    out: list[StateView] = []
    for partition in range(SET.partitions):
        view = StateView(
            TopicPartition(TOPIC, partition), RocksStore(folder / str(partition)), lambda raw: codec.decode(raw, Progress)
        )
        view.resume()
        out.append(view)
    _OPEN[folder] = out
    return out


_OPEN: dict[Path, list[StateView]] = {}


def views_once(folder: Path) -> list[StateView]:
    """The views this process has open on a folder: a store can be opened once."""
    return _OPEN.get(folder) or views(folder, codec_of())


def fill(folder: Path, cards: int, tell: Callable[[int], object] = lambda _: None) -> int:
    """Write the state of so many cards; returns bytes of keys and values. tell: hears now and then how many are done."""
    codec, size = codec_of(), 0
    parts, stores = bodies(codec), views(folder, codec)
    waiting: list[dict[bytes, bytes]] = [{} for _ in stores]
    for number in range(cards):
        home = partition_for(card(number), SET.partitions)
        found = dict(pairs(codec, parts, number))
        size += sum(len(k) + len(v) for k, v in found.items())
        waiting[home].update(found)
        if number and number % TOLD_CARDS == 0:
            tell(number)
        if len(waiting[home]) >= BATCH_PAIRS:
            stores[home].store.write(waiting[home])
            waiting[home] = {}
    for partition, (view, rest) in enumerate(zip(stores, waiting, strict=True)):
        view.write(rest, [], codec.encode(TOPIC, replace(PROGRESS, partition=partition)), 1)
        view.store.close()
    return size


def codec_of() -> Codec:
    """Schema ids are those of the order of first use: the same in every process that uses this."""
    codec = Codec(MemoryRegistry())
    codec.encode(TOPIC, record_of(BlockKey("", "payments", 1, 0), Block(np.empty(0, np.int64), np.empty((0, 1), np.int64))))
    codec.encode(TOPIC, PROGRESS)
    return codec


PROGRESS = Progress(
    set_hash=SET.hash, partition=0, commit_sequence=1, partials_offset=1, base_digest="empty", base_floor_ms=None,
    traceparents=(),
    cut=tuple(
        SourceCut(event="payments", topic_id="t", partition=p, next_offset=1_000, maximum_ms=NOW, watermark_ms=NOW - HOUR)
        for p in range(PAYMENTS.partitions)
    ),
)  # fmt: skip


def expected(parts: list[list[list[Body]]], number: int) -> dict[str, float | None]:
    """What a card's features are at NOW, by walking its tiles in plain Python."""
    out: dict[str, float | None] = {}
    layout = layout_of(SET, "payments")
    held = blocks_of(parts, number)
    for feature in SET.features:
        (term,) = feature.terms
        places: Mapping[str, int] = layout.of[term.measure]  # type: ignore[assignment]
        tiles = [
            row
            for body in held if body.hop_ms == term.hop_ms
            for start, row in zip(body.block.starts_ms.tolist(), body.block.slots.tolist(), strict=True)
            if (NOW - term.window_ms) // term.hop_ms * term.hop_ms <= start <= NOW
        ]  # fmt: skip
        count = sum(row[places["nonnull"]] for row in tiles)
        some = [row for row in tiles if row[places["nonnull"]]]
        total = sum(row[places["sum"]] for row in some)
        out[feature.name] = _lowered(term.kind, count, total, [(row[places["min"]], row[places["max"]]) for row in some])
    return out


def _lowered(kind: str, count: int, total: int, extremes: list[tuple[int, int]]) -> float | None:
    if kind == "count":
        return float(count)
    if not count:
        return None
    if kind in ("min", "max"):
        return float(min(low for low, _ in extremes) if kind == "min" else max(high for _, high in extremes))
    return total / count if kind == "mean" else float(total)
