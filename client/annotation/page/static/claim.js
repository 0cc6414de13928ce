import * as api from "./api.js";

const RENEW_MS = 4 * 60 * 1000;

/** A scan that is being worked on: others see so until it is dropped or runs out. */
export class Claim {
  /** `isActive()` says whether somebody works; only then is the claim renewed. */
  constructor(scanId, isActive) {
    this.scanId = scanId;
    this.isActive = isActive;
    this.holder = null;
    this.leftS = 0;
    this.mine = false;
  }

  /** Claims the scan; whether it is ours now. `holder` and `leftS` tell who else has it. */
  async take() {
    try {
      await api.claim(this.scanId);
      this.mine = true;
    } catch (error) {
      if (!(error instanceof api.Refused) || error.status !== 409) throw error;
      this.holder = error.body.claimed_by ?? null;
      this.leftS = error.body.claim_left_s ?? 0;
      this.words = error.message;
      this.mine = false;
    }
    if (this.mine) this.timer ??= setInterval(() => this.renew(), RENEW_MS);
    return this.mine;
  }

  /** Lets others have the scan. */
  drop() {
    clearInterval(this.timer);
    if (this.mine) api.unclaim(this.scanId).catch(() => {});
    this.mine = false;
  }

  renew() {
    // One that cannot be renewed runs out; saved work is not lost by it.
    if (this.isActive()) api.claim(this.scanId).catch(() => {});
  }
}
