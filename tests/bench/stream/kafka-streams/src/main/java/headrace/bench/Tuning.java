package headrace.bench;

import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.WriteBufferManager;

/** Settings as someone who knows Kafka Streams would choose them for throughput on one core. */
final class Tuning {
    private static final long MIB = 1 << 20;
    // Longer than any run: replayed event times lie far before the broker's clock, and a changelog must not lose them.
    private static final long CHANGELOG_KEPT_MS = 10L * 365 * 24 * 3600 * 1000;

    private Tuning() {}

    static Properties properties(Map<String, String> asked, String applicationId) {
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, applicationId);
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, asked.get("bootstrap"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, asked.get("state"));
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, asked.getOrDefault("guarantee", "exactly_once_v2"));
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Long.parseLong(asked.getOrDefault("commit_ms", "100")));
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1); // one core
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1); // one broker
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, Long.parseLong(asked.getOrDefault("cache_mib", "256")) * MIB);
        p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        p.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
        p.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        p.put(StreamsConfig.WINDOW_STORE_CHANGE_LOG_ADDITIONAL_RETENTION_MS_CONFIG, CHANGELOG_KEPT_MS);
        p.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, Rocks.class);
        p.put(StreamsConfig.METRICS_RECORDING_LEVEL_CONFIG, "INFO");
        p.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, Long.parseLong(asked.getOrDefault("idle_ms", "0")));
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), (int) (8 * MIB));
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.restoreConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 20_000);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), (int) (256 * 1024));
        p.put(
            StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG),
            Integer.parseInt(asked.getOrDefault("linger_ms", "100")));
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 128 * MIB);
        // Windows that close together leave together: a second's pause between two closings would only delay the last ones.
        p.put("__emit.interval.ms.kstreams.windowed.aggregation__", Long.parseLong(asked.getOrDefault("emit_ms", "0")));
        return p;
    }

    /** One block cache and one bound on write buffers for all stores of the process. */
    public static final class Rocks implements RocksDBConfigSetter {
        private static final Cache CACHE = new LRUCache(256 * MIB);
        private static final WriteBufferManager BUFFERS = new WriteBufferManager(256 * MIB, CACHE);

        @Override
        public void setConfig(String store, Options options, Map<String, Object> configs) {
            BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
            table.setBlockCache(CACHE);
            table.setBlockSize(16 * 1024);
            table.setCacheIndexAndFilterBlocks(true);
            options.setTableFormatConfig(table);
            options.setWriteBufferManager(BUFFERS);
            options.setWriteBufferSize(32 * MIB);
            options.setMaxWriteBufferNumber(3);
            options.setMaxBackgroundJobs(2);
        }

        @Override
        public void close(String store, Options options) {
            // The cache and the buffers are shared by all stores and end with the process.
        }
    }
}
