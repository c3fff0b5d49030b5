// Receives webhooks of Tidings: `npm install`, then `TIDINGS_NOTIFY_SECRET=whsec_... node receiver.mjs 9000`.
import { createServer } from "node:http";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const webhook = new Webhook(process.env.TIDINGS_NOTIFY_SECRET);
const seen = new Set(); // in earnest a table of your database, kept for a day

/** Throws a WebhookVerificationError if it is not from your Tidings. */
export function received(headers, body) {
  const message = webhook.verify(body, headers);
  if (seen.has(headers["webhook-id"])) return; // a repeat: an answer of yours got lost
  seen.add(headers["webhook-id"]);
  console.log(message.type, message.data.predictionId);
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  try {
    received(request.headers, Buffer.concat(chunks).toString());
    response.writeHead(204).end();
  } catch (error) {
    response.writeHead(error instanceof WebhookVerificationError ? 401 : 500).end();
  }
});
server.listen(Number(process.argv[2]), "127.0.0.1");
