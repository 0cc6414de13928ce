import { View } from "./view.js";

const BACKGROUND = "#07090c";

/**
 * A canvas that shows a slice and labels over it. Only what changed is drawn: `redraw()` the whole,
 * `redraw(rect)` a pixel rectangle, both with the next frame.
 */
export class SliceCanvas {
  /** `element` is the <canvas>; `onView()` hears of pans, zooms and new sizes. */
  constructor(element, grid, onView = () => {}) {
    this.element = element;
    this.context = element.getContext("2d", { alpha: false });
    this.view = new View(grid);
    this.grid = grid;
    this.layers = [];
    this.onView = onView;
    this.waiting = null;
    this.frame = 0;
    this.resizing = new ResizeObserver(() => this.takeSize());
    this.resizing.observe(element.parentElement);
    this.takeSize();
  }

  /** From the bottom up: {canvas, opacity, smooth}, or {draw(context, view, ratio)}. */
  setLayers(layers) {
    this.layers = layers;
    this.redraw();
  }

  /** Changes the view by calling `change(view)`. */
  move(change) {
    change(this.view);
    this.viewChanged();
  }

  redraw(rect = "all") {
    if (this.waiting !== "all") this.waiting = rect === "all" ? rect : [...(this.waiting ?? []), rect];
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  close() {
    this.resizing.disconnect();
    cancelAnimationFrame(this.frame);
  }

  takeSize() {
    const { clientWidth, clientHeight } = this.element.parentElement;
    if (!clientWidth || !clientHeight) return;
    this.ratio = window.devicePixelRatio || 1;
    this.element.width = Math.round(clientWidth * this.ratio);
    this.element.height = Math.round(clientHeight * this.ratio);
    this.view.resize(clientWidth, clientHeight);
    // A resized canvas is blank; drawing it now, not with the next frame, spares a flicker.
    this.waiting = "all";
    this.draw();
    this.viewChanged();
  }

  viewChanged() {
    const { view, element } = this;
    element.dataset.left = view.left;
    element.dataset.top = view.top;
    element.dataset.pixelWidth = view.pixelWidth;
    element.dataset.pixelHeight = view.pixelHeight;
    this.redraw();
    this.onView(view);
  }

  draw() {
    const rects = this.waiting;
    this.waiting = null;
    if (rects === "all") this.drawInside(null);
    else for (const rect of rects ?? []) this.drawInside(rect);
  }

  drawInside(rect) {
    const { context, view, ratio } = this;
    context.save();
    if (rect) {
      const from = view.toScreen(rect.left - 1, rect.top - 1);
      const to = view.toScreen(rect.right + 1, rect.bottom + 1);
      const [left, top] = [Math.floor(from.x * ratio), Math.floor(from.y * ratio)];
      context.beginPath();
      context.rect(left, top, Math.ceil(to.x * ratio) - left, Math.ceil(to.y * ratio) - top);
      context.clip();
    }
    context.fillStyle = BACKGROUND;
    context.fillRect(0, 0, this.element.width, this.element.height);
    for (const layer of this.layers) this.drawLayer(layer);
    context.restore();
  }

  drawLayer({ canvas, opacity = 1, smooth = false, draw }) {
    const { context, view, ratio } = this;
    context.globalAlpha = opacity;
    if (draw) {
      draw(context, view, ratio);
      return;
    }
    context.setTransform(
      view.pixelWidth * ratio, 0, 0, view.pixelHeight * ratio, view.left * ratio, view.top * ratio,
    );
    context.imageSmoothingEnabled = smooth;
    context.drawImage(canvas, 0, 0);
  }
}
