import * as api from "./api.js";
import { distinctColours } from "./colours.js";
import { ask, say } from "./dialog.js";
import { make } from "./element.js";
import { askForReason } from "./flag_reason.js";
import { axesOf } from "./orientation.js";
import { Plane } from "./plane.js";
import { ReviewPanel } from "./review_panel.js";
import { listenToKeys } from "./shortcuts.js";
import { Windowing } from "./windowing.js";
import { addressOf } from "./worklist.js";

const NOT_READY_MS = 300;
const UPDATING_MS = 700;
const IDLE_MS = 5000;
const SHOWN_OPACITY = 0.55;

/** Opens the spread label of a scan in three planes; returns {keys, close}. */
export async function openReview(container, page, scanId) {
  const scan = await api.scan(scanId);
  if (!scan.painted.length) {
    // A scan can be flagged before anything is painted; then there is only the slice to look at.
    page.go(`#/edit/${encodeURIComponent(scanId)}/`);
    return { keys: [], close: async () => true };
  }
  const found = await api.review(scanId);
  const review = new Review(page, scan);
  container.replaceChildren(review.element);
  review.start(found);
  return review;
}

class Review {
  constructor(page, scan) {
    Object.assign(this, { page, scan });
    const task = page.me.tasks.find(({ name }) => name === scan.task);
    this.classes = distinctColours(task.classes);
    this.windowing = new Windowing(scan.display.low, scan.display.high);
    this.planes = [];
    this.found = null;
    this.position = null;
    this.closed = false;
    this.panel = new ReviewPanel(scan, this.classes, this.actions());
    this.panes = make("div", { class: "planes" }, make("p", { class: "waiting" }));
    this.element = make("div", { class: "review" }, this.panes, this.panel.element);
    this.keys = this.makeKeys();
  }

  start(found) {
    this.stopKeys = listenToKeys(this.keys);
    this.take(found);
    this.poll();
  }

  async close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.stopKeys();
    for (const plane of this.planes) plane.close();
    return true;
  }

  /** Takes over what the server says of the scan now. */
  take(found) {
    const before = this.found;
    this.found = found;
    this.panel.show(found);
    if (!found.ready) {
      this.panes.querySelector(".waiting")?.replaceChildren(found.update.sentence);
      return;
    }
    if (!this.planes.length) this.makePlanes(found);
    if (found.digest === before?.digest) return;
    if (before?.ready) say("The labels were updated.");
    for (const plane of this.planes) {
      plane.setVolume(
        (index) => api.reviewSlice(this.scan.scan_id, plane.axis, index, found.digest, plane.grid.numPixels),
        found.painted,
      );
    }
    this.goTo(this.position ?? found.centre);
  }

  makePlanes(found) {
    const volume = { dims: found.dims, spacing_mm: found.spacing_mm, classes: this.classes };
    const hear = {
      goTo: (position) => this.goTo(position),
      window: (across, down) => {
        this.windowing.drag(across, down);
        this.windowChanged();
      },
      failed: (error) => this.sliceFailed(error),
    };
    // The painted plane is the large one.
    const order = [this.scan.axis, ...axesOf(this.scan.axis)];
    this.planes = order.map((axis) => new Plane(axis, volume, this.windowing, hear));
    this.panes.replaceChildren(...this.planes.map(({ element }) => element));
    for (const plane of this.planes) plane.start();
    this.windowChanged();
    this.planes[0].stage.surface.focus();
  }

  sliceFailed(error) {
    // The label was made anew after its digest was asked for.
    if (error instanceof api.Refused && error.status === 409) this.wake();
    else say(error.message, "problem");
  }

  goTo(position) {
    this.position = position;
    for (const plane of this.planes) plane.goTo(position);
    this.panel.showPosition(position);
  }

  async poll() {
    while (!this.closed) {
      await new Promise((resolve) => {
        this.wake = resolve;
        this.timer = setTimeout(resolve, this.pollMs());
      });
      if (this.closed || document.hidden) continue;
      try {
        const found = await api.review(this.scan.scan_id);
        if (!this.closed) this.take(found);
      } catch (error) {
        this.panel.problem(error.message);
      }
    }
  }

  pollMs() {
    const isUnderWay = ["waiting", "running"].includes(this.found.update.state);
    if (!isUnderWay) return IDLE_MS;
    return this.found.ready ? UPDATING_MS : NOT_READY_MS;
  }

  windowChanged() {
    for (const { stage } of this.planes) stage.windowChanged();
    this.panel.presets.show(this.windowing);
  }

  actions() {
    return {
      accept: () => this.decide("accepted", ""),
      flag: () => this.flag(),
      paintMore: () => this.paintMore(),
      paint: (index) => this.paint(index),
      paintShown: () => this.paint(this.position[this.scan.axis]),
      goTo: ({ axis, index }) => this.goTo(this.position.map((at, other) => (other === axis ? index : at))),
      setOpacity: (opacity) => this.setOpacity(opacity),
      setWindow: (low, high) => this.setWindow(low, high),
      toWorklist: () => this.page.go("#/"),
    };
  }

  setWindow(low, high) {
    this.windowing.set(low, high);
    this.windowChanged();
  }

  hideLabels() {
    const isHidden = this.planes[0]?.stage.opacity === 0;
    this.setOpacity(isHidden ? SHOWN_OPACITY : 0);
  }

  setOpacity(opacity) {
    for (const { stage } of this.planes) stage.setOpacity(opacity);
    this.panel.opacity.show(Math.round(opacity * 100));
  }

  async paintMore() {
    const { suggestion } = this.found;
    if (suggestion && suggestion.axis === this.scan.axis) await this.paint(suggestion.index);
    else say("No further slice is asked for here; the panel offers the one that is shown.");
  }

  async paint(index) {
    try {
      await api.ask(this.scan.scan_id, index);
    } catch (error) {
      say(error.message, "problem");
      return;
    }
    this.page.go(`#/edit/${encodeURIComponent(this.scan.scan_id)}/${index}`);
  }

  async flag() {
    const reason = await askForReason();
    if (reason) await this.decide("flagged", reason);
  }

  async decide(verdict, reason) {
    if (verdict === "accepted" && !this.found.ready) return;
    try {
      await api.verdict(this.scan.scan_id, { verdict, reason });
    } catch (error) {
      say(`Not ${verdict}: ${error.message}`, "problem");
      return;
    }
    this.page.progressChanged();
    this.take(await api.review(this.scan.scan_id));
    await this.offerNext(verdict);
  }

  async offerNext(verdict) {
    const { rows } = await api.worklist({ task: this.scan.task, state: "asked" });
    const next = rows.find((row) => row.mine || !row.claimed_by);
    const choice = await ask({
      title: verdict === "accepted" ? "Accepted" : "Flagged",
      words: next ? "" : "No scan of this task wants a slice at the moment.",
      choices: [
        ...(next ? [{ value: "next", label: "Paint the next scan", kind: "primary" }] : []),
        { value: "list", label: "Worklist" },
        { value: "stay", label: "Stay here" },
      ],
    });
    if (choice === "next") this.page.go(addressOf(next));
    if (choice === "list") this.page.go("#/");
  }

  makeKeys() {
    const key = (on, shown, what, run) => ({ on, shown, what, run });
    const { low, high } = this.scan.display;
    return [
      {
        title: "Verdict",
        keys: [
          key(["a"], "A", "accept", () => this.decide("accepted", "")),
          key(["p"], "P", "paint one more slice, where it is asked for", () => this.paintMore()),
          key(["x"], "X", "flag, with a reason", () => this.flag()),
          key(["?"], "?", "this sheet", () => this.page.help()),
        ],
      },
      {
        title: "View",
        keys: [
          key([], "Wheel / PageUp / PageDown", "go through the slices of a plane"),
          key([], "Click / Arrows", "move the cross, and with it the other planes"),
          key([], "Ctrl + wheel", "zoom; the middle button moves"),
          key([], "Right drag", "brightness and contrast"),
          key(["f"], "F", "show the whole slices", () => this.fit()),
          key(["r"], "R", "brightness as at first", () => this.setWindow(low, high)),
          key(["o"], "O", "hide or show the labels", () => this.hideLabels()),
        ],
      },
    ];
  }

  fit() {
    for (const { stage } of this.planes) stage.canvas.move((view) => view.fit());
  }
}
