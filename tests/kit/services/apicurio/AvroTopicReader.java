import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Collectors;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;

/** Prints the committed records of topics up to their ends: key, tab, value. */
public class AvroTopicReader {
    public static void main(String[] arguments) {
        Properties properties = new Properties();
        properties.putAll(Map.of(
            "bootstrap.servers", arguments[0],
            "isolation.level", "read_committed",
            "auto.offset.reset", "earliest",
            "key.deserializer", AvroKafkaDeserializer.class.getName(),
            "value.deserializer", AvroKafkaDeserializer.class.getName(),
            "apicurio.registry.url", arguments[1],
            // The wire format of Confluent: four bytes with the id.
            "apicurio.registry.as-confluent", "true",
            "apicurio.registry.use-id", "contentId"));
        List<String> topics = List.of(arguments).subList(2, arguments.length);
        try (KafkaConsumer<GenericRecord, GenericRecord> consumer = new KafkaConsumer<>(properties)) {
            List<TopicPartition> partitions = topics.stream()
                .flatMap(topic -> consumer.partitionsFor(topic).stream())
                .map(info -> new TopicPartition(info.topic(), info.partition()))
                .collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(it -> consumer.position(it) < ends.get(it))) {
                ConsumerRecords<GenericRecord, GenericRecord> records =
                    consumer.poll(Duration.ofMillis(500));
                records.forEach(it -> System.out.println(it.key() + "\t" + it.value()));
            }
        }
    }
}
