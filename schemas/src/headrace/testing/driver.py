"""A declaration in a test: its log, its engine and its oracle in one object."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import Poison
from headrace.contracts.partition import partition_for
from headrace.declare import Event, Model, Pipeline, compile, load
from headrace.declare.feature_sets import FeatureSetDeclaration
from headrace.plan import ir
from headrace.plan.assemble import Assembler
from headrace.plan.avro import event_schema
from headrace.plan.expressions import parse
from headrace.plan.lower import Status
from headrace.plan.oracle import RawRecord
from headrace.plan.tiles import Block, BlockKey, entity_of
from headrace.plan.verdicts import Verdict
from headrace.testing import checking
from headrace.testing.outcomes import Checked, Decision, Features, Fed, Mismatch
from headrace.testing.replica import Replica, Written
from headrace.testing.streams import Streams, differences
from headrace.testing.values import When, row_of, span_ms, time_ms

Scorer = Callable[[Mapping[str, "float | None"]], float]
NOT_AVRO = b"\x00\xff\xff\xff\xffnot a record"
NO_ENTITY = "\x00"  # a name no tile can have: a request without the entity reads nothing


class Driver:
    """Runs a declaration without a broker, deterministically, with the code that runs in the services.

    The clock stands at the newest append time: `feed` moves it to the event's time where that is later, `advance` moves
    it by hand. A record is appended now unless `appended` says when; append times never fall.
    """

    def __init__(self, pipeline: Pipeline | ir.Plan | str | Path) -> None:
        """Raises: DeclarationError if it does not compile."""
        if isinstance(pipeline, str | Path):
            pipeline = load(pipeline)
        self._model_names: dict[int, str] = {}
        if isinstance(pipeline, Pipeline):
            self._model_names = {id(m): name for m, name in zip(pipeline.models, pipeline.model_names, strict=True)}
        self.plan = pipeline if isinstance(pipeline, ir.Plan) else compile(pipeline)
        self.now_ms = 0
        self._codec = Codec(MemoryRegistry())
        self._schemas = {event.name: event_schema(self.plan, event) for event in self.plan.events}
        self._next: Counter[tuple[str, int]] = Counter()  # offset of the next record, by (event, partition)
        self._fed: list[Fed] = []
        self._log: list[Written] = []
        self._waiting: list[Written] = []  # fed, not yet judged
        self._replica = self._new_replica()
        self._reads: list[Features] = []

    # -- feeding

    def feed(
        self,
        event: type[Event] | str,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        appended: When | None = None,
        partition: int | None = None,
        **more: Any,
    ) -> Fed:
        """Append one event.

        Args:
            event: the event class, its record name or its topic's noun.
            fields: by name, here or as keywords. Times as ISO text, ms or datetimes; decimals in their unit.
            appended: when the broker wrote it; now, or the event's time where that is later, when left out.
            partition: by the message key, as producers do, when left out.
        Raises: ValueError for a field the event does not have. A value the schema refuses gives a dead letter instead.
        """
        known = self._event(event)
        row = row_of(known, {**(fields or {}), **more})
        time = row[known.time]
        append_ms = max(self.now_ms, time if isinstance(time, int) else 0) if appended is None else time_ms(appended)
        if partition is None:
            partition = partition_for(str(row[known.key]), known.partitions)
        value: bytes = NOT_AVRO
        try:
            value = self._codec.encode_event(self._schemas[known.name], row)
        except Poison as poison:
            return self._append(known, value, append_ms, partition, f"{poison.reason.value}: {poison.detail}")
        return self._append(known, value, append_ms, partition)

    def feed_bytes(
        self, event: type[Event] | str, value: bytes = NOT_AVRO, *, appended: When | None = None, partition: int = 0
    ) -> Fed:
        """Append raw bytes, such as no producer of ours would write."""
        known = self._event(event)
        return self._append(known, value, self.now_ms if appended is None else time_ms(appended), partition)

    def _append(self, event: ir.EventType, value: bytes, append_ms: int, partition: int, reason: str = "") -> Fed:
        if append_ms < self.now_ms:
            raise ValueError(f"appended at {append_ms} when the log already stands at {self.now_ms}: append times never fall")
        if not 0 <= partition < event.partitions:
            raise ValueError(f"{event.topic} has partitions 0 to {event.partitions - 1}, not {partition}")
        self.now_ms = append_ms
        offset = self._next[event.name, partition]
        self._next[event.name, partition] += 1
        written = Written(event.name, partition, offset, append_ms, value)
        try:
            fields = None if reason else self._codec.decode_event(self._schemas[event.name], value)
        except Poison:
            fields = None
        fed = Fed(event.name, partition, offset, append_ms, fields, self._verdict, lambda fed: reason or self._reason(fed))
        self._log.append(written)
        self._waiting.append(written)
        self._fed.append(fed)
        return fed

    def advance(self, by: str | None = None, *, to: When | None = None) -> None:
        """Move the clock, by a duration such as "5m" or to a time. Verdicts and features depend on the log alone."""
        target = self.now_ms + span_ms(by) if by is not None else time_ms(to if to is not None else self.now_ms)
        if target < self.now_ms:
            raise ValueError(f"the clock stands at {self.now_ms} and never goes back")
        self.now_ms = target

    # -- what became of it

    def verdicts(self) -> list[tuple[Fed, Verdict]]:
        """Everything fed so far, in order, with its verdict."""
        return [(fed, fed.verdict) for fed in self._fed]

    def late(self) -> list[Fed]:
        return self._judged(Verdict.LATE)

    def duplicates(self) -> list[Fed]:
        return self._judged(Verdict.DUPLICATE)

    def dead_letters(self) -> list[Fed]:
        """Undecodable, out of range, or too far ahead of their append time."""
        return self._judged(Verdict.UNDECODABLE, Verdict.POISON)

    def _judged(self, *wanted: Verdict) -> list[Fed]:
        return [fed for fed, verdict in self.verdicts() if verdict in wanted]

    # -- reading

    def features(
        self,
        feature_set: FeatureSetDeclaration | str,
        entity: str | int | Sequence[Any] | Mapping[str, Any],
        *,
        at: When | None = None,
    ) -> Features:
        """Features of one entity at t (now when left out), as svc-serve would read them.

        Args:
            entity: the value of the set's entity field; for several fields a sequence in declared order, or a mapping.
        """
        known = self._set(feature_set)
        if not isinstance(entity, Mapping):
            parts = list(entity) if isinstance(entity, Sequence) and not isinstance(entity, str) else [entity]
            entity = dict(zip(known.entity, parts, strict=True))
        return self._read(known, entity_of(known, entity), self.now_ms if at is None else time_ms(at))

    def _read(self, feature_set: ir.FeatureSet, entity: str | None, t_ms: int) -> Features:
        self._settle()
        rows = self._replica.read(feature_set, [NO_ENTITY if entity is None else entity], [t_ms])
        names = [feature.name for feature in feature_set.features]
        values = dict(zip(names, rows.rows()[0], strict=True))
        statuses = dict(zip(names, map(Status, rows.statuses[0].tolist()), strict=True))
        found = Features(feature_set.name, entity, t_ms, dict(self._replica.cut), values, statuses)
        self._reads.append(found)
        return found

    def decide(
        self,
        model: Model | str,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        scorer: Scorer | None = None,
        **more: Any,
    ) -> Decision | None:
        """Ask one decision; t is the request's event time. None if the model's `when` does not want such requests.

        Args:
            fields: of the request event. It is asked, not logged: feed it too where it is also an event that counts.
            scorer: stands for a trained model: inputs by name to a score. Without one the rules decide, as at first.
        Raises: Poison if the request is not one the schema allows.
        """
        known = self._model(model)
        event = next(event for event in self.plan.events if event.name == known.request)
        schema = self._schemas[event.name]
        request = self._codec.decode_event(schema, self._codec.encode_event(schema, row_of(event, {**(fields or {}), **more})))
        typed = {item.name: item for item in event.fields}
        if known.when and parse(known.when, typed, allow_float=True).compile()(request) is not True:
            return None
        used = dict.fromkeys(item.feature_set for item in known.inputs if item.feature_set is not None)
        reads = {name: self._read(self._set(name), entity_of(self._set(name), request), request[event.time]) for name in used}
        row = Assembler(self.plan, known).assemble(request, {name: list(read.values()) for name, read in reads.items()})
        inputs = {
            item.name: None if math.isnan(value) else value for item, value in zip(known.inputs, row.row.tolist(), strict=True)
        }
        if scorer is not None:
            score = float(scorer(inputs))
            return Decision(known.name, score >= float(known.threshold), "model", score, inputs, reads, row.rule_score)
        if row.rule_score is None:
            return Decision(known.name, known.default_decision, "default", None, inputs, reads, None)
        return Decision(known.name, row.rule_decision, "rules", None, inputs, reads, row.rule_score)

    def blocks(self, feature_set: FeatureSetDeclaration | str) -> dict[BlockKey, Block]:
        """State of a set as it would lie in its topic."""
        self._settle()
        return self._replica.blocks(self._set(feature_set))

    def results(self, stream: type[Event] | str, *, ended: bool = False, batches: int = 1) -> list[dict[str, Any]]:
        """What a stream has written by now: a row per result, by event time; times as ms, decimals as they are stored.

        Args:
            stream: the class, its record name or its topic's noun.
            ended: as if no record could come any more: what waits for event time is told too.
            batches: in how many pieces the log comes; only updates depend on it.
        """
        output = self._event(stream)
        known = next((s for s in self.plan.streams if s.output == output.name), None)
        if known is None:
            raise ValueError(f"{output.record} is fed, no stream makes it")
        return self._streams(ended).results(known, batches)

    def _streams(self, ended: bool) -> Streams:
        self._settle()
        return Streams(self.plan, self._raw(), self.now_ms, ended)

    def _raw(self) -> list[RawRecord]:
        return [RawRecord(fed.event, fed.partition, fed.offset, fed.append_ms, fed.fields) for fed in self._fed]

    # -- proof

    def check(self) -> Checked:
        """Ask the oracle everything that was answered, and more: every verdict, every read at its own cut, every entity
        now at the newest times, every result of every stream, and the same log judged in one batch.

        Raises: Mismatch, an AssertionError, that lists what differs.
        """
        self._settle()
        whole = self._new_replica()
        whole.take(self._log)
        for ended in (False, True):
            if lines := differences(self._streams(ended)):
                raise Mismatch(lines)
        return checking.check(self.plan, self._raw(), self._replica, whole, self._reads, self.now_ms)

    # -- inside

    def _new_replica(self) -> Replica:
        return Replica(self.plan, self._codec, self._schemas)

    def _settle(self) -> None:
        if self._waiting:
            self._replica.take(self._waiting)
            self._waiting = []

    def _verdict(self, fed: Fed) -> Verdict:
        self._settle()
        return self._replica.verdicts[fed.event, fed.partition, fed.offset]

    def _reason(self, fed: Fed) -> str:
        self._settle()
        return self._replica.reasons.get((fed.event, fed.partition, fed.offset), "")

    def _event(self, event: type[Event] | str) -> ir.EventType:
        name = event if isinstance(event, str) else event.__law__.record
        return _named(name, [(item, (item.name, item.record, item.topic)) for item in self.plan.events], "event")

    def _set(self, feature_set: FeatureSetDeclaration | str) -> ir.FeatureSet:
        name = feature_set if isinstance(feature_set, str) else feature_set.name
        return _named(name, [(item, (item.name,)) for item in self.plan.feature_sets], "feature set")

    def _model(self, model: Model | str) -> ir.Model:
        if not isinstance(model, str):
            only = self.plan.models[0].name if len(self.plan.models) == 1 else ""  # the file may have been loaded twice
            model = self._model_names.get(id(model)) or model.name or only
        return _named(model, [(item, (item.name,)) for item in self.plan.models], "model")


def _named(name: str, known: Sequence[tuple[Any, tuple[str, ...]]], what: str) -> Any:
    for item, names in known:
        if name in names:
            return item
    raise ValueError(f"no {what} {name!r}: there is {', '.join(names[0] for _, names in known) or 'none'}")
