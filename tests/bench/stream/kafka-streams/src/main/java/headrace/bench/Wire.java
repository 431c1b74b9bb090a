package headrace.bench;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.processor.TimestampExtractor;

/**
 * Values in the Confluent frame (0x00, schema id, Avro), read and written by hand over Avro's decoder: no reflection, no generic
 * records, and fields nobody asks for are skipped. Quicker than the serializers one would buy.
 */
final class Wire {
    static final int FRAME_BYTES = 5;

    private Wire() {}

    /** What has an event time in its body, ms UTC. */
    interface Timed {
        long at();
    }

    /** A reading of which only time and value are wanted. */
    record Reading(long at, long value) implements Timed {}

    /** A whole reading. */
    record Whole(byte[] id, byte[] key, long at, long value) implements Timed {}

    /** One side of the join: an order, or the payment of one. */
    record Side(String order, long at, long amount) implements Timed {}

    /** Count and sum of a window so far. */
    record Totals(long count, long sum) {
        static final Totals NONE = new Totals(0, 0);

        Totals plus(Reading reading) {
            return new Totals(count + 1, sum + reading.value());
        }

        Totals plus(Totals other) {
            return new Totals(count + other.count, sum + other.sum);
        }
    }

    /** A result: a window [start, end) of a key. */
    record Row(String key, long start, long end, Totals totals) {}

    /** A matched pair. */
    record Pair(String order, long leftAt, long rightAt, long left, long right) {}

    static final TimestampExtractor EVENT_TIME = (ConsumerRecord<Object, Object> record, long before) ->
        ((Timed) record.value()).at();

    private static final ThreadLocal<BinaryDecoder> DECODER = new ThreadLocal<>();

    private static BinaryDecoder decoder(byte[] framed) {
        BinaryDecoder found =
            DecoderFactory.get().binaryDecoder(framed, FRAME_BYTES, framed.length - FRAME_BYTES, DECODER.get());
        DECODER.set(found);
        return found;
    }

    /** Framed values of n fields to what the topology wants; bytes that are no such record end the run. */
    interface Reads<T> {
        T from(BinaryDecoder in) throws IOException;
    }

    static <T> Deserializer<T> reading(int schemaId, Reads<T> reads) {
        return (topic, framed) -> {
            if (framed == null) {
                return null;
            }
            if (framed[0] != 0 || ByteBuffer.wrap(framed).getInt(1) != schemaId) {
                throw new IllegalArgumentException("not a value of schema " + schemaId);
            }
            try {
                return reads.from(decoder(framed));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        };
    }

    static Reading narrow(BinaryDecoder in) throws IOException {
        in.skipString();
        in.skipString();
        return new Reading(in.readLong(), in.readLong());
    }

    static Whole whole(BinaryDecoder in) throws IOException {
        return new Whole(bytes(in), bytes(in), in.readLong(), in.readLong());
    }

    static Side side(BinaryDecoder in) throws IOException {
        in.skipString();
        in.skipString();
        return new Side(in.readString(), in.readLong(), in.readLong());
    }

    private static byte[] bytes(BinaryDecoder in) throws IOException {
        byte[] out = new byte[in.readInt()];
        in.readFixed(out);
        return out;
    }

    static Serializer<Row> rows(int schemaId) {
        return (topic, row) -> new Out(schemaId)
            .string(row.key().getBytes(StandardCharsets.UTF_8))
            .number(row.start())
            .number(row.end())
            .number(row.totals().count())
            .number(row.totals().sum())
            .framed();
    }

    static Serializer<Whole> wholes(int schemaId) {
        return (topic, w) -> new Out(schemaId).string(w.id()).string(w.key()).number(w.at()).number(w.value()).framed();
    }

    static Serializer<Pair> pairs(int schemaId) {
        return (topic, p) -> new Out(schemaId)
            .string(p.order().getBytes(StandardCharsets.UTF_8))
            .number(p.leftAt())
            .number(p.rightAt())
            .number(p.left())
            .number(p.right())
            .framed();
    }

    /** Sixteen bytes: what the store and its changelog hold of a window. */
    static Serde<Totals> totals() {
        return Serdes.serdeFrom(
            (topic, t) -> t == null ? null : ByteBuffer.allocate(16).putLong(t.count()).putLong(t.sum()).array(),
            (topic, bytes) -> {
                if (bytes == null) {
                    return null;
                }
                ByteBuffer in = ByteBuffer.wrap(bytes);
                return new Totals(in.getLong(), in.getLong());
            });
    }

    /** A side as it travels through the repartition topic and lies in the join's store; its order is the key. */
    static Serde<Side> sides() {
        return Serdes.serdeFrom(
            (topic, s) -> {
                if (s == null) {
                    return null;
                }
                byte[] order = s.order().getBytes(StandardCharsets.UTF_8);
                return ByteBuffer.allocate(16 + order.length).putLong(s.at()).putLong(s.amount()).put(order).array();
            },
            (topic, bytes) -> {
                if (bytes == null) {
                    return null;
                }
                ByteBuffer in = ByteBuffer.wrap(bytes);
                long at = in.getLong();
                long amount = in.getLong();
                return new Side(new String(bytes, 16, bytes.length - 16, StandardCharsets.UTF_8), at, amount);
            });
    }

    /** A value under construction: Avro's strings and zigzag numbers behind the frame. */
    private static final class Out {
        private static final ThreadLocal<byte[]> SPACE = ThreadLocal.withInitial(() -> new byte[1024]);
        private final byte[] out = SPACE.get();
        private int at = FRAME_BYTES;

        Out(int schemaId) {
            out[0] = 0;
            ByteBuffer.wrap(out).putInt(1, schemaId);
        }

        Out number(long value) {
            long left = (value << 1) ^ (value >> 63);
            while ((left & ~0x7FL) != 0) {
                out[at++] = (byte) ((left & 0x7F) | 0x80);
                left >>>= 7;
            }
            out[at++] = (byte) left;
            return this;
        }

        Out string(byte[] text) {
            number(text.length);
            System.arraycopy(text, 0, out, at, text.length);
            at += text.length;
            return this;
        }

        byte[] framed() {
            return java.util.Arrays.copyOf(out, at);
        }
    }
}
