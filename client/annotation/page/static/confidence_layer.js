import { toAbgr } from "./mask_layer.js";
import { rem } from "./rem.js";

// The likeliest of two classes has a probability of a half at least.
const NO_IDEA = 0.5;
const DOUBTFUL = 0.7;
const PALEST = 0.35;
const HATCH_REM = 0.5;

/**
 * The labels of a review slice in their colours, paler where they are less sure; a second canvas
 * holds the doubtful pixels, to be hatched.
 */
export class ConfidenceLayer {
  constructor(grid, classes) {
    this.grid = grid;
    this.colours = new Uint32Array(256);
    for (const { index, colour } of classes) this.colours[index] = toAbgr(colour) & 0xffffff;
    [this.canvas, this.doubtful] = [0, 1].map(() => {
      const canvas = document.createElement("canvas");
      canvas.width = grid.width;
      canvas.height = grid.height;
      return canvas;
    });
  }

  /** Takes over labels and confidences from 0 to 255, both in array order. */
  paint(label, confidence) {
    const { grid, colours } = this;
    const [shades, doubts] = [this.canvas, this.doubtful].map((canvas) => {
      const context = canvas.getContext("2d");
      return { context, pixels: context.createImageData(grid.width, grid.height) };
    });
    const [shade, doubt] = [shades, doubts].map(({ pixels }) => new Uint32Array(pixels.data.buffer));
    for (let y = 0, place = 0; y < grid.height; y++) {
      for (let x = 0; x < grid.width; x++, place++) {
        const offset = grid.offset(x, y);
        if (label[offset] === 0) continue;
        const probability = confidence[offset] / 255;
        const sureness = Math.max(0, (probability - NO_IDEA) / (1 - NO_IDEA));
        const alpha = 255 * (PALEST + (1 - PALEST) * sureness);
        shade[place] = ((alpha << 24) | colours[label[offset]]) >>> 0;
        if (probability < DOUBTFUL) doubt[place] = 0xffffffff;
      }
    }
    shades.context.putImageData(shades.pixels, 0, 0);
    doubts.context.putImageData(doubts.pixels, 0, 0);
  }
}

/** Draws stripes over the pixels of `doubtful` as they lie on a canvas with its view. */
export class Hatching {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
    this.stripes = stripes();
  }

  draw(target, doubtful, view, ratio) {
    const { canvas, context } = this;
    const { width, height } = target.canvas;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "copy";
    context.imageSmoothingEnabled = false;
    context.drawImage(
      doubtful, view.left * ratio, view.top * ratio,
      doubtful.width * view.pixelWidth * ratio, doubtful.height * view.pixelHeight * ratio,
    );
    context.globalCompositeOperation = "source-in";
    context.fillStyle = context.createPattern(this.stripes, "repeat");
    context.fillRect(0, 0, width, height);
    target.setTransform(1, 0, 0, 1, 0, 0);
    target.drawImage(canvas, 0, 0);
  }
}

function stripes() {
  const canvas = document.createElement("canvas");
  const side = Math.round(rem(HATCH_REM) * window.devicePixelRatio);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.strokeStyle = "rgba(8, 10, 14, 0.85)";
  context.lineWidth = 0.23 * side;
  context.beginPath();
  for (const shift of [-side, 0, side]) {
    context.moveTo(shift - 1, side + 1);
    context.lineTo(shift + side + 1, -1);
  }
  context.stroke();
  return canvas;
}
