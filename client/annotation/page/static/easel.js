import { radiusOf, SIZES } from "./brush.js";
import { MaskLayer } from "./mask_layer.js";
import { Painting } from "./painting.js";
import { Pointer } from "./pointer.js";
import { whole } from "./rectangle.js";
import { Stage } from "./stage.js";
import { BrushTool, FillTool, LassoTool, pixelAt, PolygonTool } from "./tools.js";
import { Windowing } from "./windowing.js";

const ROUND_TOOLS = ["brush", "eraser", "threshold"];
const BAND_STEPS = 100;
// What was last picked stays picked on the next slice.
const settings = { tool: "brush", label: 1, size: 9, bandShare: 0.15, keepOthers: false };

/**
 * One slice to paint and the others to look at: the tools, what they are set to, and the pointer.
 * `shown` is the slice on the screen; only `index`, the one to paint, can be painted.
 */
export class Easel {
  /**
   * `hear` has painting() during a stroke, step() after each change of the mask, changed() when
   * anything else does, hover(pixel) and say(words).
   */
  constructor({ scan, grid, classes, slices, index, mask, corners }, hear) {
    Object.assign(this, { scan, grid, classes, slices, index, hear, settings });
    this.shown = index;
    this.locked = null;
    this.spaceHeld = false;
    this.cursor = null;
    this.stroke = null;
    if (!classes.some((label) => label.index === settings.label)) settings.label = classes[0].index;
    this.windowing = new Windowing(scan.display.low, scan.display.high);
    this.labels = new MaskLayer(grid, classes);
    this.labels.paint(mask, whole(grid));
    const labelLayers = [{ canvas: this.labels.canvas }];
    const { windowing } = this;
    this.stage = new Stage(grid, scan.axis, { windowing, labelLayers, onView: () => hear.changed() });
    this.painting = new Painting(grid, mask, {
      onPixels: (rect) => this.showLabels(rect),
      onStep: () => hear.step(),
    });
    this.corners = corners;
  }

  /** Begins; the stage must be in the page. `slice` is the one to paint. */
  start(slice, rememberCorners) {
    this.slice = slice;
    this.stage.start();
    this.stage.show(slice, { withLabels: true });
    this.polygon = new PolygonTool(this.desk(), this.corners, rememberCorners);
    this.tools = {
      brush: new BrushTool(this.desk()),
      eraser: new BrushTool(this.desk(), { erases: true }),
      threshold: new BrushTool(this.desk(), { banded: true }),
      lasso: new LassoTool(this.desk()),
      polygon: this.polygon,
      fill: new FillTool(this.desk()),
    };
    this.pointer = new Pointer(this.stage.surface, this.pointerHears(), () => this.leftButton());
    this.slices.prefetch(this.index);
    this.settingsChanged();
  }

  close() {
    this.stage.close();
  }

  showLabels(rect) {
    this.labels.paint(this.painting.mask, rect);
    this.stage.canvas.redraw(rect);
  }

  /** What the tools work with. */
  desk() {
    const { painting, grid, slice, stage, hear } = this;
    const band = () => this.band;
    return {
      painting, grid, slice, overlay: stage.overlay, say: hear.say,
      get view() {
        return stage.view;
      },
      get settings() {
        return { ...settings, band: band() };
      },
      painted: (rect) => {
        if (rect) this.showLabels(rect);
        hear.painting();
      },
    };
  }

  /** Half the width of the threshold brush's band, in grey values. */
  get band() {
    const { low, high } = this.scan.display;
    return Math.max(1, Math.round(settings.bandShare * (high - low)));
  }

  get isContext() {
    return this.shown !== this.index;
  }

  /** Why nothing can be painted now, or null. */
  get reasonNotToPaint() {
    if (this.locked) return this.locked;
    if (this.isContext) return `Slice ${this.shown} is context: press Home to go back and paint.`;
    return null;
  }

  set(changes) {
    Object.assign(settings, changes);
    this.settingsChanged();
  }

  stepSize(steps) {
    const place = SIZES.indexOf(settings.size) + steps;
    this.set({ size: SIZES[Math.min(Math.max(place, 0), SIZES.length - 1)] });
  }

  stepBand(steps) {
    const share = Math.round(settings.bandShare * BAND_STEPS + steps) / BAND_STEPS;
    this.set({ bandShare: Math.min(Math.max(share, 0.01), 1) });
  }

  /** Shows another slice as context, or the one to paint again. */
  async showSlice(index) {
    const wanted = Math.min(Math.max(index, 0), this.scan.depth - 1);
    if (wanted === this.shown) return;
    this.endStroke();
    this.shown = wanted;
    const here = this.slices.here(wanted);
    if (here) this.putOnStage(here);
    else {
      this.hear.changed();
      const slice = await this.slices.get(wanted);
      // The wheel may have gone on while this one was on its way.
      if (this.shown === wanted) this.putOnStage(slice);
    }
    this.slices.prefetch(wanted);
  }

  putOnStage(slice) {
    this.stage.show(slice, { withLabels: !this.isContext });
    this.stage.surface.dataset.shown = this.shown;
    this.settingsChanged();
  }

  setWindow(low, high) {
    this.windowing.set(low, high);
    this.stage.windowChanged();
    this.hear.changed();
  }

  undo() {
    if (!this.stroke && this.mayPaint()) this.painting.undo();
  }

  redo() {
    if (!this.stroke && this.mayPaint()) this.painting.redo();
  }

  /** Takes over a whole mask, as one step that can be undone. */
  replace(mask) {
    this.endStroke();
    this.painting.replace(mask);
  }

  mayPaint() {
    const reason = this.reasonNotToPaint;
    if (reason) this.hear.say(reason);
    return !reason;
  }

  leftButton() {
    if (this.spaceHeld || settings.tool === "pan") return "pan";
    return settings.tool === "window" ? "window" : "paint";
  }

  beginStroke(place, { erase, shift }) {
    this.cursor = null;
    this.stroke = this.mayPaint() ? this.tools[settings.tool] : null;
    this.stroke?.begin(place, erase || shift);
    this.settingsChanged();
  }

  endStroke() {
    this.stroke?.end();
    this.stroke = null;
  }

  pointerHears() {
    const { stage } = this;
    const pixels = ({ x, y }) => stage.view.toPixel(x, y);
    return {
      strokeBegin: (place, how) => this.beginStroke(pixels(place), how),
      strokeMove: (place) => this.stroke?.move(pixels(place)),
      strokeEnd: () => this.endStroke(),
      strokeCancel: () => {
        this.stroke?.cancel();
        this.stroke = null;
      },
      pan: (across, down) => stage.canvas.move((view) => view.panBy(across, down)),
      zoom: (factor, { x, y }) => stage.canvas.move((view) => view.zoomAt(factor, x, y)),
      window: (across, down) => {
        this.windowing.drag(across, down);
        stage.windowChanged();
        this.hear.changed();
      },
      scroll: (steps) => this.showSlice(this.shown + steps),
      size: (steps) => this.stepSize(-steps),
      hover: (place, kind) => this.hover(pixels(place), kind),
      leave: () => stage.overlay.hideBrush(),
    };
  }

  hover(place, kind) {
    const round = ROUND_TOOLS.includes(settings.tool) && !this.reasonNotToPaint && kind !== "touch";
    if (round) {
      const radiusMm = radiusOf(settings.size, this.grid);
      const { pixelWidthMm, pixelHeightMm } = this.grid;
      const { x, y } = pixelAt(place);
      const middle = { x: x + 0.5, y: y + 0.5 };
      this.stage.overlay.showBrush(middle, radiusMm / pixelWidthMm, radiusMm / pixelHeightMm);
    } else this.stage.overlay.hideBrush();
    this.hear.hover(pixelAt(place));
  }

  /** Moves the keyboard's cross by pixels; it begins in the middle of what is in sight. */
  moveCursor(across, down) {
    const { view, overlay } = this.stage;
    const { x, y } = this.cursor ?? pixelAt(view.toPixel(view.width / 2, view.height / 2));
    const moved = this.cursor ? { x: x + across, y: y + down } : { x, y };
    this.cursor = {
      x: Math.min(Math.max(moved.x, 0), this.grid.width - 1),
      y: Math.min(Math.max(moved.y, 0), this.grid.height - 1),
    };
    this.stage.canvas.move(() => view.reveal(this.cursor.x, this.cursor.y));
    overlay.drawCross(this.cursor);
    this.hear.hover(this.cursor, "keyboard");
  }

  /** Uses the tool at the keyboard's cross: a dab, a corner, a fill. */
  applyAtCursor({ erase }) {
    if (!this.cursor || !(settings.tool in this.tools)) return;
    const at = { x: this.cursor.x + 0.5, y: this.cursor.y + 0.5 };
    if (!this.mayPaint()) return;
    const tool = this.tools[settings.tool];
    tool.begin(at, erase);
    tool.end();
  }

  settingsChanged() {
    const { surface, overlay } = this.stage;
    surface.dataset.tool = settings.tool;
    surface.classList.toggle("context", this.isContext);
    overlay.drawCross(this.cursor);
    if (!ROUND_TOOLS.includes(settings.tool) || this.reasonNotToPaint) overlay.hideBrush();
    this.hear.changed();
  }
}
