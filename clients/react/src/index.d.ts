import type { Options, Prediction, Selection, Tidings, TidingsError } from "@tidings/client";
import type { FunctionComponent, ReactNode } from "react";

export interface ProviderProps extends Options {
  /** A client of yours, which stays open; else one is made, and closed with the provider. */
  client?: Tidings;
  /** The address of the service; the page's own origin unless said. */
  url?: string;
  /** Records that the server has read already: what is first shown, there and here. */
  snapshot?: Prediction[];
  children?: ReactNode;
}

/**
 * Gives the hooks beneath it a service and a token. Without one they use the page's own origin. All hooks of a
 * provider share one connection. Give it a `key` of the user, so that another user gets another connection.
 */
export const TidingsProvider: FunctionComponent<ProviderProps>;

/** The client, to `create`, `cancel`, `list` and `get`. Not on the server, which has no page and so no origin. */
export function useTidings(): Tidings;

export interface PredictionState<Output = unknown> {
  /** The newest record; undefined while there is none. */
  prediction?: Prediction<Output>;
  /** It was there, and was deleted or has expired. */
  deleted?: boolean;
  /** Nothing is known yet. */
  loading: boolean;
  /** Why it is watched no longer: a refused token, a missing right. */
  error?: TidingsError;
}

/** One prediction, as it changes; null and undefined watch nothing. */
export function usePrediction<Output = unknown>(
  id: string | null | undefined,
  options?: { initial?: Prediction<Output> },
): PredictionState<Output>;

export interface TextState {
  /** As far as it has grown. */
  text: string;
  /** The prediction has succeeded, and this is all of it. */
  done: boolean;
  /** Nothing is known yet. */
  loading: boolean;
  /** It failed, was canceled or deleted, or may not be read. */
  error?: TidingsError;
}

/** The text of a prediction as it grows; null and undefined watch nothing. */
export function useText(
  id: string | null | undefined,
  options?: { initial?: string },
): TextState;

export interface PredictionsState<Output = unknown> {
  /** Newest first. */
  predictions: Prediction<Output>[];
  /** What stands there is still coming. */
  loading: boolean;
  error?: TidingsError;
}

/** The predictions of an owner, a tag or a model, or those named, as they change; null watches nothing. */
export function usePredictions<Output = unknown>(
  selection: Selection | null | undefined,
  options?: { initial?: Prediction<Output>[] },
): PredictionsState<Output>;
