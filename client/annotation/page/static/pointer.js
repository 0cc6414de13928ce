const ERASER_BUTTON = 32;
const FINE_WHEEL = 0.0016;

/**
 * Turns mouse, pen and touch on an element into what they mean. Left paints, right drags the window,
 * middle or space pans, the wheel goes through the slices, with Ctrl it zooms, with Alt it sizes the
 * brush; two fingers pinch and pan. Once a pen was seen, one finger pans.
 */
export class Pointer {
  /**
   * `hear` has the functions strokeBegin({x, y}, {erase, shift}), strokeMove({x, y}), strokeEnd(),
   * strokeCancel(), pan(across, down), zoom(factor, {x, y}), window(across, down), scroll(steps),
   * size(steps), hover({x, y}, kind) and leave(); positions are CSS pixels inside the element. `modeOf()`
   * says what the left button does: paint, pan or window.
   */
  constructor(element, hear, modeOf) {
    this.element = element;
    this.hear = hear;
    this.modeOf = modeOf;
    this.mode = null;
    this.pointerId = null;
    this.last = null;
    this.fingers = new Map();
    this.sawPen = false;
    this.wheelRest = 0;
    for (const [event, listener] of [
      ["pointerdown", this.down], ["pointermove", this.moved], ["pointerup", this.up],
      ["pointercancel", this.cancelled], ["pointerleave", () => hear.leave()],
      ["contextmenu", (menu) => menu.preventDefault()],
    ]) element.addEventListener(event, listener.bind(this));
    element.addEventListener("wheel", this.wheel.bind(this), { passive: false });
    // Without this, Chromium scrolls or starts a drag on the middle button.
    element.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());
  }

  down(event) {
    this.element.focus({ preventScroll: true });
    if (event.pointerType === "pen") this.sawPen = true;
    this.element.setPointerCapture(event.pointerId);
    const place = this.placeOf(event);
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, place);
      if (this.fingers.size === 2) {
        if (this.mode === "paint") this.hear.strokeCancel();
        this.mode = "pinch";
        return;
      }
    }
    if (this.mode !== null) return;
    this.mode = this.modeFor(event);
    this.pointerId = event.pointerId;
    this.last = place;
    const erase = Boolean(event.buttons & ERASER_BUTTON);
    if (this.mode === "paint") this.hear.strokeBegin(place, { erase, shift: event.shiftKey });
  }

  modeFor(event) {
    if (event.pointerType === "touch" && this.sawPen) return "pan";
    if (event.button === 1) return "pan";
    if (event.button === 2) return "window";
    return this.modeOf();
  }

  moved(event) {
    const place = this.placeOf(event);
    if (this.mode === "pinch") {
      this.pinch(event, place);
      return;
    }
    // The ball of the hand that holds the pen may lie on the screen.
    if (this.mode !== null && event.pointerId !== this.pointerId) return;
    if (this.mode === "paint") this.stroke(event);
    else if (this.mode !== null) this.hear[this.mode](place.x - this.last.x, place.y - this.last.y);
    this.last = place;
    this.hear.hover(place, event.pointerType);
  }

  /** Every place the pen was at, also those between two frames. */
  stroke(event) {
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) this.hear.strokeMove(this.placeOf(one));
  }

  pinch(event, place) {
    if (!this.fingers.has(event.pointerId)) return;
    const before = [...this.fingers.values()];
    this.fingers.set(event.pointerId, place);
    const after = [...this.fingers.values()];
    if (after.length !== 2) return;
    const [from, to] = [middle(before), middle(after)];
    this.hear.pan(to.x - from.x, to.y - from.y);
    this.hear.zoom(distance(after) / Math.max(distance(before), 1), to);
  }

  up(event) {
    this.lifted(event, () => this.hear.strokeEnd());
  }

  cancelled(event) {
    this.lifted(event, () => this.hear.strokeCancel());
  }

  lifted(event, endStroke) {
    this.fingers.delete(event.pointerId);
    if (this.mode === "pinch") {
      // The finger that stays after a pinch shall not draw.
      if (this.fingers.size === 0) this.mode = null;
    } else if (event.pointerId === this.pointerId) {
      if (this.mode === "paint") endStroke();
      this.mode = null;
    }
  }

  wheel(event) {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      this.hear.zoom(Math.exp(-event.deltaY * FINE_WHEEL), this.placeOf(event));
      return;
    }
    const steps = this.wheelSteps(event);
    if (steps) (event.altKey ? this.hear.size : this.hear.scroll)(steps);
  }

  /** A notch of a wheel is a step; a touchpad's many small ones add up to one. */
  wheelSteps(event) {
    const delta = event.deltaMode === 0 ? event.deltaY / 100 : event.deltaY / 3;
    if (Math.abs(delta) >= 0.5) {
      this.wheelRest = 0;
      return Math.sign(delta) * Math.max(1, Math.round(Math.abs(delta)));
    }
    this.wheelRest += delta * 2;
    const steps = Math.trunc(this.wheelRest);
    this.wheelRest -= steps;
    return steps;
  }

  placeOf(event) {
    const box = this.element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }
}

function middle([one, other]) {
  return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 };
}

function distance([one, other]) {
  return Math.hypot(one.x - other.x, one.y - other.y);
}
