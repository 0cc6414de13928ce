/** A canvas of the slice's own resolution that holds the label colours; background is clear. */
export class MaskLayer {
  constructor(grid, classes) {
    this.grid = grid;
    this.canvas = document.createElement("canvas");
    this.canvas.width = grid.width;
    this.canvas.height = grid.height;
    // Strokes write small rectangles all the time; a copy in graphics memory would be sent each time.
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.pixels = this.context.createImageData(grid.width, grid.height);
    this.palette = new Uint32Array(256);
    for (const { index, colour } of classes) this.palette[index] = toAbgr(colour);
  }

  /** Takes over the mask's pixels in a rectangle. */
  paint(mask, { left, top, right, bottom }) {
    const { grid, palette } = this;
    const colours = new Uint32Array(this.pixels.data.buffer);
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) colours[y * grid.width + x] = palette[mask[grid.offset(x, y)]];
    }
    this.context.putImageData(this.pixels, 0, 0, left, top, right - left, bottom - top);
  }
}

/** "#rrggbb" as the bytes of an opaque canvas pixel. */
export function toAbgr(colour) {
  const [red, green, blue] = [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
