const PAUSE_S = 20;

/** Seconds at the brush: time counts while there is input, and stops when none came for a while. */
export class ActiveTime {
  constructor(seconds = 0) {
    this.counted = seconds;
    this.lastInput = null;
  }

  /** Input came. */
  touch(now = performance.now()) {
    this.counted += this.sinceInput(now);
    this.lastInput = now;
  }

  /** Stops at once: the page is hidden. */
  pause(now = performance.now()) {
    this.counted += this.sinceInput(now);
    this.lastInput = null;
  }

  seconds(now = performance.now()) {
    return this.counted + this.sinceInput(now);
  }

  isRunning(now = performance.now()) {
    return this.lastInput !== null && now - this.lastInput < PAUSE_S * 1000;
  }

  sinceInput(now) {
    if (this.lastInput === null) return 0;
    return Math.min((now - this.lastInput) / 1000, PAUSE_S);
  }
}

/** Seconds as minutes:seconds. */
export function asMinutes(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
