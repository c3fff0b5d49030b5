import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * What Tidings is measured against on the JVM: transitions checked by key in a RocksDB store with
 * its changelog, the new record sent to a topic. What it does less: no duplicates told by their
 * position, no audit trail, no dead letters, no fsync.
 *
 * Environment: KAFKA, FROM, TO, GROUP, STATE. Argument: the number of threads.
 */
public final class KafkaStreamsPeer {
    private static final String STORE = "predictions";
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, Set<String>> ALLOWED = Map.of(
        "", Set.of("starting"),
        "starting", Set.of("processing", "failed", "canceled"),
        "processing", Set.of("succeeded", "failed", "canceled"));

    private static final class Transitions implements Processor<String, byte[], String, byte[]> {
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> store;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            this.store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                byte[] after = apply(store.get(record.key()), JSON.readTree(record.value()));
                if (after != null) {
                    store.put(record.key(), after);
                    context.forward(record.withValue(after));
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private static byte[] apply(byte[] before, JsonNode event) throws IOException {
            boolean first = before == null;
            ObjectNode prediction =
                first ? JSON.createObjectNode() : (ObjectNode) JSON.readTree(before);
            String status = first ? "" : prediction.get("status").asText();
            if (!ALLOWED.getOrDefault(status, Set.of()).contains(event.get("status").asText())) {
                return null;
            }
            if (first) {
                prediction.set("id", event.get("predictionId"));
                prediction.set("prompt", event.get("prompt"));
                prediction.set("createdAt", event.get("at"));
            }
            prediction.set("status", event.get("status"));
            prediction.set("at", event.get("at"));
            prediction.set("event", event.get("id"));
            return JSON.writeValueAsBytes(prediction);
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        Map<String, String> given = System.getenv();
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, given.get("GROUP"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given.get("KAFKA"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, given.get("STATE"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, "0");
        settings.put("auto.offset.reset", "earliest");
        Serde<String> text = Serdes.String();
        Serde<byte[]> bytes = Serdes.ByteArray();
        Topology topology = new Topology()
            .addSource("events", text.deserializer(), bytes.deserializer(), given.get("FROM"))
            .addProcessor("transitions", Transitions::new, "events")
            .addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), text, bytes),
                "transitions")
            .addSink("changes", given.get("TO"), text.serializer(), bytes.serializer(), "transitions");
        KafkaStreams streams = new KafkaStreams(topology, settings);
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            stopped.countDown();
        }));
        streams.start();
        stopped.await();
    }
}
