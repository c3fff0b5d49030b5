// Reports about a prediction through Kafka: `java -cp "libs/*" Producer.java 127.0.0.1:9092 p1`, with kafka-clients in libs.
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Producer {
    public static void main(String[] arguments) throws Exception {
        String id = arguments[1];
        List<String> reports = List.of(
            "{\"predictionId\": \"%s\", \"status\": \"processing\", \"progress\": 0.5, \"prompt\": \"a jersey\"}",
            "{\"predictionId\": \"%s\", \"status\": \"succeeded\", \"imageUrl\": \"https://example.com/jersey.png\"}");
        Map<String, Object> settings = Map.of("bootstrap.servers", arguments[0], "acks", "all", "enable.idempotence", true);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (String report : reports) {
                // The key keeps the reports of a prediction in their order.
                producer.send(new ProducerRecord<>("predictions.events", id, report.formatted(id))).get();
            }
        }
        System.out.println("sent");
    }
}
