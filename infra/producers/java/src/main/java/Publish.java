import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.apicurio.registry.serde.avro.AvroKafkaSerializer;
import io.apicurio.registry.serde.strategy.TopicIdStrategy;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.ArrayList;
import java.util.Map;
import java.util.Scanner;
import java.util.concurrent.Future;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

/** Rows as JSON lines on stdin, one event each: BOOTSTRAP REGISTRY TOPIC KEY_FIELD. Times are milliseconds UTC. */
public class Publish {
    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], registry = args[1], topic = args[2], key = args[3];
        Schema schema = registered(registry + "/apis/ccompat/v7/subjects/" + topic + "-value/versions/latest/schema");
        var sent = new ArrayList<Future<RecordMetadata>>();
        try (var producer = new KafkaProducer<String, GenericRecord>(Map.of(
                "bootstrap.servers", bootstrap,
                "key.serializer", StringSerializer.class, // and murmur2 of it chooses the partition, as all clients should
                "value.serializer", AvroKafkaSerializer.class,
                "apicurio.registry.url", registry + "/apis/registry/v3",
                "apicurio.registry.artifact-resolver-strategy", TopicIdStrategy.class.getName(), // subject <topic>-value
                "apicurio.registry.find-latest", true, // the schema the plan registered; a producer brings none of its own
                "enable.idempotence", true))) {
            for (var lines = new Scanner(System.in, "UTF-8"); lines.hasNextLine(); ) {
                JsonNode row = new ObjectMapper().readTree(lines.nextLine());
                var event = new GenericData.Record(schema);
                schema.getFields().forEach(field -> event.put(field.pos(), value(field.schema(), row.path(field.name()))));
                sent.add(producer.send(new ProducerRecord<>(topic, row.get(key).asText(), event)));
            }
            for (var one : sent) one.get(); // fails with what the broker said
        }
        System.out.println(sent.size() + " events in " + topic);
        System.exit(0); // the registry's client leaves threads behind
    }

    private static Object value(Schema schema, JsonNode node) {
        return node.isNull() || node.isMissingNode() ? null : switch (schema.getType()) {
            case UNION -> value(schema.getTypes().stream().filter(t -> t.getType() != Schema.Type.NULL).findFirst().get(), node);
            case INT -> node.asInt();
            case LONG -> node.asLong();
            case FLOAT -> (float) node.asDouble();
            case DOUBLE -> node.asDouble();
            case BOOLEAN -> node.asBoolean();
            default -> node.asText();
        };
    }

    private static Schema registered(String url) throws Exception {
        var answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(url)).build(), BodyHandlers.ofString());
        if (answer.statusCode() != 200) throw new IllegalStateException(url + ": " + answer.body());
        return new Schema.Parser().parse(answer.body());
    }
}
