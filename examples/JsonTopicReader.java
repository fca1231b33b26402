import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Prints the change events of a topic prefix (oplog-producer run --format json), one per line.
 *
 * <p>Arguments: brokers, topic prefix, group. With a fourth argument, "once", it stops when it has
 * read everything that the topics held at the start. Needs only kafka-clients:
 *
 * <pre>java -cp '/opt/kafka/libs/*' JsonTopicReader.java localhost:9092 cdc printer once</pre>
 */
public class JsonTopicReader {
    public static void main(String[] arguments) {
        var properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        properties.put(ConsumerConfig.GROUP_ID_CONFIG, arguments[2]);
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        // The default, read_uncommitted, also returns records of aborted transactions.
        properties.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        var once = arguments.length > 3 && arguments[3].equals("once");
        // Data topics are named <prefix>.<database>.<collection>.
        var topics = Pattern.compile(Pattern.quote(arguments[1]) + "\\.[^.]+\\.[^.]+");

        try (var consumer = new KafkaConsumer<>(
                properties, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(topics);
            Map<TopicPartition, Long> ends = Map.of();
            while (true) {
                var records = consumer.poll(Duration.ofMillis(200));
                for (ConsumerRecord<String, String> record : records) {
                    // The key is the document's _id: all changes of a document are in one partition,
                    // in order. Events with the operationType "noop" change nothing: they are barriers for
                    // oplog-consumer replay, and a program that acts on events skips them.
                    System.out.println(record.value());
                }
                // The records were processed before this commit, so a crash repeats records but
                // loses none. The fields source, ts and ord of a change event's _id identify it.
                consumer.commitSync();
                if (!once || consumer.assignment().isEmpty()) {
                    continue;
                }
                if (ends.isEmpty()) {
                    ends = consumer.endOffsets(consumer.assignment());
                }
                var caughtUp = ends.entrySet().stream()
                        .allMatch(end -> consumer.position(end.getKey()) >= end.getValue());
                if (caughtUp) {
                    return;
                }
            }
        }
    }
}
