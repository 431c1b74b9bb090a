package headrace.bench;

import java.time.Duration;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.SessionWindowedKStream;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.state.DslStoreSuppliers;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;
import org.apache.kafka.streams.state.SessionStore;
import org.apache.kafka.streams.state.WindowStore;

/** One topology per workload. */
final class Topologies {
    private static final Duration RETENTION = Duration.ofHours(6); // well above any size + grace: nothing is lost on replay
    private static final EmitStrategy CLOSE = EmitStrategy.onWindowClose();
    private static final Serde<String> TEXT = Serdes.String();
    private final Map<String, String> asked;

    Topologies(Map<String, String> asked) {
        this.asked = asked;
    }

    Topology of(String workload) {
        StreamsBuilder builder = new StreamsBuilder();
        switch (workload) {
            case "windows" -> windows(builder);
            case "sessions" -> sessions(builder);
            case "join" -> join(builder);
            case "map" -> map(builder);
            case "open" -> open(builder);
            default -> throw new IllegalArgumentException("no workload " + workload);
        }
        return builder.build();
    }

    private long number(String name) {
        return Long.parseLong(asked.get(name));
    }

    private int schema(String name) {
        return Integer.parseInt(asked.get(name));
    }

    private DslStoreSuppliers stores() {
        return "memory".equals(asked.get("store"))
            ? new BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers()
            : new BuiltInDslStoreSuppliers.RocksDBDslStoreSuppliers();
    }

    private KStream<String, Wire.Reading> readings(StreamsBuilder builder) {
        Serde<Wire.Reading> serde =
            Serdes.serdeFrom((topic, reading) -> null, Wire.reading(schema("in_schema"), Wire::narrow));
        return builder.stream(
            asked.get("in"), Consumed.with(TEXT, serde).withTimestampExtractor(Wire.EVENT_TIME));
    }

    /** Tumbling or hopping count and sum, one final result per window. */
    private void windows(StreamsBuilder builder) {
        TimeWindows windows = TimeWindows
            .ofSizeAndGrace(Duration.ofMillis(number("size_ms")), Duration.ofMillis(number("grace_ms")))
            .advanceBy(Duration.ofMillis(number("hop_ms")));
        TimeWindowedKStream<String, Wire.Reading> windowed = grouped(builder).windowedBy(windows);
        KTable<Windowed<String>, Wire.Totals> totals = (onClose("emit") ? windowed.emitStrategy(CLOSE) : windowed).aggregate(
            () -> Wire.Totals.NONE,
            (key, reading, before) -> before.plus(reading),
            kept(Materialized.<String, Wire.Totals, WindowStore<Bytes, byte[]>>as("windows")
                .withStoreType(stores())
                .withKeySerde(TEXT)
                .withValueSerde(Wire.totals())
                .withCachingEnabled()));
        results(closed(totals, "emit").toStream(), 0);
    }

    /** `retention=default` leaves it at size + grace, as it is if nobody asks. */
    private <S extends StateStore> Materialized<String, Wire.Totals, S> kept(Materialized<String, Wire.Totals, S> store) {
        return "default".equals(asked.get("retention")) ? store : store.withRetention(RETENTION);
    }

    /**
     * How a window says its last word, `final=emit` or `final=suppress`. Of windows with fixed bounds, emitting as they close was
     * measured to cost less than suppressing updates until they do; of sessions, which close at any moment, far more.
     */
    private boolean onClose(String usual) {
        return "emit".equals(asked.getOrDefault("final", usual));
    }

    private KTable<Windowed<String>, Wire.Totals> closed(KTable<Windowed<String>, Wire.Totals> totals, String usual) {
        return onClose(usual)
            ? totals
            : totals.suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()).withName("closed"));
    }

    private KGroupedStream<String, Wire.Reading> grouped(StreamsBuilder builder) {
        return readings(builder).groupByKey(Grouped.keySerde(TEXT));
    }

    /** Sessions of count and sum, one final result each. */
    private void sessions(StreamsBuilder builder) {
        SessionWindows windows = SessionWindows.ofInactivityGapAndGrace(
            Duration.ofMillis(number("gap_ms")), Duration.ofMillis(number("grace_ms")));
        SessionWindowedKStream<String, Wire.Reading> windowed = grouped(builder).windowedBy(windows);
        KTable<Windowed<String>, Wire.Totals> totals = (onClose("suppress") ? windowed.emitStrategy(CLOSE) : windowed).aggregate(
            () -> Wire.Totals.NONE,
            (key, reading, before) -> before.plus(reading),
            (key, left, right) -> left.plus(right),
            Materialized.<String, Wire.Totals, SessionStore<Bytes, byte[]>>as("sessions")
                .withStoreType(stores())
                .withKeySerde(TEXT)
                .withValueSerde(Wire.totals())
                .withRetention(RETENTION)
                .withCachingEnabled());
        results(closed(totals, "suppress").toStream(), 1); // its end is its last row; elsewhere an end lies behind the last
    }

    /** Windows that stay open: what a restore has to bring back. Updates go out as the cache lets them. */
    private void open(StreamsBuilder builder) {
        KTable<Windowed<String>, Wire.Totals> totals = grouped(builder)
            .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMillis(number("size_ms"))))
            .aggregate(
                () -> Wire.Totals.NONE,
                (key, reading, before) -> before.plus(reading),
                Materialized.<String, Wire.Totals, WindowStore<Bytes, byte[]>>as("open")
                    .withStoreType(stores())
                    .withKeySerde(TEXT)
                    .withValueSerde(Wire.totals())
                    .withRetention(Duration.ofMillis(2 * number("size_ms")))
                    .withCachingEnabled());
        results(totals.toStream(), 0);
    }

    private void results(KStream<Windowed<String>, Wire.Totals> closed, long pastEnd) {
        int outSchema = schema("out_schema");
        KStream<String, Wire.Row> rows = closed.map((window, totals) -> KeyValue.pair(
            window.key(),
            new Wire.Row(window.key(), window.window().start(), window.window().end() + pastEnd, totals)));
        rows.to(asked.get("out"), Produced.with(TEXT, Serdes.serdeFrom(Wire.rows(outSchema), (topic, bytes) -> null)));
    }

    /** Orders and their payments, each keyed by something else. */
    private void join(StreamsBuilder builder) {
        Serde<Wire.Side> in = Serdes.serdeFrom((topic, side) -> null, Wire.reading(schema("in_schema"), Wire::side));
        Serde<Wire.Side> right = Serdes.serdeFrom((topic, side) -> null, Wire.reading(schema("right_schema"), Wire::side));
        Serde<Wire.Side> inside = Wire.sides();
        KStream<String, Wire.Side> orders = builder
            .stream(asked.get("in"), Consumed.with(TEXT, in).withTimestampExtractor(Wire.EVENT_TIME))
            .selectKey((key, side) -> side.order());
        KStream<String, Wire.Side> payments = builder
            .stream(asked.get("right"), Consumed.with(TEXT, right).withTimestampExtractor(Wire.EVENT_TIME))
            .selectKey((key, side) -> side.order());
        JoinWindows within = JoinWindows
            .ofTimeDifferenceAndGrace(Duration.ofMillis(number("after_ms")), Duration.ofMillis(number("grace_ms")))
            .before(Duration.ZERO);
        KStream<String, Wire.Pair> pairs = orders.join(
            payments,
            (key, order, payment) -> new Wire.Pair(key, order.at(), payment.at(), order.amount(), payment.amount()),
            within,
            StreamJoined.with(TEXT, inside, inside).withDslStoreSuppliers(stores()).withStoreName("pairs"));
        pairs.to(
            asked.get("out"), Produced.with(TEXT, Serdes.serdeFrom(Wire.pairs(schema("out_schema")), (topic, b) -> null)));
    }

    /** Each reading on its way to another topic: for how long it takes. */
    private void map(StreamsBuilder builder) {
        Serde<Wire.Whole> serde =
            Serdes.serdeFrom(Wire.wholes(schema("out_schema")), Wire.reading(schema("in_schema"), Wire::whole));
        builder
            .stream(asked.get("in"), Consumed.with(TEXT, serde).withTimestampExtractor(Wire.EVENT_TIME))
            .filter((key, reading) -> reading.value() >= 0)
            .to(asked.get("out"), Produced.with(TEXT, serde));
    }
}
