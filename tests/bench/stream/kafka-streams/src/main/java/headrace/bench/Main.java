package headrace.bench;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * One JVM that runs topologies on demand: `Main name=value...`, then lines on stdin, one JSON line as answer to each.
 *
 * <pre>
 *   start APPLICATION name=value...   build and start; answers once RUNNING: milliseconds since the call, entries read back
 *   stop                              close, with all commits made
 *   (end of stdin)                    end
 * </pre>
 */
public final class Main {
    private static final long RUNNING_S_MAX = 300;
    // Else the next start waits until the group has given the old member up.
    private static final CloseOptions LEAVING = CloseOptions
        .timeout(Duration.ofSeconds(60))
        .withGroupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP);
    private static final AtomicLong RESTORED = new AtomicLong();

    private Main() {}

    public static void main(String[] arguments) throws Exception {
        Map<String, String> asked = values(arguments, 0, new HashMap<>());
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        KafkaStreams streams = null;
        say("{\"ready\": true}");
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.trim().split(" ");
            if (words[0].equals("start")) {
                Map<String, String> now = values(words, 2, new HashMap<>(asked));
                long began = System.nanoTime();
                RESTORED.set(0);
                streams = start(words[1], now);
                double took = (System.nanoTime() - began) / 1_000_000.0;
                say("{\"running_ms\": " + took + ", \"restored\": " + RESTORED.get() + "}");
            } else if (words[0].equals("stop") && streams != null) {
                streams.close(LEAVING);
                streams = null;
                System.gc(); // what one topology leaves behind is not the next one's to clean up
                say("{\"stopped\": true}");
            }
        }
        if (streams != null) {
            streams.close(LEAVING);
        }
    }

    private static KafkaStreams start(String applicationId, Map<String, String> asked) throws InterruptedException {
        StreamsConfig config = new StreamsConfig(Tuning.properties(asked, applicationId));
        KafkaStreams streams = new KafkaStreams(new Topologies(asked).of(asked.get("workload")), config);
        CountDownLatch running = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                running.countDown();
            }
        });
        streams.setGlobalStateRestoreListener(new StateRestoreListener() {
            @Override
            public void onRestoreStart(TopicPartition partition, String store, long from, long to) {}

            @Override
            public void onBatchRestored(TopicPartition partition, String store, long until, long count) {}

            @Override
            public void onRestoreEnd(TopicPartition partition, String store, long total) {
                RESTORED.addAndGet(total);
            }
        });
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        if (!running.await(RUNNING_S_MAX, TimeUnit.SECONDS)) {
            throw new IllegalStateException("not running after " + RUNNING_S_MAX + " s");
        }
        return streams;
    }

    private static Map<String, String> values(String[] words, int from, Map<String, String> into) {
        for (int i = from; i < words.length; i++) {
            int at = words[i].indexOf('=');
            into.put(words[i].substring(0, at), words[i].substring(at + 1));
        }
        return into;
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
