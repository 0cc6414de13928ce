import { History } from "./history.js";
import { union, whole } from "./rectangle.js";

/**
 * The mask of one slice, a Uint8Array in array order, and every change of it. Tools write between
 * `begin` and `commit`; what is in the mask is what is shown and what is saved.
 */
export class Painting {
  /** `onPixels(rect)` hears of pixels that changed, `onStep()` of a change that is complete. */
  constructor(grid, mask, { onPixels, onStep }) {
    this.grid = grid;
    this.mask = mask;
    this.history = new History();
    this.onPixels = onPixels;
    this.onStep = onStep;
    this.before = null;
    this.touched = null;
  }

  begin() {
    this.before = this.mask.slice();
    this.touched = null;
  }

  /** Labels the pixels of row y from x = `first` to `last`, both included, where `accepts` agrees. */
  paintRow(y, first, last, label, accepts) {
    const { grid, mask } = this;
    const left = Math.max(first, 0);
    const right = Math.min(last, grid.width - 1);
    if (y < 0 || y >= grid.height || left > right) return;
    for (let x = left, offset = grid.offset(left, y); x <= right; x++, offset -= grid.columns) {
      if (!accepts || accepts(offset)) mask[offset] = label;
    }
    this.touch({ left, top: y, right: right + 1, bottom: y + 1 });
  }

  /** Notes that pixels in a rectangle may have changed. */
  touch(rect) {
    this.touched = union(this.touched, rect);
  }

  /** Ends the change: one step to undo, unless nothing is different. */
  commit() {
    const { before, touched } = this;
    this.before = this.touched = null;
    if (!before || !touched) return;
    const step = { rect: touched, before: this.copy(before, touched), after: this.copy(this.mask, touched) };
    if (step.before.every((label, place) => label === step.after[place])) return;
    this.history.add(step);
    this.onPixels(touched);
    this.onStep();
  }

  /** Takes back what was painted since `begin`. */
  cancel() {
    const { before, touched } = this;
    this.before = this.touched = null;
    if (!before) return;
    this.mask.set(before);
    if (touched) this.onPixels(touched);
  }

  /** Replaces the whole mask, as one step to undo. */
  replace(mask) {
    this.begin();
    this.mask.set(mask);
    this.touch(whole(this.grid));
    this.commit();
  }

  undo() {
    this.put(this.history.undo(), "before");
  }

  redo() {
    this.put(this.history.redo(), "after");
  }

  /** How many pixels each label has, by label index. */
  counts() {
    const counts = new Uint32Array(256);
    for (const label of this.mask) counts[label]++;
    return counts;
  }

  get isEmpty() {
    return this.mask.every((label) => label === 0);
  }

  put(step, which) {
    if (!step) return;
    let place = 0;
    const { left, top, right, bottom } = step.rect;
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) this.mask[this.grid.offset(x, y)] = step[which][place++];
    }
    this.onPixels(step.rect);
    this.onStep();
  }

  copy(mask, { left, top, right, bottom }) {
    const labels = new Uint8Array((right - left) * (bottom - top));
    let place = 0;
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) labels[place++] = mask[this.grid.offset(x, y)];
    }
    return labels;
  }
}
