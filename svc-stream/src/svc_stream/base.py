"""Where the state of a feature set starts: empty, or from a base computed from the archive.

All workers of a set must start from the same one, whatever is announced meanwhile and whoever dies. So the choice is
committed before anything else: the owner of the first partials partition commits, in one transaction, how much of the
announcements counts and, with a base, where each source starts and which base that is. The others wait for it. The last
base of the set before that offset is the base.

    nothing committed --owner of partials 0--> chosen: sources stand at the cut, each entity task imports its blocks
    committed otherwise --> the base the sources' offsets name, or none

A broker may forget the first offset, of a topic the group does not read, after its retention; those of the sources it keeps.
An entity's import is one transaction: its blocks, a Progress that stands at the base's cut and names it, and the offset
and commit sequence a restart compares. Nobody reads a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.chassis.bus import Bus, Committed, Consumer, Producer, TopicPartition
from headrace.chassis.errors import Fatal, Poison, Retryable
from headrace.chassis.logs import logger
from headrace.chassis.objects import ObjectStore
from headrace.chassis.view import PROGRESS_KEY
from headrace.contracts.catalogue import BASES
from headrace.contracts.codec import Codec
from headrace.contracts.records import Progress, SourceCut, StateImported
from headrace.plan.bases import Base, from_json, read_blocks, read_ids
from headrace.plan.blocks import record_of
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.tiles import encode_key
from headrace.plan.topics import partials_topic, state_topic
from headrace.plan.verdicts import SourceState
from svc_stream.domain.source import SourcePosition, SourceTask

ANNOUNCED = TopicPartition(BASES, 0)
IMPORT_TIMEOUT_MS = 600_000  # readers of this state wait for the whole of it anyway
READ_RECORDS = 500
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Bases:
    """What a process needs to find bases."""

    bus: Bus
    codec: Codec
    objects: ObjectStore


@dataclass(slots=True)
class SetBase:
    """The base of one set in one worker. `choose` first; then `base` is what all start from, None for an empty state."""

    plan: Plan
    feature_set: FeatureSet
    bases: Bases
    client_id: str
    topic_ids: dict[str, str]
    beat: Callable[[], None]
    base: Base | None = None
    digest: str = ""
    _chosen: bool = False
    _ids: dict[tuple[str, int], dict[object, int]] = field(default_factory=dict)

    def choose(self, consumer: Consumer, assigned: Sequence[TopicPartition]) -> None:
        """Find out what this set starts from, once.

        Raises: Retryable while another worker has to choose first; Fatal if the base does not fit.
        """
        if self._chosen:
            return
        partials = partials_topic(self.plan, self.feature_set)
        places = [TopicPartition(partials, p) for p in range(self.feature_set.partitions)]
        for event in self._events():
            places += [TopicPartition(event.topic, p) for p in range(event.partitions)]
        found = self.committed(consumer, [ANNOUNCED, *places], assigned)
        chosen = found.pop(ANNOUNCED)
        sources = [at for place, at in found.items() if at is not None and place.topic != partials]
        named = {SourcePosition.parse(at.offset, at.metadata).base for at in sources} - {""}
        if named:
            (digest,) = named  # one transaction wrote them
            self._take(lambda announced, _: announced.digest == digest)
        elif chosen is None and not any(found.values()):
            if TopicPartition(partials, 0) not in assigned:
                raise Retryable(f"waiting for the owner of {partials}-0 to choose what {self.feature_set.name} starts from")
            end = self._end()
            self._take(lambda announced, offset: announced.set_hash == self.feature_set.hash and offset < end)
            self._commit("choice", {ANNOUNCED: Committed(end), **self._starts()}, consumer, lambda _producer: None)
        self._chosen = True

    def committed(
        self, consumer: Consumer, places: Sequence[TopicPartition], assigned: Sequence[TopicPartition]
    ) -> dict[TopicPartition, Committed | None]:
        """What the group has committed. Raises: Retryable, also while a transaction with its offsets is open.

        That of a dead choice or import may stay open for IMPORT_TIMEOUT_MS: whoever owns its partition now ends it.
        """
        try:
            return consumer.committed(places)
        except Retryable:
            partials = partials_topic(self.plan, self.feature_set)
            mine = [tp.partition for tp in assigned if tp.topic == partials]
            for what in [*(["choice"] if 0 in mine else []), *map(str, mine)]:
                self.beat()
                producer = self._producer(what)
                try:
                    producer.init_transactions()
                finally:
                    producer.close()
            raise

    def _starts(self) -> dict[TopicPartition, Committed]:
        """Every source at the cut, as a source task that had read up to there would have committed it."""
        starts: dict[TopicPartition, Committed] = {}
        for event in self._events() if self.base else ():
            for p in range(event.partitions):
                start = self.start_of(event.name, p)
                assert start is not None, "there is a base"
                task = SourceTask(event, p, start[0], start[0], start[1], self.digest)
                starts[TopicPartition(event.topic, p)] = Committed(start[0], task.metadata())
        return starts

    def _events(self) -> list[EventType]:
        return [e for e in self.plan.events if e.name in self.feature_set.events]

    def _end(self) -> int:
        consumer = self.bases.bus.consumer(None, f"{self.client_id}.bases")
        try:
            return consumer.watermarks(ANNOUNCED)[1]
        finally:
            consumer.close()

    def _take(self, wanted: Callable[[StateImported, int], bool]) -> None:
        """The last announcement that is wanted, by record and offset; none is an empty state."""
        announced = self._announced(wanted)
        if announced is None:
            return
        try:
            base = from_json(self.bases.objects.get(announced.reference, announced.digest))
        except Poison as error:
            raise Fatal(f"the base of {self.feature_set.name} cannot be used: {error}") from error
        wrong = [s.event for s in base.sources if s.topic_id and s.topic_id != self.topic_ids.get(s.event, s.topic_id)]
        if wrong:
            raise Fatal(
                f"the base of {self.feature_set.name} is of another topic of {wrong[0]}: its offsets mean other records"
            )
        if (base.set_hash, base.semantics_version) != (self.feature_set.hash, self.plan.semantics_version):
            raise Fatal(f"the base {announced.digest[:8]} is not of {self.feature_set.name} {self.feature_set.hash[:8]}")
        self.base, self.digest = base, announced.digest
        _log.info("state_starts_from_base", set=self.feature_set.name, base=announced.digest[:8], blocks=base.blocks)

    def _announced(self, wanted: Callable[[StateImported, int], bool]) -> StateImported | None:
        consumer, found = self.bases.bus.consumer(None, f"{self.client_id}.bases"), None
        try:
            end = consumer.watermarks(ANNOUNCED)[1]
            consumer.assign({ANNOUNCED: -2})
            silent = 0
            while end > 0 and (consumer.position(ANNOUNCED) or 0) < end:
                self.beat()
                records = consumer.consume(READ_RECORDS, 0.5)
                silent = 0 if records else silent + 1
                if silent > 60:
                    raise Retryable(f"{BASES} is silent before offset {end}")
                for record in records:
                    announced = self.bases.codec.decode(record.value, StateImported)
                    found = announced if wanted(announced, record.offset) else found
            return found
        finally:
            consumer.close()

    # -- sources

    def start_of(self, event: str, partition: int) -> tuple[int, SourceState] | None:
        """Cut and verdict state of a source partition; None where the state starts empty."""
        if self.base is None:
            return None
        source = self.base.source(event, partition)
        ids = self._ids.get((event, partition))
        if ids is None:
            ids = read_ids(self.bases.objects.get(source.ids.reference, source.ids.digest)) if source.ids else {}
            self._ids[event, partition] = ids
        return source.next_offset, source.state(ids)

    # -- entities

    def import_entity(self, partition: int, consumer: Consumer) -> Committed | None:
        """Write the base's share of one state partition; returns what a restart finds committed for its partials."""
        if self.base is None:
            return None
        state, codec = state_topic(self.plan, self.feature_set), self.bases.codec
        files = next((p.files for p in self.base.partitions if p.partition == partition), ())

        def write(producer: Producer) -> None:
            for file in files:
                self.beat()
                for key, block in read_blocks(self.bases.objects.get(file.reference, file.digest)):
                    value = codec.encode(state, record_of(key, block))
                    producer.produce(state, value, encode_key(self.feature_set, key), partition)
            producer.produce(state, codec.encode(state, self._progress(partition)), PROGRESS_KEY, partition)

        at = Committed(0, "1")
        place = TopicPartition(partials_topic(self.plan, self.feature_set), partition)
        self._commit(str(partition), {place: at}, consumer, write)
        _log.info("base_imported", set=self.feature_set.name, partition=partition, blocks=sum(f.rows for f in files))
        return at

    def _progress(self, partition: int) -> Progress:
        assert self.base is not None, "there is something to import"
        lateness = {e.name: e.lateness_ms for e in self._events()}
        cut = tuple(
            SourceCut(
                event=s.event, topic_id=self.topic_ids.get(s.event, s.topic_id), partition=s.partition,
                next_offset=s.next_offset, maximum_ms=s.maximum_ms,
                watermark_ms=None if s.maximum_ms is None else s.maximum_ms - lateness[s.event],
            )
            for s in self.base.sources if s.next_offset
        )  # fmt: skip
        return Progress(
            set_hash=self.feature_set.hash, partition=partition, cut=cut, commit_sequence=1, partials_offset=0,
            base_digest=self.digest, base_floor_ms=self.base.floor_ms,
        )  # fmt: skip

    def _commit(
        self, what: str, offsets: Mapping[TopicPartition, Committed], consumer: Consumer, write: Callable[[Producer], None]
    ) -> None:
        """One transaction of a producer of its own: an import may take longer than the worker's transactions may.

        Its id is of the set and not of the instance: whoever takes over ends at once what a dead one left open.
        """
        producer = self._producer(what)
        try:
            producer.init_transactions()
            producer.begin()
            write(producer)
            producer.send_offsets(offsets, consumer)
            producer.commit()
        finally:
            producer.close()

    def _producer(self, what: str) -> Producer:
        name = f"{partials_topic(self.plan, self.feature_set)}.base.{what}"
        return self.bases.bus.producer(name, transactional_id=name, transaction_timeout_ms=IMPORT_TIMEOUT_MS)
