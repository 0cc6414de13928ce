import { SliceCanvas } from "./canvas.js";
import { make, makeSvg } from "./element.js";
import { ImageLayer } from "./image_layer.js";
import { lettersOf, PLANES } from "./orientation.js";
import { Overlay } from "./overlay.js";
import { rem } from "./rem.js";

const BAR_LENGTHS_MM = [0.5, 1, 2, 5, 10, 20, 50, 100, 200];
const LONGEST_BAR_REM = 11;

/** The slice on the screen: image, labels, lines over them, letters, scale bar. */
export class Stage {
  /**
   * `labelLayers` are drawn over the image, with the opacity that is set; `onView()` hears of pans
   * and zooms.
   */
  constructor(grid, axis, { windowing, labelLayers, onView = () => {} }) {
    Object.assign(this, { grid, windowing, labelLayers, onView });
    this.opacity = 0.55;
    this.svg = makeSvg("svg", { class: "overlay", "aria-hidden": "true" });
    this.bar = make("span", { class: "scale-bar" });
    this.barLabel = make("span", { class: "scale-label" });
    this.surface = make("div", {
      class: "surface", tabIndex: 0, role: "application", "aria-roledescription": "drawing area",
      "aria-label": `${PLANES[axis]} slice`,
    }, make("canvas"), this.svg, ...letters(axis), make("div", { class: "scale" }, this.bar, this.barLabel));
    this.overlay = new Overlay(this.svg);
    this.image = new ImageLayer(grid);
    this.slice = null;
    this.showsLabels = true;
  }

  /** Measures and draws; to be called once the surface is in the page. */
  start() {
    const canvas = this.surface.querySelector("canvas");
    this.canvas = new SliceCanvas(canvas, this.grid, (view) => this.viewMoved(view));
    this.viewMoved(this.canvas.view);
    this.setLayers();
  }

  get view() {
    return this.canvas.view;
  }

  close() {
    this.canvas.close();
  }

  /** Shows a slice's grey values, with or without the labels over them. */
  show(slice, { withLabels }) {
    this.slice = slice;
    this.showsLabels = withLabels;
    this.image.paint(slice, this.windowing);
    this.setLayers();
  }

  windowChanged() {
    if (this.slice) this.image.paint(this.slice, this.windowing);
    this.canvas.redraw();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.setLayers();
  }

  setLayers() {
    const { opacity } = this;
    const labels = this.showsLabels ? this.labelLayers.map((layer) => ({ ...layer, opacity })) : [];
    this.canvas.setLayers([{ canvas: this.image.canvas, smooth: true }, ...labels]);
  }

  viewMoved(view) {
    this.overlay.follow(view);
    const longest = rem(LONGEST_BAR_REM);
    const lengthMm = BAR_LENGTHS_MM.findLast((mm) => mm * view.scale <= longest) ?? BAR_LENGTHS_MM[0];
    this.bar.style.width = `${lengthMm * view.scale}px`;
    this.barLabel.textContent = `${lengthMm} mm`;
    this.onView(view);
  }
}

function letters(axis) {
  const names = { R: "right", L: "left", A: "anterior", P: "posterior", S: "superior", I: "inferior" };
  return Object.entries(lettersOf(axis)).map(([side, letter]) =>
    make("span", { class: `letter ${side}`, text: letter, title: `the patient's ${names[letter]}` }));
}
