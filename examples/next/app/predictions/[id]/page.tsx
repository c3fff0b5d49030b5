// The server reads the record, and the page goes on from there: no spinner, and nothing is read twice.
import { Tidings, TidingsError } from "@tidings/client";
import { notFound } from "next/navigation";
import { Live } from "./live";

const tidings = new Tidings(process.env.TIDINGS_URL ?? "http://127.0.0.1:8080", { token: process.env.TIDINGS_TOKEN });

export default async function Page({ params }: { params: Promise<{ id: string }> }) {
  const { id } = await params;
  const record = await tidings.get(id).catch((error: unknown) => {
    if (error instanceof TidingsError && error.code === "not-found") notFound();
    throw error;
  });
  return <Live id={id} snapshot={[record]} url={process.env.NEXT_PUBLIC_TIDINGS_URL} />;
}
