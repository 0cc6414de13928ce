const NUM_VALUES = 65536;

/** Which grey value is black and which white: {low, high}. */
export class Windowing {
  constructor(low, high) {
    this.lookup = new Uint32Array(NUM_VALUES);
    this.set(low, high);
  }

  get width() {
    return this.high - this.low;
  }

  get level() {
    return (this.low + this.high) / 2;
  }

  set(low, high) {
    this.low = Math.round(low);
    this.high = Math.max(Math.round(high), this.low + 1);
    const perValue = 255 / (this.high - this.low);
    for (let value = -NUM_VALUES / 2; value < NUM_VALUES / 2; value++) {
      const grey = Math.round(Math.min(Math.max((value - this.low) * perValue, 0), 255));
      this.lookup[value + NUM_VALUES / 2] = (255 << 24) | (grey << 16) | (grey << 8) | grey;
    }
  }

  /** A drag by CSS pixels: across widens (less contrast), down darkens. */
  drag(across, down) {
    const step = Math.max(this.width, 16) / 250;
    const width = Math.max(this.width + across * step, 2);
    const level = this.level + down * step;
    this.set(level - width / 2, level + width / 2);
  }
}
