import { rem } from "./rem.js";

const LARGEST_PIXEL = 96;
const SMALLEST_SHARE_OF_FIT = 0.5;
const MARGIN_REM = 2;

/**
 * Where the slice lies on the canvas, in CSS pixels: `left`, `top` of its corner and `scale` per
 * millimetre. Pixels keep their true proportions.
 */
export class View {
  constructor(grid) {
    this.grid = grid;
    this.width = 1;
    this.height = 1;
    this.margin = rem(MARGIN_REM);
    this.fit();
  }

  get pixelWidth() {
    return this.scale * this.grid.pixelWidthMm;
  }

  get pixelHeight() {
    return this.scale * this.grid.pixelHeightMm;
  }

  /** The scale relative to the one at which the whole slice fits. */
  get zoom() {
    return this.scale / this.fittingScale();
  }

  /** Takes over the canvas's size; what was in the middle stays there. */
  resize(width, height) {
    const fitted = Math.abs(this.zoom - 1) < 1e-6;
    this.left += (width - this.width) / 2;
    this.top += (height - this.height) / 2;
    this.width = width;
    this.height = height;
    this.margin = rem(MARGIN_REM);
    if (fitted) this.fit();
  }

  fit() {
    this.scale = this.fittingScale();
    this.left = (this.width - this.grid.width * this.pixelWidth) / 2;
    this.top = (this.height - this.grid.height * this.pixelHeight) / 2;
  }

  fittingScale() {
    const { grid } = this;
    const across = (this.width - 2 * this.margin) / (grid.width * grid.pixelWidthMm);
    const down = (this.height - 2 * this.margin) / (grid.height * grid.pixelHeightMm);
    return Math.max(Math.min(across, down), 1e-3);
  }

  /** Zooms by `factor`; what lies at the screen position stays there. */
  zoomAt(factor, screenX, screenY) {
    const fit = this.fittingScale();
    const finest = Math.min(this.grid.pixelWidthMm, this.grid.pixelHeightMm);
    const largest = Math.max(LARGEST_PIXEL / finest, fit);
    const scale = Math.min(Math.max(this.scale * factor, fit * SMALLEST_SHARE_OF_FIT), largest);
    const change = scale / this.scale;
    this.left = screenX - (screenX - this.left) * change;
    this.top = screenY - (screenY - this.top) * change;
    this.scale = scale;
    this.keepInSight();
  }

  zoomInMiddle(factor) {
    this.zoomAt(factor, this.width / 2, this.height / 2);
  }

  panBy(across, down) {
    this.left += across;
    this.top += down;
    this.keepInSight();
  }

  /** Pans as little as needed to have the pixel on the canvas, well inside. */
  reveal(x, y) {
    const { x: across, y: down } = this.toScreen(x + 0.5, y + 0.5);
    this.left += inside(across, this.margin, this.width - this.margin) - across;
    this.top += inside(down, this.margin, this.height - this.margin) - down;
  }

  /** Pixel coordinates, not rounded: pixel (i, j) covers [i, i + 1) x [j, j + 1). */
  toPixel(screenX, screenY) {
    return { x: (screenX - this.left) / this.pixelWidth, y: (screenY - this.top) / this.pixelHeight };
  }

  toScreen(x, y) {
    return { x: this.left + x * this.pixelWidth, y: this.top + y * this.pixelHeight };
  }

  keepInSight() {
    const across = this.grid.width * this.pixelWidth;
    const down = this.grid.height * this.pixelHeight;
    this.left = inside(this.left, 2 * this.margin - across, this.width - 2 * this.margin);
    this.top = inside(this.top, 2 * this.margin - down, this.height - 2 * this.margin);
  }
}

function inside(value, low, high) {
  return Math.min(Math.max(value, low), Math.max(low, high));
}
