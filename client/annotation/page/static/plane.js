import { ConfidenceLayer, Hatching } from "./confidence_layer.js";
import { make } from "./element.js";
import { axesOf, Grid, PLANES } from "./orientation.js";
import { pixelAt } from "./tools.js";
import { Pointer } from "./pointer.js";
import { Slices } from "./slices.js";
import { Stage } from "./stage.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** One of the three planes of a volume under review. A position is a voxel [i, j, k]. */
export class Plane {
  /**
   * `volume` has dims, spacing_mm and classes; `hear` has goTo(position), window(across, down) and
   * failed(error).
   */
  constructor(axis, volume, windowing, hear) {
    Object.assign(this, { axis, volume, hear });
    const [rows, columns] = axesOf(axis);
    const { dims, spacing_mm: spacingMm } = volume;
    this.grid = new Grid(dims[rows], dims[columns], spacingMm[rows], spacingMm[columns]);
    this.labels = new ConfidenceLayer(this.grid, volume.classes);
    const hatching = new Hatching();
    const labelLayers = [
      { canvas: this.labels.canvas },
      { draw: (context, view, ratio) => hatching.draw(context, this.labels.doubtful, view, ratio) },
    ];
    this.stage = new Stage(this.grid, axis, { windowing, labelLayers });
    this.title = make("span");
    this.badge = make("span", { class: "badge", text: "painted", hidden: true });
    this.caption = make("div", { class: "caption" }, this.title, this.badge);
    this.element = make("div", { class: `plane ${PLANES[axis]}` }, this.stage.surface, this.caption);
    this.position = null;
    this.shown = null;
  }

  /** Begins; the element must be in the page. */
  start() {
    this.stage.start();
    new Pointer(this.stage.surface, this.pointerHears(), () => "paint");
    this.stage.surface.addEventListener("keydown", (event) => this.key(event));
  }

  close() {
    this.stage.close();
  }

  /** Takes over a new state of the volume; `load(index)` fetches its slices. */
  setVolume(load, painted) {
    this.slices = new Slices(this.volume.dims[this.axis], load);
    this.painted = painted.filter(({ axis }) => axis === this.axis).map(({ index }) => index);
    this.shown = null;
  }

  /** Shows the slice through a position, and where in it that lies. */
  async goTo(position) {
    this.position = position;
    const index = position[this.axis];
    const [rows, columns] = axesOf(this.axis);
    const { width, height } = this.grid;
    this.stage.overlay.drawGuides(this.grid, {
      x: width - 1 - position[rows], y: height - 1 - position[columns],
    });
    if (index === this.shown) return;
    const slices = this.slices;
    try {
      const slice = slices.here(index) ?? (await slices.get(index));
      if (slices === this.slices && this.position[this.axis] === index) this.show(slice, index);
    } catch (error) {
      this.hear.failed(error);
    }
  }

  show({ image, label, confidence }, index) {
    this.shown = index;
    this.labels.paint(label, confidence);
    this.stage.show(image, { withLabels: true });
    this.stage.surface.dataset.shown = index;
    this.title.textContent = `${PLANES[this.axis]} ${index} of 0–${this.volume.dims[this.axis] - 1}`;
    this.badge.hidden = !this.painted.includes(index);
    this.slices.prefetch(index);
  }

  scroll(steps) {
    const last = this.volume.dims[this.axis] - 1;
    const position = [...this.position];
    position[this.axis] = Math.min(Math.max(position[this.axis] + steps, 0), last);
    this.hear.goTo(position);
  }

  pick({ x, y }) {
    const { width, height } = this.grid;
    const [rows, columns] = axesOf(this.axis);
    const position = [...this.position];
    position[rows] = width - 1 - Math.min(Math.max(x, 0), width - 1);
    position[columns] = height - 1 - Math.min(Math.max(y, 0), height - 1);
    this.hear.goTo(position);
  }

  pointerHears() {
    const { canvas } = this.stage;
    const pick = ({ x, y }) => this.pick(pixelAt(this.stage.view.toPixel(x, y)));
    const nothing = () => {};
    return {
      strokeBegin: pick, strokeMove: pick, strokeEnd: nothing, strokeCancel: nothing,
      pan: (across, down) => canvas.move((view) => view.panBy(across, down)),
      zoom: (factor, { x, y }) => canvas.move((view) => view.zoomAt(factor, x, y)),
      window: (across, down) => this.hear.window(across, down),
      scroll: (steps) => this.scroll(steps),
      size: nothing, hover: nothing, leave: nothing,
    };
  }

  key(event) {
    const { key } = event;
    if (key === "PageUp" || key === "PageDown") this.scroll(key === "PageUp" ? 1 : -1);
    else if (key in ARROWS) {
      const [rows, columns] = axesOf(this.axis);
      const { width, height } = this.grid;
      const [across, down] = ARROWS[key];
      this.pick({
        x: width - 1 - this.position[rows] + across, y: height - 1 - this.position[columns] + down,
      });
    } else return;
    event.preventDefault();
  }
}
