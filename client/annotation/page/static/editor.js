import { ActiveTime } from "./active_time.js";
import * as api from "./api.js";
import { Autosave } from "./autosave.js";
import { Claim } from "./claim.js";
import { distinctColours } from "./colours.js";
import { ask, say } from "./dialog.js";
import { Easel } from "./easel.js";
import { editorKeys } from "./editor_keys.js";
import { EditorLayout } from "./editor_layout.js";
import { askForReason } from "./flag_reason.js";
import { Grid } from "./orientation.js";
import { listenToKeys } from "./shortcuts.js";
import { Slices } from "./slices.js";
import { startingMask } from "./starting_mask.js";
import { recallCorners, rememberCorners } from "./unfinished_polygon.js";
import { makeVersions } from "./versions.js";

const SAVED_WORDS = {
  saved: "Saved",
  saving: "Saving …",
  offline: "Offline: kept in this page",
  conflict: "Another window saved a newer draft",
  refused: "Not saved",
};

/**
 * Opens one slice of a scan for painting in `container`; null opens the one that is asked for.
 * Returns {keys, close}.
 */
export async function openEditor(container, page, scanId, wanted) {
  const scan = await api.scan(scanId);
  const index = wanted ?? scan.asked_index ?? Math.floor(scan.depth / 2);
  const slices = new Slices(scan.depth, (one) => api.slice(scanId, one));
  const time = new ActiveTime();
  const claim = new Claim(scanId, () => time.isRunning());
  const [slice, , start] = await Promise.all([
    slices.get(index), claim.take(), startingMask(scan, index, page.me.annotator),
  ]);
  time.counted = start.seconds;
  const editor = new Editor(page, scan, { index, slices, start, time, claim });
  editor.open(container, slice);
  if (start.words) say(start.words);
  return editor;
}

class Editor {
  constructor(page, scan, { index, slices, start, time, claim }) {
    Object.assign(this, { page, scan, index, time, claim });
    const task = page.me.tasks.find(({ name }) => name === scan.task);
    this.classes = distinctColours(task.classes);
    this.grid = new Grid(scan.rows, scan.columns, scan.row_mm, scan.column_mm);
    const corners = recallCorners(scan.scan_id, index);
    const { grid, classes } = this;
    const opened = { scan, grid, classes, slices, index, mask: start.mask, corners };
    this.easel = new Easel(opened, this.easelHears());
    this.easel.locked = claim.mine ? null : claim.words;
    this.autosave = this.makeAutosave(start.version);
    this.versions = makeVersions(classes, {
      compare: (version) => this.compare(version), startFrom: (version) => this.takeOver(version),
    });
    this.layout = new EditorLayout(this.easel, scan, this.versions, this.actions());
    this.keys = editorKeys(this);
    this.submitting = false;
  }

  open(container, slice) {
    const { scan, easel, index } = this;
    container.replaceChildren(this.layout.element);
    easel.start(slice, (corners) => rememberCorners(scan.scan_id, index, corners));
    this.layout.updateAreas(easel.painting.counts());
    easel.stage.surface.dataset.shown = index;
    easel.stage.surface.focus();
    this.stopKeys = listenToKeys(this.keys);
    this.listen();
    this.clock = setInterval(() => this.showTime(), 500);
    this.showTime();
    this.versions.load(scan.scan_id, index).catch((error) => say(error.message, "problem"));
  }

  /** Leaves; false if somebody rather stays with what could not be saved. */
  async close() {
    this.easel.endStroke();
    const saved = this.submitting || (await this.autosave.flush());
    if (!saved && (await askToStay()) !== "leave") return false;
    this.stopListening.abort();
    this.stopKeys();
    clearInterval(this.clock);
    this.autosave.close();
    this.claim.drop();
    this.easel.close();
    return true;
  }

  easelHears() {
    return {
      painting: () => this.autosave.changing(),
      step: () => {
        this.layout.updateAreas(this.easel.painting.counts());
        this.autosave.changed();
      },
      changed: () => this.layout.update(),
      hover: (pixel, kind) => this.layout.showPixel(pixel, kind),
      say: (words) => say(words),
    };
  }

  makeAutosave(version) {
    const { scan, index } = this;
    return new Autosave(version, {
      read: () => ({ mask: this.easel.painting.mask.slice(), seconds: this.time.seconds() }),
      save: (draft) => api.saveDraft(scan.scan_id, index, draft),
      load: () => api.draft(scan.scan_id, index),
      onState: (state, words) => {
        this.layout.showSaved(state, words ? `${SAVED_WORDS[state]}: ${words}` : SAVED_WORDS[state]);
      },
      onConflict: (newer) => this.settleConflict(newer),
    });
  }

  actions() {
    const { easel } = this;
    return {
      pick: (tool) => easel.set({ tool }),
      pickLabel: (label) => easel.set({ label }),
      act: (name) => this.act(name),
      setWindow: (low, high) => easel.setWindow(low, high),
      setOpacity: (opacity) => {
        easel.stage.setOpacity(opacity);
        this.layout.update();
      },
      showSlice: (index) => this.showSlice(index),
      nothingHere: () => this.nothingHere(),
      submit: () => this.submit(),
      leave: () => this.page.go("#/"),
      flag: () => this.flag(),
      claimAgain: () => this.claimAgain(),
    };
  }

  act(name) {
    if (name === "fit") this.easel.stage.canvas.move((view) => view.fit());
    else this.easel[name]();
  }

  async showSlice(index) {
    try {
      await this.easel.showSlice(index);
    } catch (error) {
      say(`Slice ${index} could not be loaded: ${error.message}`, "problem");
    }
  }

  listen() {
    this.stopListening = new AbortController();
    const { signal } = this.stopListening;
    for (const event of ["pointerdown", "pointermove", "keydown", "wheel"]) {
      document.addEventListener(event, () => this.time.touch(), { signal, passive: true, capture: true });
    }
    document.addEventListener("keyup", (event) => {
      if (event.key === " ") this.easel.spaceHeld = false;
    }, { signal });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) return;
      this.time.pause();
      this.autosave.retry();
    }, { signal });
    window.addEventListener("blur", () => {
      this.easel.spaceHeld = false;
    }, { signal });
    window.addEventListener("online", () => this.autosave.retry(), { signal });
    window.addEventListener("pagehide", () => {
      this.autosave.leave();
      this.claim.drop();
    }, { signal });
    window.addEventListener("beforeunload", (event) => {
      if (this.autosave.unsaved && this.autosave.state !== "saving") event.preventDefault();
    }, { signal });
  }

  showTime() {
    this.layout.showTime(this.time.seconds(), this.time.isRunning());
  }

  async claimAgain() {
    this.easel.locked = (await this.claim.take()) ? null : this.claim.words;
    this.layout.updateAreas(this.easel.painting.counts());
    this.layout.update();
  }

  async compare(version) {
    const { overlay } = this.easel.stage;
    const { scan_id: scanId } = this.scan;
    overlay.drawOutline(this.grid, version === null ? null : await api.version(scanId, this.index, version));
  }

  async takeOver(version) {
    if (this.easel.mayPaint()) {
      this.easel.replace(await api.version(this.scan.scan_id, this.index, version));
    }
  }

  async settleConflict(newer) {
    const choice = await ask({
      title: "A newer draft of this slice was saved",
      words: [
        "Another window of yours saved it after this one was opened.",
        "Nothing is saved from here until you choose.",
      ],
      choices: [
        { value: "load", label: "Load the newer one", kind: "primary" },
        { value: "keep", label: "Keep what is shown here" },
      ],
    });
    if (choice === "load") {
      this.time.counted = newer.seconds;
      this.autosave.continueFrom(newer.version, { unsaved: false });
      this.easel.replace(newer.mask);
    } else this.autosave.continueFrom(newer.version, { unsaved: true });
  }

  /** Sets the whole scan aside, painted or not. */
  async flag() {
    const reason = await askForReason();
    if (!reason) return;
    try {
      await api.verdict(this.scan.scan_id, { verdict: "flagged", reason });
    } catch (error) {
      say(`Not flagged: ${error.message}`, "problem");
      return;
    }
    this.page.progressChanged();
    this.page.go("#/");
  }

  async nothingHere() {
    if (!this.easel.mayPaint()) return;
    if (!this.easel.painting.isEmpty) {
      say("Something is painted here: erase it first, or submit the slice.");
      return;
    }
    const names = this.classes.map(({ name }) => name).join(", ");
    const answer = await ask({
      title: "Nothing on this slice?",
      words: `You looked for ${names} and none of it is here. An empty slice tells where a structure ends.`,
      choices: [
        { value: "yes", label: "Nothing here", kind: "primary" },
        { value: "no", label: "Back" },
      ],
    });
    if (answer === "yes") await this.send({ nothing_here: true });
  }

  async submit() {
    const { easel } = this;
    if (!easel.mayPaint()) return;
    if (easel.polygon.isOpen) {
      say("A polygon is not closed yet: Enter fills it, Escape drops it.");
      return;
    }
    if (easel.painting.isEmpty) {
      say("Nothing is painted. If none of the classes is here, press “Nothing here”.");
      return;
    }
    await this.send({});
  }

  async send(more) {
    if (this.submitting) return;
    const { easel, autosave, scan, index, time } = this;
    easel.endStroke();
    // A version that was taken over and not changed has no draft yet.
    if (autosave.version === 0 && !more.nothing_here) autosave.changed();
    if (!(await autosave.flush())) {
      say("Not submitted: the slice could not be saved yet. It is kept in this page.", "problem");
      return;
    }
    this.submitting = true;
    try {
      await api.submit(scan.scan_id, { index, version: autosave.version, seconds: time.seconds(), ...more });
    } catch (error) {
      this.submitting = false;
      say(`Not submitted: ${error.message}`, "problem");
      return;
    }
    this.page.progressChanged();
    this.page.go(`#/review/${encodeURIComponent(scan.scan_id)}`);
  }
}

function askToStay() {
  return ask({
    title: "The last strokes are not saved",
    words: "The page's server did not take them. Stay, and they are tried again and again.",
    choices: [
      { value: "stay", label: "Stay", kind: "primary" },
      { value: "leave", label: "Leave without them", kind: "danger" },
    ],
  });
}
