const MOST_BYTES = 64 * 2 ** 20;

/**
 * What was changed, step by step. A step is {rect, before, after}: the labels in a pixel rectangle,
 * row after row as on screen.
 */
export class History {
  constructor() {
    this.done = [];
    this.undone = [];
    this.numBytes = 0;
  }

  add(step) {
    this.done.push(step);
    this.undone = [];
    this.numBytes = this.done.reduce((sum, one) => sum + one.before.length + one.after.length, 0);
    while (this.numBytes > MOST_BYTES && this.done.length > 1) {
      const oldest = this.done.shift();
      this.numBytes -= oldest.before.length + oldest.after.length;
    }
  }

  /** The step to take back, or undefined. */
  undo() {
    const step = this.done.pop();
    if (step) this.undone.push(step);
    return step;
  }

  /** The step to do again, or undefined. */
  redo() {
    const step = this.undone.pop();
    if (step) this.done.push(step);
    return step;
  }
}
