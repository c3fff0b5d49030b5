/** The browser client of Tidings. */

export type Status = "starting" | "processing" | "succeeded" | "failed" | "canceled";

/** One entry of a record's audit trail; `at` in ms since the epoch. */
export interface Transition {
  from: Status | null;
  to: Status;
  at: number;
  id?: string;
  source?: string;
  /** `partition:offset` of the event in its log. */
  position?: string;
}

/** What stands in a field that is too large for the record; `/api/predictions/{id}/blobs/{$blob}` has the content. */
export interface LargeField {
  $blob: string;
  bytes: number;
  /** Items of a list, characters of a string, members of an object. */
  length: number;
  kind?: "object" | "number";
}

/** When, how often and by whom a prediction is tried again. */
export interface RetryPolicy {
  max: number;
  /** Ms before the first retry; twice as long before each further one. */
  backoff?: number;
  /** Error codes and parts of error texts; none: every failure. */
  on?: string[];
  /** Who makes the first retry, the second and so on. */
  then?: { provider?: string; model?: string }[];
}

/** What a prediction has used; each number only grows. */
export interface Usage {
  inputTokens?: number;
  outputTokens?: number;
  /** Of computing, or of what was transcribed. */
  seconds?: number;
  images?: number;
  /** A decimal number, with its currency. */
  cost?: string;
  /** As in ISO 4217. */
  currency?: string;
}

/** Everything known about a prediction at one version. Times are ms since the epoch; absent fields are left out. */
export interface Prediction<Output = unknown> {
  predictionId: string;
  status: Status;
  version: number;
  createdAt: number;
  updatedAt: number;
  deleted?: undefined;
  payload?: unknown;
  prompt?: string | LargeField;
  model?: string;
  provider?: string;
  providerId?: string;
  providerUrls?: unknown;
  owner?: string;
  tags?: string[];
  output?: Output;
  /** Up to 32 KiB; of a longer one see `textParts`. */
  text?: string;
  imageUrl?: string;
  imagePath?: string;
  assets?: unknown;
  error?: string | LargeField;
  /** From 0 to 1. */
  progress?: number;
  /** The end of the logs, whose whole length is `logsLength`. */
  logs?: string;
  /** In ms. */
  estimatedTime?: number;
  /** In ms. */
  generationTime?: number;
  /** When it fails unless it has ended, in ms since the epoch. */
  deadline?: number;
  /** What it has used, and what that cost. */
  usage?: Usage;
  assetsError?: string;
  /** Why it failed, for programs. */
  errorCode?: string;
  /** How it ended at its provider after its deadline had failed it. */
  lateStatus?: Status;
  /** How often, when and by whom it is tried again if it fails. */
  retries?: number | RetryPolicy;
  /** The prediction that this one tries again, and how many attempts there were before it. */
  retryOf?: string;
  retryCount?: number;
  /** The first of those attempts. */
  firstAttempt?: string;
  /** The prediction that tries this one again. */
  retriedAs?: string;
  retriedWith?: { provider?: string; model?: string };
  /** The group that it is a member of, and its place there. */
  group?: string;
  index?: number;
  /** `group`: it stands for its members. */
  kind?: "group";
  /** Of a group: a letter a member. q: queued, p: processing, s: succeeded, f: failed, c: canceled. */
  memberStatus?: string;
  /** Of a group: how often members were tried again, by place. */
  memberRetries?: Record<string, number>;
  /** Of a group: references to its members' ids and orders. */
  members?: LargeField;
  orders?: LargeField;
  /** Its text is read from its provider while it grows. */
  stream?: boolean;
  /** The host of the server that is told of its steps. */
  webhook?: { host: string };
  /** The statuses that this server is told of; the last ones if it is left out. */
  webhookEvents?: (Status | "waiting")[];
  logsLength?: number;
  /** Bytes of the text in UTF-8. */
  textLength?: number;
  /** How far the text is known to reach if pieces of it are missing. */
  textMissing?: number;
  /** The version at which the text was last replaced by one that does not begin with it. */
  textEpoch?: number;
  /** Nothing is appended any more. */
  textClosed?: boolean;
  /** Of a text over 32 KiB the parts that lie in object storage; `textTail` follows them. */
  textParts?: { hash: string; bytes: number; crc: number }[];
  textTail?: string;
  /** The text's content type if it is not `text/plain` alone. */
  textType?: string;
  textSeq?: string;
  textProducers?: { id: string; epoch: number; seq: number }[];
  /** It waits for a person to answer `question`. */
  waiting?: boolean;
  /** What was asked last. */
  question?: Question | LargeField;
  questionId?: string;
  /** How many questions there were up to this one. */
  questionNumber?: number;
  /** The answer to it: any JSON. */
  answer?: unknown;
  answerId?: string;
  /** Who answered: the `sub` of the token. */
  answeredBy?: string;
  answeredAt?: number;
  /** When the provider took the answer. */
  answerTakenAt?: number;
  /** The provider's id of the job that asked, if it goes on as another. */
  askedAs?: string;
  cancelRequestedAt?: number;
  attempt?: string;
  createId?: string;
  pending?: Status;
  transitions?: Transition[];
  source?: { log: string; offsets?: Record<string, number> };
}

/** A question: a text, or an object; without `choices` any answer is taken. */
export type Question = string | { text: string; choices?: unknown[]; [more: string]: unknown };

/** A prediction is gone: deleted or expired. */
export interface Deleted {
  predictionId: string;
  version: number;
  deleted: true;
  /** It is hidden by its time to live; without a reason it was deleted. */
  reason?: "expired";
  status?: undefined;
}

export type Update<Output = unknown> = Prediction<Output> | Deleted;

/** An order for `create`. */
export interface NewPrediction {
  /** One is made unless said. */
  predictionId?: string;
  payload?: unknown;
  prompt?: string | LargeField;
  model: string;
  provider: string;
  owner?: string;
  tags?: string[];
  /** In ms. */
  estimatedTime?: number;
  /** When it fails unless it has ended, in ms since the epoch. */
  deadline?: number;
  retries?: number | RetryPolicy;
  stream?: boolean;
  webhook?: string;
  webhookEvents?: ("starting" | "processing" | "succeeded" | "failed" | "canceled" | "waiting")[];
  /** Ms that it may take, instead of a deadline. */
  timeout?: number;
}

/** An order for `create` of up to 1,000 predictions that belong together. */
export interface NewGroup extends Partial<Omit<NewPrediction, "predictionId" | "webhook">> {
  /** The group's id; true: the service chooses one. */
  group?: string | true;
  /** Of each member what differs from what is said for all. */
  orders: (Partial<Omit<NewPrediction, "predictionId" | "owner" | "webhook">> & { webhook?: string | null })[];
  /** Told of the group, and of each member that does not say null. */
  webhook?: string;
}

/** What `list` is asked for. */
export interface Filters {
  /** The members of this group. */
  group?: string;
  /** `group`: groups alone. */
  kind?: "group";
  status?: Status;
  owner?: string;
  model?: string;
  tag?: string;
  provider?: string;
  /** A code, or words of the error. */
  error?: string;
  /** Words of the id or the prompt. */
  text?: string;
  /** 50 unless said. */
  limit?: number;
  /** Of the page before. */
  cursor?: string | null;
}

/** What is summed, by which of these; `from` and `to` are ISO 8601 or ms since the epoch. */
export interface UsageFilters {
  groupBy?: ("owner" | "model" | "provider" | "day")[];
  from?: string | number;
  to?: string | number;
  owner?: string;
  model?: string;
  provider?: string;
}

/** What some predictions have used; costs are decimal numbers by currency. */
export interface UsageSum {
  owner?: string | null;
  model?: string | null;
  provider?: string | null;
  /** Of UTC, such as 2026-01-31. */
  day?: string | null;
  predictions: number;
  inputTokens: number;
  outputTokens: number;
  seconds: number;
  images: number;
  costs: Record<string, string>;
}

/** A page of predictions, newest first, and the cursor of the next one; null: this was the last. */
export interface Page<Output = unknown> {
  data: Prediction<Output>[];
  cursor: string | null;
}

/** What is watched: exactly one of the first five. */
export type Selection = (
  | { predictions: Iterable<string> }
  | { owner: string }
  | { tag: string }
  | { model: string }
  | { all: true }
) & {
  /** How many of the newest to get at first: 1,000 unless said, at most 10,000. */
  limit?: number;
  /** Versions that the caller has already, by id: only what is newer is handed out. */
  known?: Record<string, number>;
  /** Go on with the next attempt of what is tried again. */
  latest?: boolean;
};

/**
 * Why a watch ended or could not begin. `code` is `unauthorized` (bring another token), `forbidden` (the token does
 * not cover it), `deleted` or `closed` (from `finished`). Else it is a code of the service's, or the number that the
 * connection was closed with.
 */
export class TidingsError extends Error {
  readonly code: string | number;
}

/** A watch. Of one prediction versions only rise; whoever iterates slowly skips to the newest. */
export interface Watch<Output = unknown> extends AsyncIterable<Update<Output>> {
  /** Resolves when what stood at the beginning has been handed out. */
  readonly synced: Promise<void>;
  /** Resolves when it is closed, and rejects with a `TidingsError` if the service ends it. */
  readonly closed: Promise<void>;
  close(): void;
}

export type State = "idle" | "connecting" | "open" | "waiting" | "paused" | "closed";

export interface Options {
  /** A JWT or an API key, or what brings one: it is asked again before the old one expires, and when it is refused. */
  token?: string | (() => string | Promise<string>);
  /** Ms that the page may be hidden before the connection is let go, until it is seen again: 30,000 unless said. */
  pauseAfter?: number;
  /** Use this way alone. Without it a WebSocket is used, and Server-Sent Events if those are blocked. */
  transport?: "websocket" | "sse";
}

/**
 * A client of one service. All its watches share a connection, which is opened with the first of them, comes back by
 * itself, and resumes where it was. Events: `state` (also when nothing but `retryAt` changes) and `error`, with the
 * details of `StateEvent` and a `TidingsError`.
 */
export class Tidings extends EventTarget {
  /** `url` is the address of the service, a path before `/api` included; the page's own origin unless said. */
  constructor(url?: string, options?: Options);
  readonly state: State;
  readonly transport?: "websocket" | "sse";
  /** When it comes back, in ms since the epoch, while it waits. */
  readonly retryAt?: number;
  /** Watch a prediction by id, or a selection. */
  watch<Output = unknown>(
    what: string | Selection,
    callback: (record: Update<Output>) => void,
  ): Watch<Output>;
  watch<Output = unknown>(what: string | Selection): Watch<Output>;
  /**
   * The record of a prediction that has ended, however it ended; rejects if it is deleted. With `latest` that of the
   * last attempt at it.
   */
  finished<Output = unknown>(
    id: string,
    options?: { signal?: AbortSignal; latest?: boolean },
  ): Promise<Prediction<Output>>;
  /** The record as it stands; rejects with `not-found`. */
  get<Output = unknown>(
    id: string,
    options?: { signal?: AbortSignal },
  ): Promise<Prediction<Output>>;
  /** A page of what the token may see, newest first. */
  list<Output = unknown>(filters?: Filters & { signal?: AbortSignal }): Promise<Page<Output>>;
  /** What predictions have used, over the records that the service keeps. */
  usage(filters?: UsageFilters & { signal?: AbortSignal }): Promise<UsageSum[]>;
  /**
   * Order a prediction, or a group: it is written down, and submitted to its provider. While the service is behind, its id alone
   * comes back after 5 s.
   */
  create<Output = unknown>(
    order: NewPrediction | NewGroup,
    options?: {
      /** The same key and owner give the same prediction, so that a repeat orders nothing twice. */
      idempotencyKey?: string;
      signal?: AbortSignal;
    },
  ): Promise<Prediction<Output>>;
  /** Ask for the end of a prediction; its record says when it is there. */
  cancel<Output = unknown>(
    id: string,
    options?: { signal?: AbortSignal },
  ): Promise<Prediction<Output>>;
  /**
   * Try again what failed or was canceled, at another provider or with another model if those are named: the record of
   * the new attempt. What was tried again before gives the attempt that there is.
   */
  retry<Output = unknown>(
    id: string,
    options?: { provider?: string; model?: string; signal?: AbortSignal },
  ): Promise<Prediction<Output>>;
  /**
   * Answer the question that a prediction waits with. Rejects with `answered` if somebody else was first, with
   * `not-waiting` if it does not wait, and with `other-question` if the question is another by now.
   */
  answer<Output = unknown>(
    id: string,
    answer: unknown,
    options?: {
      /** Of the record that the answer is for. */
      questionNumber?: number;
      signal?: AbortSignal;
    },
  ): Promise<Prediction<Output>>;
  /**
   * The text of a prediction as it grows: what is there already, and then each piece once. It ends when the prediction
   * has succeeded, and rejects if it failed, was canceled or is deleted. `replaced` says of the piece that was handed
   * out last that the text starts over with it.
   */
  text(id: string, options?: { signal?: AbortSignal }): AsyncIterable<string> & { readonly replaced: boolean };
  /** Write a prediction's text: pieces are joined while a request is under way, repeated if that helps, and taken once. */
  writer(id: string): TextWriter;
  /** Write what a source yields, and close: a `Response`, a stream of bytes, strings, or chunks of an OpenAI-compatible API. */
  pipe(id: string, source: Response | ReadableStream<Uint8Array> | AsyncIterable<unknown>): Promise<void>;
  /** Connect now instead of at the next attempt. */
  connect(): void;
  /** End every watch and the connection, for good. */
  close(): void;
  addEventListener(
    type: "state",
    listener: (event: CustomEvent<StateEvent>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: "error",
    listener: (event: CustomEvent<TidingsError>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** Writes the text of one prediction. Each call resolves when the service has taken what was written so far. */
export interface TextWriter {
  write(piece: string): Promise<void>;
  /** The prediction has succeeded. */
  close(): Promise<void>;
  /** The prediction has failed. */
  fail(error: unknown): Promise<void>;
}

export interface StateEvent {
  state: State;
  transport?: "websocket" | "sse";
  retryAt?: number;
}
