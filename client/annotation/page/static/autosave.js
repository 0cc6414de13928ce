import { Refused } from "./api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
const MID_STROKE_MS = 600;
// Browsers let a larger request die with its page.
const MOST_KEEPALIVE_BYTES = 60000;
const SESSION_ENDED = 401;
const NEWER_DRAFT = 409;

/**
 * Saves the mask after every change: one request at a time, always the newest state, again and
 * again until it is through. Its state is saved, saving, offline, conflict or refused.
 */
export class Autosave {
  /**
   * `read()` gives {mask, seconds} as they are now, the mask copied; `save(draft)` and `load()`
   * reach the server; `onState(state, words)` hears how it stands; `onConflict(draft)` that somebody
   * else's window saved a newer draft: nothing is saved until `continueFrom`.
   */
  constructor(version, { read, save, load, onState, onConflict }) {
    Object.assign(this, { version, read, save, load, onState, onConflict });
    this.state = "saved";
    this.unsaved = false;
    this.running = false;
    this.attempted = null;
    this.midStroke = null;
    this.wake = () => {};
    this.heard = [];
    this.closed = false;
  }

  /** The mask changed: save it. */
  changed() {
    clearTimeout(this.midStroke);
    this.midStroke = null;
    this.unsaved = true;
    if (!this.running && this.state !== "conflict") this.run();
  }

  /** A stroke goes on: save what is there now and then. */
  changing() {
    this.unsaved = true;
    this.midStroke ??= setTimeout(() => this.changed(), MID_STROKE_MS);
  }

  /** Waits until everything is saved; false if it cannot be, for now. */
  async flush() {
    if (this.unsaved) this.changed();
    while (this.unsaved || this.running) {
      if (!["saving", "saved"].includes(this.state)) return false;
      await new Promise((resolve) => this.heard.push(resolve));
    }
    return true;
  }

  /** Tries again at once. */
  retry() {
    this.wake();
    if (this.unsaved) this.changed();
  }

  /** Settles a conflict: what comes next continues the version that the server has. */
  continueFrom(version, { unsaved }) {
    this.version = version;
    this.unsaved = unsaved;
    this.tell("saved");
    if (unsaved) this.changed();
  }

  /** The page goes away: sends what is not saved yet, without waiting for an answer. */
  leave() {
    this.close();
    if (!this.unsaved || this.state === "conflict") return;
    const { mask, seconds } = this.read();
    // One that is under way may die with the page, arrive, or arrive after this one.
    const another = Boolean(this.running && this.attempted);
    const leaving = mask.length <= MOST_KEEPALIVE_BYTES;
    this.save({ mask, seconds, version: this.version, another, leaving }).catch(() => {});
  }

  close() {
    clearTimeout(this.midStroke);
    this.closed = true;
    this.wake();
  }

  async run() {
    this.running = true;
    let waitMs = FIRST_WAIT_MS;
    while (this.unsaved && !this.closed) {
      try {
        await this.saveOnce();
        waitMs = FIRST_WAIT_MS;
      } catch (error) {
        this.unsaved = true;
        if (!(await this.recover(error, waitMs))) break;
        waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
      }
    }
    this.running = false;
    this.tell(this.state);
  }

  async saveOnce() {
    this.unsaved = false;
    this.tell("saving");
    const { mask, seconds } = this.read();
    this.attempted ??= [];
    this.attempted.push(mask);
    this.version = (await this.save({ mask, seconds, version: this.version })).version;
    this.attempted = null;
    if (!this.unsaved) this.tell("saved");
  }

  /** Whether to try again after an error. */
  async recover(error, waitMs) {
    if (!(error instanceof Refused) || error.status === SESSION_ENDED) {
      this.tell("offline", error.message);
      await this.pause(waitMs);
      return true;
    }
    if (error.status !== NEWER_DRAFT) {
      this.tell("refused", error.message);
      return false;
    }
    return this.adoptOwn();
  }

  /** After a 409: whether the newer draft is our own, saved by a request whose answer was lost. */
  async adoptOwn() {
    let newest;
    try {
      newest = await this.load();
    } catch (error) {
      this.tell("offline", error.message);
      await this.pause(FIRST_WAIT_MS);
      return true;
    }
    if (!newest || this.attempted.some((mask) => sameBytes(mask, newest.mask))) {
      this.version = newest ? newest.version : 0;
      return true;
    }
    this.attempted = null;
    this.tell("conflict");
    this.onConflict(newest);
    return false;
  }

  pause(waitMs) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, waitMs);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  tell(state, words = "") {
    this.state = state;
    this.onState(state, words);
    for (const resolve of this.heard.splice(0)) resolve();
  }
}

function sameBytes(one, other) {
  return one.length === other.length && one.every((byte, place) => byte === other[place]);
}
