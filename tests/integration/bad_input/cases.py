"""The table: every kind of bad input, the door it comes through, how it is done, and the answer it must get.

`do` sends and returns how to see the answer, so that everything is sent before the first answer is waited for. Answers are
short texts, the same for the same thing:

    200, dead letter REASON     a row: the batch is taken, this row is in the dead-letter topic with its own bytes
    dead letter REASON          a record: one letter with its own key and bytes
    late                        a record: one late record with its own key and bytes
    413                         HTTP says no, and nothing is written
    refused REASON              a control record: a finding of every service that follows the topic
    rollout REFUSED             a control record: svc-serve's answer on its topic; PENDING while what it names is not there
    taken                       bad, but in nothing that counts
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.contracts.catalogue import FINDINGS, MODEL_CANDIDATES, PIPELINES, ROLLOUTS, dlq_topic, late_topic
from headrace.contracts.events import EventSchema
from headrace.contracts.records import ArmServed, PipelineAdmitted, RecordRejected, SignedControl
from headrace.contracts.signing import sign_control
from headrace.contracts.wire import HEAD, frame, write_body
from headrace.plan.routing import sampled
from integration.bad_input.world import (
    DEPARTURES,
    FOLLOWERS,
    HOUR_MS,
    KEY,
    LEAVES_MS,
    MODEL,
    PIPELINE,
    SCHEDULED,
    STRANGER,
    Row,
    World,
    departure,
    eventually,
    parsed,
    scheduled,
)

See = Callable[[], str]
Do = Callable[[World], See]
Text = Callable[[World], str]

LARGEST_VALUE_BYTES = 1_048_000  # what still fits a broker's default message.max.bytes, 1,048,588, with key and frame
LINE_BYTES_KEPT = 900_000  # of a row too large
NO_TIME_MS = -(2**63)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    door: str
    kind: str
    do: Do
    answer: str


# ---------------------------------------------------------------- svc-ingest: HTTP and folder


def row(value: Row | bytes) -> Do:
    """One JSON line beside a good one of the same batch."""
    raw = value if isinstance(value, bytes) else orjson.dumps(value)

    def do(world: World) -> See:
        good = orjson.dumps(departure(f"good-beside-{zlib.crc32(raw)}", "GUD"))
        reply = world.post("svc-ingest", f"/v1/{PIPELINE}/flights-departures/records", raw + b"\n" + good)

        def see() -> str:
            if reply.status_code != 200 or reply.json()["accepted"] != 1:
                return f"{reply.status_code} {reply.text[:200]}"
            (told,) = reply.json()["rejected"]
            return f"200, {row_letter(world, DEPARTURES, raw, told['reason'])}"

        world.good_departures += 1
        return see

    return do


def row_letter(world: World, topic: str, raw: bytes, reason: str) -> str:
    """The one letter of svc-ingest that holds these bytes (or all of them that are kept)."""
    found: list[str] = []

    def seen() -> bool:
        letters = world.decoded(dlq_topic(topic, "svc-ingest"), RecordRejected)
        found[:] = [x.reason for x in letters if x.value == raw[:LINE_BYTES_KEPT]]
        return bool(found)

    eventually(seen, f"letter of {raw[:100]!r} in {topic}")
    return f"dead letter {reason}" if found == [reason] else f"letters {found}, told {reason}"


def ingest(body: bytes, path: str = f"/v1/{PIPELINE}/flights-departures/records", **headers: str) -> Do:
    return lambda world: status(world.post("svc-ingest", path, body, **headers))


def status(reply: httpx.Response) -> See:
    return lambda: str(reply.status_code)


def dropped(name: str, content: bytes, letter: bytes, moved: str) -> Do:
    """A file in the folder of the weather source."""

    def do(world: World) -> See:
        partial = world.drop / f"{name}.partial"
        partial.write_bytes(content)
        partial.rename(world.drop / f"{name}.csv")

        def see() -> str:
            eventually((world.drop / moved / f"{name}.csv").exists, f"{name}.csv in {moved}")
            return f"{moved}, {row_letter(world, f'{PIPELINE}.weather.v1', letter, 'broken_csv')}"

        return see

    return do


WEATHER = b"observation_id,origin,observed_at,temp,dewp,humid,wind_speed,wind_gust,precip,pressure,visib,wind_dir\n"
OBSERVED = b"EWR.bad," + STRANGER.encode() + b",2013-06-01T09:00:00Z,70.1,60,50,5,,0,1012.1,10,180"

INGEST: Sequence[tuple[str, Do, str]] = (
    ("broken JSON", row(b'{"flight_id": "bad", '), "200, dead letter broken_json"),
    ("not UTF-8", row(b'{"flight_id": "\xff\xfe"}'), "200, dead letter broken_json"),
    ("no object", row(b"[1, 2, 3]"), "200, dead letter wrong_type"),
    ("wrong type", row(departure("i-type", dep_delay="soon")), "200, dead letter wrong_type"),
    ("unknown field", row(departure("i-unknown", dep_dely=3)), "200, dead letter unknown_field"),
    ("missing field", row(b'{"flight_id": "i-missing"}'), "200, dead letter missing_field"),
    ("null key", row(departure("") | {"flight_id": None}), "200, dead letter null_key"),
    ("out of declared range", row(departure("i-range", dep_delay=10**9)), "200, dead letter out_of_range"),
    ("not a number", row(b'{"flight_id": "i-nan", "dep_delay": NaN}'), "200, dead letter not_finite"),
    ("far-future time", row(departure("i-future", departed_at="2126-01-01T00:00:00Z")), "200, dead letter far_future"),
    ("time no calendar has", row(departure("i-never", departed_at=NO_TIME_MS)), "200, dead letter out_of_range"),
    ("row too large for a message", row(departure("i-large", dest="x" * 950_000)), "200, dead letter too_large"),
    ("huge body", ingest(b"x" * (9 << 20)), "413"),
    ("gzip bomb", ingest(gzip.compress(b"\n" * (64 << 20), 9), content_encoding="gzip"), "413"),
    ("gzip that is none", ingest(b"{}", content_encoding="gzip"), "400"),
    ("empty body", ingest(b""), "400"),
    ("wrong content type", ingest(b"<a/>", content_type="application/xml"), "415"),
    ("unknown source", ingest(b"{}", f"/v1/{PIPELINE}/nothing/records"), "404"),
    ("unknown pipeline", ingest(b"{}", "/v1/nothing/flights-departures/records"), "404"),
)

FOLDER: Sequence[tuple[str, Do, str]] = (
    (
        "header that does not fit",
        dropped("header", b"observation_id,origin\n1,2\n", b"observation_id,origin\n1,2\n", "refused"),
        "refused, dead letter broken_csv",
    ),
    (
        "row with a cell too many",
        dropped("cells", WEATHER + OBSERVED + b",1\n", WEATHER + OBSERVED + b",1\n", "done"),
        "done, dead letter broken_csv",
    ),
    (
        "file that is not UTF-8",
        dropped("bytes", WEATHER + b"\xff" + OBSERVED + b"\n", WEATHER + b"\xff" + OBSERVED + b"\n", "done"),
        "done, dead letter broken_csv",
    ),
)


# ---------------------------------------------------------------- the log: records that are not ours

Value = Callable[[World], bytes | None]


def record(value: Value, key: bytes | None = b"bad", topic: str = DEPARTURES, service: str = "svc-stream") -> Do:
    """A record written past svc-ingest; its letter must hold key and bytes as they were."""

    def do(world: World) -> See:
        sent = value(world)
        at = world.produce(topic, sent, key, partition=0)
        world.sent.add((at.topic, at.partition, at.offset))

        def see() -> str:
            found = world.letter_of(at, (late_topic(PIPELINE), dlq_topic(topic, service)))
            if (found.value, found.key) != (sent, key):
                return f"{found.reason} with other bytes: {len(found.value or b'')} of {len(sent or b'')}, key {found.key!r}"
            return "late" if found.lateness_ms is not None else f"dead letter {found.reason}"

        return see

    return do


def wire(**other: int) -> Value:
    """A well-formed departure that holds something it must not."""
    return lambda world: world.framed("departures", departure("l-" + "-".join(other)) | other)


def body_of(body: bytes) -> Value:
    """The right schema id before something else."""
    return lambda world: world.framed("departures", departure("x"))[:HEAD] + body


def another_record(world: World) -> bytes:
    row = departure("l-other", arrived_at=LEAVES_MS, arr_delay=0)
    return world.framed("arrivals", {name: row[name] for name in row if name not in ("departed_at", "dep_delay")})


def nullable_key(world: World) -> bytes:
    """A producer whose own schema lets the key be null."""
    ours = world.schemas["departures"].avro
    fields = [f | {"type": ["null", "string"]} if f["name"] == "flight_id" else f for f in ours["fields"]]
    schema_id = world.registry.register("foreign-departures-value", ours | {"fields": fields})
    schema = EventSchema(DEPARTURES, ours | {"fields": fields}, "departed_at")
    return frame(schema_id, write_body(parsed(schema), departure("") | {"flight_id": None}))


def undecoded_header(world: World) -> See:
    """A good request whose trace context is no text: it is decided, without the trace."""
    flight_id = next(f"h-{n}" for n in range(100) if sampled("decisions", f"h-{n}", world.plan.models[0].sample_bp))
    headers = (("traceparent", b"00-\xff\xfe-01"), ("event-id", b"\xff"))
    world.produce(SCHEDULED, world.framed("scheduled", scheduled(flight_id)), flight_id.encode(), headers=headers)
    return lambda: f"taken, decided by {world.passport(flight_id).decision_source.value.lower()}"


def no_message_key(world: World) -> See:
    """The key declared is a field of the body: without a message key the event is the same event."""
    world.good_departures += 1
    before = world.good_departures
    at = world.produce(DEPARTURES, world.framed("departures", departure("no-key", "GUD")), None, partition=0)

    def see() -> str:
        eventually(lambda: world.accepted() >= before, f"{at} in the state")
        return "taken"

    return see


LOG: Sequence[tuple[str, Do, str]] = (
    ("no Confluent frame", record(lambda _: b'{"flight_id": "json"}'), "dead letter bad_frame"),
    ("empty value", record(lambda _: b""), "dead letter bad_frame"),
    ("null value", record(lambda _: None), "dead letter bad_frame"),
    ("null value and null key", record(lambda _: None, key=None), "dead letter bad_frame"),
    ("unknown schema id", record(lambda _: frame(999_999, b"body")), "dead letter unknown_schema"),
    ("largest schema id there can be", record(lambda _: frame(2**32 - 1, b"body")), "dead letter unknown_schema"),
    ("truncated Avro", record(lambda w: w.framed("departures", departure("l-cut"))[:-4]), "dead letter truncated"),
    ("bytes after the value", record(lambda w: w.framed("departures", departure("l-long")) + b"x"), "dead letter bad_frame"),
    (
        "body of random bytes",
        record(lambda w: w.framed("departures", departure("x"))[:HEAD] + b"\xff" * 64),
        "dead letter bad_frame",
    ),
    ("another record's schema", record(another_record), "dead letter wrong_type"),
    ("null key", record(nullable_key), "dead letter wrong_type"),
    ("out of declared range", record(wire(dep_delay=10**9)), "dead letter out_of_range"),
    ("far-future time", record(wire(departed_at=2**42)), "dead letter far_future"),
    ("time no calendar has", record(wire(departed_at=NO_TIME_MS)), "dead letter out_of_range"),
    ("late", record(wire(departed_at=LEAVES_MS - 3 * HOUR_MS)), "late"),
    ("largest record a broker takes", record(lambda _: os.urandom(LARGEST_VALUE_BYTES)), "dead letter bad_frame"),
    ("no message key", no_message_key, "taken"),
    (
        "request that is no record",
        record(lambda _: b"\x00garbage", topic=SCHEDULED, service="svc-serve"),
        "dead letter unknown_schema",
    ),
    ("headers that are no text", undecoded_header, "taken, decided by default"),
)


# ---------------------------------------------------------------- control topics


def control(
    value: Callable[[World], bytes | None],
    topic: str = ROLLOUTS,
    key: bytes = KEY.encode(),
    by: tuple[str, ...] = ("svc-serve",),
) -> Do:
    """Refused: a finding of each follower with one and the same reason."""

    def do(world: World) -> See:
        at = world.produce(topic, value(world), key)
        return lambda: "refused " + ", ".join(sorted({*world.refusals_of(at, by).values()}))

    return do


def plan(value: Value, key: bytes = PIPELINE.encode()) -> Do:
    """The same on the topic of plans, which every service follows."""
    return control(value, PIPELINES, key, FOLLOWERS)


def rollout(*arms: ArmServed) -> Do:
    """A rollout governance signed, that cannot be taken up."""

    def do(world: World) -> See:
        epoch = next(world.epochs)
        world.produce(ROLLOUTS, world.signed(world.rollout(epoch, *arms)), KEY.encode())
        return lambda: f"rollout {world.answer_to(epoch).status.value}"

    return do


def envelope(world: World, private: Ed25519PrivateKey, key_id: str, topic: str = ROLLOUTS, key: str = KEY) -> SignedControl:
    payload = world.codec.encode(ROLLOUTS, world.rollout(next(world.epochs)))
    return sign_control(private, key_id, topic, key, payload)


def by_a_stranger(key_id: str) -> Value:
    return lambda w: w.codec.encode(ROLLOUTS, envelope(w, Ed25519PrivateKey.generate(), key_id))


def for_another(**place: str) -> Value:
    """Signed by governance, but not for where it lies; it says so of itself, or claims this place."""
    return lambda w: w.codec.encode(
        ROLLOUTS, replace(envelope(w, w.key("svc-governance"), "svc-governance", **place), topic=ROLLOUTS, key=KEY)
    )


def one_byte_other(world: World) -> bytes:
    good = envelope(world, world.key("svc-governance"), "svc-governance")
    payload = bytearray(good.payload)
    payload[-1] ^= 1
    return world.codec.encode(ROLLOUTS, replace(good, payload=bytes(payload)))


def without_signature(world: World) -> bytes:
    good = envelope(world, world.key("svc-governance"), "svc-governance")
    return world.codec.encode(ROLLOUTS, replace(good, signature=b""))


def admitted(world: World, pipeline: str = PIPELINE, epoch: int = 0, plan: str = "{}") -> PipelineAdmitted:
    return PipelineAdmitted(
        pipeline=pipeline, epoch=epoch, plan_hash="0" * 64, plan=plan, admitted_by="ada", admitted_ms=LEAVES_MS
    )


def plan_of(signer: str, pipeline: str = PIPELINE, epoch: int = 0) -> Value:
    return lambda w: w.signed(admitted(w, pipeline, epoch), signer, PIPELINES, pipeline)


def plan_for_the_rollouts(world: World) -> bytes:
    payload = world.codec.encode(PIPELINES, admitted(world))
    signed = sign_control(world.key("svc-governance"), "svc-governance", ROLLOUTS, KEY, payload)
    return world.codec.encode(ROLLOUTS, signed)


def parked_plan(world: World) -> See:
    """Signed and in order, but no plan: that pipeline is parked, the others go on."""
    world.produce(PIPELINES, plan_of("svc-governance", "ghost", 1)(world), b"ghost")
    return lambda: ", ".join(sorted({f"ghost {a.status.value}" for a in world.plan_answers("ghost").values()}))


GONE = "0" * 64
CHAMPION = ArmServed(
    name="champion", weight=10_000, manifest_reference=f"00/{GONE}.json", manifest_digest=GONE, model_digest=GONE,
    signature=b"x" * 64, signature_key_id="svc-train", candidate_id="gone",
)  # fmt: skip

CONTROL: Sequence[tuple[str, Do, str]] = (
    ("unsigned rollout: random bytes", control(lambda _: b"\x01" + os.urandom(64)), "refused bad_frame"),
    ("unsigned rollout: no envelope", control(lambda w: w.codec.encode(PIPELINES, admitted(w))), "refused wrong_type"),
    ("rollout without a signature", control(without_signature), "refused unsigned"),
    ("rollout deleted", control(lambda _: None), "refused bad_frame"),
    ("rollout signed by an unknown principal", control(by_a_stranger("mallory")), "refused unsigned"),
    ("rollout signed by an unknown key", control(by_a_stranger("svc-governance")), "refused bad_signature"),
    ("rollout signed by svc-train", control(lambda w: w.signed(w.rollout(next(w.epochs)), "svc-train")), "refused unsigned"),
    ("rollout signed for another key", control(for_another(key=f"{PIPELINE}/other")), "refused bad_signature"),
    ("rollout signed for another topic", control(for_another(topic=PIPELINES)), "refused bad_signature"),
    ("rollout altered by one byte", control(one_byte_other), "refused bad_signature"),
    ("rollout of a lower epoch", control(lambda w: w.signed(w.rollout(4))), "refused lower_epoch"),
    ("rollout sent again", control(lambda w: w.signed(w.rollout(5))), "refused lower_epoch"),
    ("rollout that is a plan", control(plan_for_the_rollouts), "refused wrong_type"),
    ("rollout under a key that is no text", control(lambda w: w.signed(w.rollout(99)), key=b"\xff\xfe"), "refused wrong_type"),
    (
        "rollout under another model's key",
        control(lambda w: w.signed(w.rollout(99), key=f"{PIPELINE}/other"), key=f"{PIPELINE}/other".encode()),
        "refused wrong_type",
    ),
    ("rollout whose weights do not add up", rollout(ArmServed(name="rules", weight=9_999)), "rollout REFUSED"),
    (
        "rollout with a negative weight",
        rollout(ArmServed(name="rules", weight=10_001), ArmServed(name="challenger", weight=-1)),
        "rollout REFUSED",
    ),
    ("rollout naming a missing manifest", rollout(CHAMPION), "rollout PENDING"),
    ("rollout naming a path", rollout(replace(CHAMPION, manifest_reference="../../keys/x.json")), "rollout REFUSED"),
    ("rollout naming no one's signature", rollout(replace(CHAMPION, signature_key_id="ada")), "rollout REFUSED"),
    ("plan: random bytes", plan(lambda _: os.urandom(64)), "refused bad_frame"),
    ("plan signed by svc-train", plan(plan_of("svc-train")), "refused unsigned"),
    ("plan of a lower epoch", plan(plan_of("svc-governance")), "refused lower_epoch"),
    ("plan under a key that is no text", plan(plan_of("svc-governance"), b"\xff"), "refused wrong_type"),
    ("plan that is none", parked_plan, "ghost PARKED"),
)


def work(topic: str, value: Value) -> Do:
    """A bad record on a topic svc-governance takes work from."""

    def do(world: World) -> See:
        sent = value(world)
        at = world.produce(topic, sent, b"bad")

        def see() -> str:
            letter = world.letter_of(at, (dlq_topic(topic, "svc-governance"),))
            return f"dead letter {letter.reason}" if letter.value == sent else f"other bytes: {letter}"

        return see

    return do


WORK: Sequence[tuple[str, Do, str]] = (
    ("finding that is no record", work(FINDINGS, lambda _: b"\x01random"), "dead letter bad_frame"),
    (
        "candidate that is an admission",
        work(MODEL_CANDIDATES, lambda w: w.codec.encode(PIPELINES, admitted(w))),
        "dead letter wrong_type",
    ),
)


# ---------------------------------------------------------------- svc-serve and svc-governance: HTTP


def ask(body: bytes | Row, model: str = MODEL) -> Do:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return lambda world: status(world.post("svc-serve", f"/v1/{PIPELINE}/{model}/decisions", raw))


SERVE: Sequence[tuple[str, Do, str]] = (
    ("broken JSON", ask(b'{"flight_id": '), "400"),
    ("no object", ask(b"[]"), "400"),
    ("nested without end", ask(b"[" * 60_000), "400"),
    ("wrong type", ask(scheduled("s-type", distance="far")), "422"),
    ("unknown field", ask(scheduled("s-unknown", colour="red")), "422"),
    ("missing field", ask(b'{"flight_id": "s-missing"}'), "422"),
    ("null key", ask(scheduled("") | {"flight_id": None}), "422"),
    ("out of declared range", ask(scheduled("s-range", hour=24)), "422"),
    ("time no calendar has", ask(scheduled("s-never", requested_at=NO_TIME_MS)), "422"),
    ("huge body", ask(b" " * (32 << 20)), "413"),
    ("unknown model", ask(scheduled("s-model"), "nothing"), "404"),
)


def order(
    authorization: Callable[[World], str] = lambda w: w.bearer("ada"),
    body: Callable[[World], bytes] | None = None,
    **headers: str,
) -> Do:
    """A plan for svc-governance; by default the flights altered, so that nothing here could be taken for in force."""

    def do(world: World) -> See:
        content = body(world) if body else world.altered_plan()
        known = {"authorization": text} if (text := authorization(world)) else {}
        return status(world.post("svc-governance", "/v1/pipelines", content, **known, **headers))

    return do


def expired(world: World) -> str:
    claims = {"sub": "ada", "aud": "svc-governance", "iat": LEAVES_MS // 1000, "exp": LEAVES_MS // 1000 + 60}
    return "Bearer " + jwt.encode(claims, world.key("ada"), algorithm="EdDSA", headers={"kid": "ada"})


def unending(world: World) -> str:
    claims = {"sub": "ada", "aud": "svc-governance", "iat": LEAVES_MS // 1000, "exp": 2**33}
    return "Bearer " + jwt.encode(claims, world.key("ada"), algorithm="EdDSA", headers={"kid": "ada"})


def in_anothers_name(world: World) -> str:
    claims: Mapping[str, object] = jwt.decode(world.bearer("ada")[7:], options={"verify_signature": False})
    return "Bearer " + jwt.encode({**claims, "sub": "ops"}, world.key("ada"), algorithm="EdDSA", headers={"kid": "ada"})


def unsigned_token(world: World) -> str:
    claims: Mapping[str, object] = jwt.decode(world.bearer("ada")[7:], options={"verify_signature": False})
    return "Bearer " + jwt.encode({**claims}, "", algorithm="none", headers={"kid": "ada"})


GOVERNANCE: Sequence[tuple[str, Do, str]] = (
    ("no token", order(lambda _: ""), "401"),
    ("naming a user only", order(lambda _: "", x_user="ada"), "401"),
    ("a user and a word", order(lambda _: "Basic YWRhOmFkYQ=="), "401"),
    ("expired token", order(expired), "401"),
    ("token without end", order(unending), "401"),
    ("token signed by another key", order(lambda w: w.bearer("ada", key=w.key("grace"))), "401"),
    ("token in another's name", order(in_anothers_name), "401"),
    ("token for another service", order(lambda w: w.bearer("ada", audience="svc-serve")), "401"),
    ("token without a signature", order(unsigned_token), "401"),
    ("principal that is a path", order(lambda w: w.bearer("../private/ada", key=w.key("ada"))), "401"),
    ("role missing", order(lambda w: w.bearer("grace")), "403"),
    ("plan with an altered hash", order(), "422"),
    ("plan of broken JSON", order(body=lambda _: b'{"pipeline": '), "422"),
    ("plan with an unknown key", order(body=lambda w: json.dumps({**json.loads(w.altered_plan()), "x": 1}).encode()), "422"),
    ("plan nested without end", order(body=lambda _: b"[" * 100_000), "422"),
    ("plan that is a number", order(body=lambda _: b"7"), "422"),
    ("huge plan", order(body=lambda _: b" " * (5 << 20)), "413"),
)

DOORS: Mapping[str, Sequence[tuple[str, Do, str]]] = {
    "svc-ingest HTTP": INGEST,
    "svc-ingest folder": FOLDER,
    "event topic": LOG,
    "control topic": CONTROL,
    "work topic": WORK,
    "svc-serve HTTP": SERVE,
    "svc-governance HTTP": GOVERNANCE,
}
TABLE = tuple(Case(door, kind, do, answer) for door, rows in DOORS.items() for kind, do, answer in rows)
