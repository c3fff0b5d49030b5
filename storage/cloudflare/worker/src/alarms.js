// When an object wakes up by itself to remove what is due. A Durable Object has one alarm.

// Rows removed by one alarm, so that it never holds up reads and writes for long.
export const PURGE_BATCH = 500;

// Alarms come at most this often (ms), so that what is due goes in batches and each costs little.
const DELAY = 60_000;

export class Alarms {
  constructor(storage, env) {
    this.storage = storage;
    this.delay = Number(env.ALARM_DELAY_MS ?? DELAY);
    this.at = undefined;
  }

  // Wake up by then (ms, or Infinity for nothing due), or a moment later.
  async by(time) {
    if (time === Infinity) return;
    const at = Math.max(time, Date.now() + this.delay);
    if (this.at === undefined) this.at = (await this.storage.getAlarm()) ?? Infinity;
    if (at >= this.at) return;
    this.at = at;
    await this.storage.setAlarm(at);
  }

  // The alarm rang and was seen to; `next` is when something is due again (null: never).
  async ran(next) {
    this.at = Infinity;
    if (next === null) await this.storage.deleteAlarm();
    else await this.by(next);
  }
}

export function earliestPurge(ops) {
  return ops.reduce((earliest, { purge_at }) => (purge_at == null ? earliest : Math.min(earliest, purge_at)), Infinity);
}
