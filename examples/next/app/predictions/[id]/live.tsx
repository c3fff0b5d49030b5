"use client";
import type { Prediction } from "@tidings/client";
import { TidingsProvider, usePrediction } from "@tidings/react";

function Status({ id }: { id: string }) {
  const { prediction } = usePrediction(id);
  return <p id="status">{prediction?.status}</p>;
}

export function Live({ id, ...provider }: { id: string; snapshot: Prediction[]; url?: string }) {
  return (
    <TidingsProvider {...provider}>
      <Status id={id} />
    </TidingsProvider>
  );
}
