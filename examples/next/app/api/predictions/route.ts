// A route handler that orders a prediction: the provider's token stays on the server.
import { Tidings } from "@tidings/client";

const tidings = new Tidings(process.env.TIDINGS_URL ?? "http://127.0.0.1:8080", { token: process.env.TIDINGS_TOKEN });

export async function POST(request: Request): Promise<Response> {
  const { prompt } = (await request.json()) as { prompt: string };
  const record = await tidings.create({ provider: "replicate", model: "tidings/picture", prompt });
  return Response.json({ id: record.predictionId }, { status: 201 });
}
