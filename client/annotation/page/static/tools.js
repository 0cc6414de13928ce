import { paintLine, roundBrush, similarTo } from "./brush.js";
import { areaAround, paintArea } from "./fill.js";
import { paintPolygon } from "./polygon.js";

const NEAR_PX = 9;
const DOUBLE_CLICK_MS = 400;

/*
 * Every tool hears begin(place, erase), move(place), end() and cancel(); places are pixel
 * coordinates, not rounded. The desk that they work at has painting, slice, grid, view, overlay,
 * settings {label, size, band, keepOthers}, painted(rect), say(words).
 */

/** Brush, eraser and threshold brush: a round stamp drawn along the pointer's way. */
export class BrushTool {
  constructor(desk, { erases = false, banded = false } = {}) {
    Object.assign(this, { desk, erases, banded });
  }

  begin(place, erase) {
    const { painting, grid, slice, settings } = this.desk;
    this.label = erase || this.erases ? 0 : settings.label;
    this.brush = roundBrush(settings.size, grid);
    this.last = pixelAt(place);
    const similar = this.banded ? similarTo(slice, grid, this.last, settings.band) : null;
    this.accepts = acceptance(this.desk, similar);
    painting.begin();
    this.move(place);
  }

  move(place) {
    const next = pixelAt(place);
    const { painting } = this.desk;
    this.desk.painted(paintLine(painting, this.brush, this.last, next, this.label, this.accepts));
    this.last = next;
  }

  end() {
    this.desk.painting.commit();
  }

  cancel() {
    this.desk.painting.cancel();
  }
}

/** A line drawn by hand, closed and filled when the pointer is lifted. */
export class LassoTool {
  constructor(desk) {
    this.desk = desk;
  }

  begin(place, erase) {
    this.erase = erase;
    this.corners = [place];
  }

  move(place) {
    this.corners.push(place);
    this.desk.overlay.drawLine(this.corners, { closed: true });
  }

  end() {
    this.desk.overlay.drawLine([]);
    paintInside(this.desk, this.corners, this.erase);
  }

  cancel() {
    this.corners = [];
    this.desk.overlay.drawLine([]);
  }
}

/** Corners set by clicks, moved by drags; closed by the first corner, a double click or Enter. */
export class PolygonTool {
  /** `remember(corners)` keeps an unfinished polygon; `corners` is one that was kept. */
  constructor(desk, corners, remember) {
    Object.assign(this, { desk, corners, remember });
    this.dragged = null;
    this.lastBegin = { time: -Infinity, corner: null };
    this.erase = false;
    this.draw();
  }

  get isOpen() {
    return this.corners.length > 0;
  }

  begin(place, erase) {
    this.erase = erase;
    const near = this.corners.find((corner) => this.isNear(corner, place));
    const { time, corner } = this.lastBegin;
    const again = near && near === corner && performance.now() - time < DOUBLE_CLICK_MS;
    if (this.corners.length > 2 && near && (again || near === this.corners[0])) {
      this.close();
      return;
    }
    this.dragged = near ?? { ...place };
    if (!near) this.corners.push(this.dragged);
    this.lastBegin = { time: performance.now(), corner: this.dragged };
    this.changed();
  }

  move(place) {
    if (!this.dragged) return;
    Object.assign(this.dragged, place);
    this.draw();
  }

  end() {
    this.dragged = null;
    this.changed();
  }

  cancel() {
    this.dragged = null;
    this.changed();
  }

  /** Fills the polygon, if it has three corners. */
  close() {
    const { corners } = this;
    if (corners.length < 3) {
      this.desk.say("A polygon needs three corners at least.");
      return;
    }
    this.drop();
    paintInside(this.desk, corners, this.erase);
  }

  dropLast() {
    this.corners.pop();
    this.changed();
  }

  drop() {
    this.corners = [];
    this.dragged = null;
    this.changed();
  }

  changed() {
    this.remember(this.corners);
    this.draw();
  }

  draw() {
    this.desk.overlay.drawLine(this.corners, { closed: this.corners.length > 2, handles: true });
  }

  isNear(corner, place) {
    const { pixelWidth, pixelHeight } = this.desk.view;
    const across = (corner.x - place.x) * pixelWidth;
    return Math.hypot(across, (corner.y - place.y) * pixelHeight) <= NEAR_PX;
  }
}

/** Gives the area under the pointer, as far as it has one label, the picked one. */
export class FillTool {
  constructor(desk) {
    this.desk = desk;
  }

  begin(place, erase) {
    const { painting, grid, settings, say } = this.desk;
    const { x, y } = pixelAt(place);
    if (!grid.contains(x, y)) return;
    const there = painting.mask[grid.offset(x, y)];
    const label = erase ? 0 : settings.label;
    const area = areaAround(grid, painting.mask, x, y);
    if (there === 0 && area.sides === 4) {
      say("The outline is not closed: this area reaches all four edges of the slice.");
    } else if (settings.keepOthers && there !== 0 && there !== settings.label) {
      say("This area has another label; switch “Keep other labels” off to paint over it.");
    } else {
      painting.begin();
      paintArea(painting, area, label);
      painting.commit();
    }
  }

  move() {}

  end() {}

  cancel() {}
}

export function pixelAt({ x, y }) {
  return { x: Math.floor(x), y: Math.floor(y) };
}

function paintInside(desk, corners, erase) {
  const { painting, settings } = desk;
  painting.begin();
  paintPolygon(painting, corners, erase ? 0 : settings.label, acceptance(desk, null));
  painting.commit();
}

/** Which pixels may be painted: those that `similar` accepts and that keep no other label. */
function acceptance({ painting, settings }, similar) {
  if (!settings.keepOthers) return similar;
  const { mask } = painting;
  const { label } = settings;
  const free = (offset) => mask[offset] === 0 || mask[offset] === label;
  return similar ? (offset) => free(offset) && similar(offset) : free;
}
