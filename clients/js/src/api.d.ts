/** What goes over HTTP, from the OpenAPI document of the service (`/openapi.json`). */

export interface Prediction {
  predictionId: string;
  kind?: "group";
  status: Status;
  version: number;
  createdAt: number;
  updatedAt: number;
  payload?: unknown;
  prompt?: string | LargeField;
  model?: string;
  provider?: string;
  providerId?: string;
  providerUrls?: unknown;
  owner?: string;
  tags?: string[];
  output?: unknown;
  text?: string;
  textLength?: number;
  textMissing?: number;
  textEpoch?: number;
  textClosed?: boolean;
  textParts?: TextPart[];
  textTail?: string;
  textProducers?: Producer[];
  textType?: string;
  textSeq?: string;
  imageUrl?: string;
  imagePath?: string;
  assets?: unknown;
  error?: string | LargeField;
  progress?: number;
  logs?: string;
  logsLength?: number;
  estimatedTime?: number;
  generationTime?: number;
  deadline?: number;
  usage?: Usage;
  webhook?: { host: string; };
  webhookEvents?: ("starting" | "processing" | "succeeded" | "failed" | "canceled" | "waiting")[];
  waiting?: boolean;
  question?: unknown;
  questionId?: string;
  questionNumber?: number;
  answer?: unknown;
  answerId?: string;
  answeredBy?: string;
  answeredAt?: number;
  answerTakenAt?: number;
  askedAs?: string;
  cancelRequestedAt?: number;
  attempt?: string;
  createId?: string;
  pending?: Status;
  assetsError?: string;
  errorCode?: string;
  lateStatus?: Status;
  retries?: number | RetryPolicy;
  stream?: boolean;
  retryOf?: string;
  retryCount?: number;
  firstAttempt?: string;
  retriedAs?: string;
  retriedWith?: RetriedWith;
  group?: string;
  index?: number;
  memberStatus?: string;
  memberRetries?: Record<string, number>;
  members?: unknown;
  orders?: unknown;
  transitions?: Transition[];
  source?: Source;
}

/** Where a prediction stands. */
export type Status = "canceled" | "failed" | "processing" | "starting" | "succeeded";

/** What stands in a field whose content is too large for the record. It lies in object storage, as JSON. */
export interface LargeField {
  $blob: string;
  bytes: number;
  length: number;
  kind?: "number" | "object";
}

/** A part of a large text that lies in object storage, as UTF-8; parts follow one another. */
export interface TextPart {
  hash: string;
  bytes: number;
  crc: number;
}

/** A writer that numbers its pieces; which ones were taken shows in the last number. */
export interface Producer {
  id: string;
  epoch: number;
  seq: number;
}

/** What a prediction has used; each member only grows. */
export interface Usage {
  inputTokens?: number;
  outputTokens?: number;
  seconds?: number;
  images?: number;
  cost?: string;
  currency?: string;
}

/** One entry of the audit trail: the step, when it happened, and the event that caused it. */
export interface Transition {
  from: Status | null;
  to: Status;
  at: number;
  id?: string;
  source?: string;
  position?: string;
}

/** The log a record was built from, and per partition the offset of the last event applied. */
export interface Source {
  log: string;
  offsets?: Record<string, number>;
}

export interface Changes {
  at?: number;
  id?: string;
  status?: Status;
  payload?: unknown;
  prompt?: string | LargeField;
  model?: string;
  provider?: string;
  providerId?: string;
  providerUrls?: unknown;
  owner?: string;
  tags?: string[];
  output?: unknown;
  text?: string;
  imageUrl?: string;
  imagePath?: string;
  assets?: unknown;
  error?: string | LargeField;
  progress?: number;
  logs?: string;
  estimatedTime?: number;
  generationTime?: number;
  deadline?: number;
  usage?: Usage;
  waiting?: boolean;
  question?: unknown;
  questionId?: string;
}

export interface NewPrediction {
  predictionId?: string;
  payload?: unknown;
  prompt?: string | LargeField;
  model: string;
  provider: string;
  owner?: string;
  tags?: string[];
  estimatedTime?: number;
  deadline?: number;
  retries?: number | RetryPolicy;
  stream?: boolean;
  webhook?: string;
  webhookEvents?: ("starting" | "processing" | "succeeded" | "failed" | "canceled" | "waiting")[];
  timeout?: number;
}

/** Which letters to try again; what is given must hold together. */
export interface Redrive {
  positions?: string[];
  reason?: string;
  prediction?: string;
  all?: boolean;
}

export interface RetryPolicy {
  max: number;
  backoff?: number;
  on?: string[];
  then?: RetriedWith[];
}

/** Who is to try. */
export interface Elsewhere {
  provider?: string;
  model?: string;
}

export interface Answer {
  answer: unknown;
  questionNumber?: number;
}

export interface Retry {
  provider?: string;
  model?: string;
}

/** A token: the first one if no header carried it, or a newer one. */
export interface Auth {
  type: "auth";
  token: string;
}

/** Watch predictions by id, or all of an owner, a tag or a model, or everything. */
export interface Subscribe {
  type: "subscribe";
  ref?: number | string;
  predictions?: string[];
  owner?: string;
  tag?: string;
  model?: string;
  all?: boolean;
  known?: Record<string, number>;
  limit?: number;
  snapshot?: boolean;
  text?: "append";
}

/** The end of a subscription, named as it was begun. */
export interface Unsubscribe {
  type: "unsubscribe";
  ref?: number | string;
  predictions?: string[];
  owner?: string;
  tag?: string;
  model?: string;
  all?: boolean;
}

/** A ping in the protocol's own words, for clients that cannot send the WebSocket's. */
export interface Ping {
  type: "ping";
  ref?: number | string;
}

export interface NewGroup {
  orders: ({ payload?: unknown; prompt?: string | LargeField; model?: string; provider?: string; tags?: string[]; estimatedTime?: number; deadline?: number; retries?: number | RetryPolicy; stream?: boolean; webhook?: string | null; webhookEvents?: ("starting" | "processing" | "succeeded" | "failed" | "canceled" | "waiting")[]; timeout?: number; })[];
  payload?: unknown;
  prompt?: string | LargeField;
  model?: string;
  provider?: string;
  tags?: string[];
  estimatedTime?: number;
  deadline?: number;
  retries?: number | RetryPolicy;
  stream?: boolean;
  webhook?: string;
  webhookEvents?: ("starting" | "processing" | "succeeded" | "failed" | "canceled" | "waiting")[];
  timeout?: number;
  owner?: string;
  group?: string | true;
}

export type NewOrder = NewPrediction | NewGroup;

export interface RetriedWith {
  provider?: string;
  model?: string;
}

export interface Problem {
  type: string;
  title: string;
  detail: string;
  code: string;
  error: string;
  errorCode: string;
  status: number;
  success: false;
}

export interface Accepted {
  success: true;
}

export type Subscriptions = Subscribe[];

export interface PredictionAnswer {
  success: true;
  data: Record<string, unknown>;
}

export interface WholePrediction {
  success: true;
  data: Prediction;
}

export interface PredictionList {
  success: true;
  data: Prediction[];
  cursor: string | null;
  searched?: number;
  unsearchable?: number;
  counts?: { total?: number; complete?: boolean; byStatus?: Record<string, number>; };
}

export interface UsageSums {
  success: true;
  data: ({ predictions: number; inputTokens: number; outputTokens: number; images: number; seconds: number; costs: Record<string, string>; owner?: string; model?: string; provider?: string; day?: string; })[];
  groupBy: string[];
  keptSeconds: number | null;
}

export interface Figures {
  success: true;
  data: Record<string, unknown>;
}

export interface DeadLetterList {
  success: true;
  data: (Record<string, unknown>)[];
  open: number;
  openReasons: Record<string, number>;
  count?: number;
  reasons?: Record<string, number>;
}

export interface DeliveryList {
  success: true;
  data: ({ predictionId: string; host: string; id: string; type: string; attempts: number; since: number; due: number; error: string | null; })[];
  waiting: Record<string, number>;
  switchedOff: ({ host: string; at: number; reason: string; })[];
}

export interface RawReports {
  success: true;
  data: ({ position: string; at: number; provider: string | null; delivery: string | null; bytes: number; body: string; })[];
}

export interface Health {
  status: string;
}

export interface Change {
  type: "change";
  prediction: Prediction;
  ref?: number | string;
}

export interface Append {
  type: "append";
  predictionId: string;
  offset: number;
  text: string;
  version?: number;
  updatedAt?: number;
}

export interface Snapshot {
  type: "snapshot";
  prediction: Prediction;
  ref?: number | string;
}

export interface Deleted {
  type: "deleted";
  predictionId: string;
  version: number;
  reason?: "expired";
}

export interface Unknown {
  type: "unknown";
  predictionId: string;
  ref?: number | string;
}

export interface Synced {
  type: "synced";
  more: boolean;
  ref?: number | string;
}

export interface Welcome {
  type: "welcome";
  session: string;
  heartbeat: number;
  ref?: number | string;
  anonymous?: true;
  publicUrl?: string;
}

export interface Subscribed {
  type: "subscribed";
  ref?: number | string;
}

export interface Unsubscribed {
  type: "unsubscribed";
  ref?: number | string;
}

export interface Pong {
  type: "pong";
  ref?: number | string;
}

export interface Error {
  type: "error";
  code: string;
  message: string;
  ref?: number | string;
}

export interface Bye {
  type: "bye";
  retryAfter: number;
  ref?: number | string;
}
