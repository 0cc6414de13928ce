import { makeSvg } from "./element.js";

/** Lines over the slice: the brush's outline, polygons, another version's outline, the cross. */
export class Overlay {
  /** `svg` lies over the canvas and has its size; all shapes are in pixel coordinates. */
  constructor(svg) {
    this.group = makeSvg("g");
    this.outline = makeSvg("path", { class: "outline" });
    this.lineShadow = makeSvg("path", { class: "line shadow" });
    this.line = makeSvg("path", { class: "line" });
    this.handles = makeSvg("path", { class: "handles" });
    this.brushShadow = makeSvg("ellipse", { class: "brush shadow" });
    this.brush = makeSvg("ellipse", { class: "brush" });
    this.cross = makeSvg("path", { class: "cross" });
    this.guides = makeSvg("path", { class: "guides" });
    this.group.append(
      this.guides,
      this.outline, this.lineShadow, this.line, this.handles, this.brushShadow, this.brush, this.cross,
    );
    svg.append(this.group);
    this.hideBrush();
  }

  follow({ left, top, pixelWidth, pixelHeight }) {
    this.group.setAttribute("transform", `matrix(${pixelWidth} 0 0 ${pixelHeight} ${left} ${top})`);
  }

  /** The brush's outline around a place; its radii are in pixels. */
  showBrush(place, radiusX, radiusY) {
    for (const ellipse of [this.brush, this.brushShadow]) {
      ellipse.setAttribute("cx", place.x);
      ellipse.setAttribute("cy", place.y);
      ellipse.setAttribute("rx", radiusX);
      ellipse.setAttribute("ry", radiusY);
      ellipse.removeAttribute("visibility");
    }
  }

  hideBrush() {
    for (const ellipse of [this.brush, this.brushShadow]) ellipse.setAttribute("visibility", "hidden");
  }

  drawLine(corners, { closed = false, handles = false } = {}) {
    const path = corners.map(({ x, y }, place) => `${place ? "L" : "M"}${x} ${y}`).join("");
    for (const line of [this.line, this.lineShadow]) line.setAttribute("d", path + (closed ? "Z" : ""));
    const dots = handles ? corners.map(({ x, y }) => `M${x} ${y}h0`).join("") : "";
    this.handles.setAttribute("d", dots);
  }

  /** The edges between different labels of a mask; null takes them away. */
  drawOutline(grid, mask) {
    this.outline.setAttribute("d", mask ? edgesOf(grid, mask) : "");
  }

  /** The keyboard's cross on a pixel; null takes it away. */
  drawCross(pixel) {
    if (!pixel) {
      this.cross.setAttribute("d", "");
      return;
    }
    const { x, y } = pixel;
    const arms = `M${x - 4} ${y + 0.5}H${x - 0.5}M${x + 1.5} ${y + 0.5}h3.5`;
    const legs = `M${x + 0.5} ${y - 4}V${y - 0.5}M${x + 0.5} ${y + 1.5}v3.5`;
    this.cross.setAttribute("d", `${arms}${legs}M${x} ${y}h1v1h-1z`);
  }

  /** Lines through the middle of a pixel, across and down the whole slice, open around it. */
  drawGuides(grid, { x, y }) {
    const gap = Math.max(2.5, Math.min(grid.width, grid.height) / 24);
    const across = `M0 ${y + 0.5}H${x + 0.5 - gap}M${x + 0.5 + gap} ${y + 0.5}H${grid.width}`;
    const down = `M${x + 0.5} 0V${y + 0.5 - gap}M${x + 0.5} ${y + 0.5 + gap}V${grid.height}`;
    this.guides.setAttribute("d", across + down);
  }
}

function edgesOf(grid, mask) {
  const labelAt = (x, y) => (grid.contains(x, y) ? mask[grid.offset(x, y)] : 0);
  const edges = [];
  for (let y = 0; y <= grid.height; y++) {
    for (let x = 0; x <= grid.width; x++) {
      const here = labelAt(x, y);
      if (here !== labelAt(x - 1, y)) edges.push(`M${x} ${y}v1`);
      if (here !== labelAt(x, y - 1)) edges.push(`M${x} ${y}h1`);
    }
  }
  return edges.join("");
}
