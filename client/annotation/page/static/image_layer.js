/** A canvas of the slice's own resolution that holds its grey values as they are windowed. */
export class ImageLayer {
  constructor(grid) {
    this.grid = grid;
    this.canvas = document.createElement("canvas");
    this.canvas.width = grid.width;
    this.canvas.height = grid.height;
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.pixels = this.context.createImageData(grid.width, grid.height);
  }

  /** Shows Int16Array `slice`, in array order. */
  paint(slice, windowing) {
    const { width, height, columns, numPixels } = this.grid;
    const colours = new Uint32Array(this.pixels.data.buffer);
    const { lookup } = windowing;
    for (let x = 0; x < width; x++) {
      let offset = numPixels - 1 - x * columns;
      for (let y = 0, place = x; y < height; y++, place += width, offset--) {
        colours[place] = lookup[slice[offset] + 32768];
      }
    }
    this.context.putImageData(this.pixels, 0, 0);
  }
}
