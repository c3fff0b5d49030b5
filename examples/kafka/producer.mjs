// Reports about a prediction through Kafka: `node producer.mjs 127.0.0.1:9092 p1`. It takes the package kafkajs.
import kafkajs from "kafkajs";

const [brokers, predictionId] = process.argv.slice(2);
const reports = [
  { status: "processing", progress: 0.5, prompt: "a jersey" },
  { status: "succeeded", imageUrl: "https://example.com/jersey.png" },
];
const kafka = new kafkajs.Kafka({ brokers: brokers.split(","), logLevel: kafkajs.logLevel.ERROR });
const producer = kafka.producer({ createPartitioner: kafkajs.Partitioners.DefaultPartitioner, idempotent: true });
await producer.connect();
for (const report of reports) {
  const value = JSON.stringify({ predictionId, ...report });
  // The key keeps the reports of a prediction in their order.
  await producer.send({ topic: "predictions.events", acks: -1, messages: [{ key: predictionId, value }] });
}
await producer.disconnect();
console.log("sent");
