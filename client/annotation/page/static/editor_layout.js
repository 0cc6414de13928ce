import { asMinutes } from "./active_time.js";
import { radiusOf, SIZES } from "./brush.js";
import { makeClassPicker } from "./class_picker.js";
import { make } from "./element.js";
import { PLANES } from "./orientation.js";
import { makePresets } from "./presets.js";
import { makeSliceStrip } from "./slice_strip.js";
import { makeSlider } from "./slider.js";
import { makeToolbar } from "./toolbar.js";

const TOOL_NAMES = {
  brush: "Brush", eraser: "Eraser", threshold: "Threshold brush", polygon: "Polygon", lasso: "Lasso",
  fill: "Fill", window: "Brightness and contrast", pan: "Move",
};
const HINTS = {
  brush: "Shift erases.",
  eraser: "Erases every label under it.",
  threshold: "Paints only what is about as bright as where the stroke begins.",
  polygon: "Click corners, drag them; Enter or a double click fills, Backspace takes the last one back.",
  lasso: "Draw around the structure; it is filled when you lift.",
  fill: "Click inside a closed outline.",
  window: "Drag: across for contrast, up and down for brightness. A right drag does the same.",
  pan: "Drag; or hold Space, or the middle button, with any tool.",
};

/** The editor's page around an easel. `actions` are what its buttons do. */
export class EditorLayout {
  constructor(easel, scan, versions, actions) {
    this.easel = easel;
    this.scan = scan;
    this.actions = actions;
    this.toolbar = makeToolbar({ pick: actions.pick, act: actions.act });
    this.classPicker = makeClassPicker(easel.classes, easel.grid, actions.pickLabel);
    this.strip = makeSliceStrip(scan.depth, easel.index, actions.showSlice);
    this.makeOptions();
    this.makeBanner();
    this.makeStatus();
    this.element = make("div", { class: "editor" },
      this.head(), this.toolbar.element,
      make("div", { class: "stage" }, easel.stage.surface, this.strip.element, this.banner),
      this.panel(versions), this.statusBar);
  }

  head() {
    const { scan, easel, actions } = this;
    const range = make("span", { text: `of 0–${scan.depth - 1}` });
    this.slicePlace = make("span", { class: "place", text: `slice ${easel.index}` }, range);
    return make("div", { class: "bar" },
      make("button", { type: "button", class: "quiet", text: "‹ Worklist", on: { click: actions.leave } }),
      make("strong", { class: "scan-id", text: scan.scan_id }),
      make("span", { class: "what", text: `${scan.task} · ${PLANES[scan.axis]}` }), this.slicePlace,
      make("span", { class: "why", text: easel.index === scan.asked_index ? scan.why : "", title: scan.why }),
      make("button", {
        type: "button", class: "quiet flag", text: "Flag scan …", title: "Set the whole scan aside, with a reason",
        on: { click: actions.flag },
      }));
  }

  panel(versions) {
    const { easel, actions } = this;
    this.nothing = make("button", {
      type: "button", text: "Nothing here", "aria-keyshortcuts": "N",
      title: "None of the classes is on this slice (N)", on: { click: actions.nothingHere },
    });
    this.submit = make("button", {
      type: "button", class: "primary", text: "Submit", "aria-keyshortcuts": "Control+Enter",
      title: "Submit the slice (Ctrl+Enter)", on: { click: actions.submit },
    });
    return make("aside", { class: "panel", "aria-label": "Options" },
      make("div", { class: "scrolls" },
        section("Paint", this.classPicker.element),
        this.toolSection,
        section("Picture", makePresetsOf(this, easel, actions), this.windowWords, this.opacity.element),
        make("section", {}, versions.element)),
      make("div", { class: "finish" }, this.nothing, this.submit));
  }

  makeOptions() {
    const { easel, actions } = this;
    const last = SIZES.length - 1;
    this.size = makeSlider({
      label: "Size", min: 0, max: last, keys: ["[", "]"], change: (place) => easel.set({ size: SIZES[place] }),
      format: (place) => this.sizeWords(SIZES[place]),
    });
    this.band = makeSlider({
      label: "Band", min: 1, max: 100, keys: ["{", "}"], change: (share) => easel.set({ bandShare: share / 100 }),
      format: () => this.bandWords(),
    });
    this.opacity = makeSlider({
      label: "Opacity", min: 0, max: 100, step: 5, keys: ["O"], change: (share) => actions.setOpacity(share / 100),
      format: (share) => `${share} %`,
    });
    this.keep = make("input", { type: "checkbox", on: { change: () => easel.set({ keepOthers: this.keep.checked }) } });
    this.toolTitle = make("h2");
    this.hint = make("p", { class: "hint" });
    this.windowWords = make("p", { class: "hint window-words" });
    const keep = easel.classes.length > 1
      ? make("label", { class: "check" }, this.keep, "Keep other labels", make("kbd", { text: "K" })) : null;
    this.toolSection = make("section", {}, this.toolTitle, this.hint, this.size.element, this.band.element, keep);
  }

  makeBanner() {
    this.bannerWords = make("span");
    this.bannerButton = make("button", { type: "button" });
    this.bannerButton.addEventListener("click", () => this.bannerRun());
    this.banner = make("div", { class: "banner", role: "status" }, this.bannerWords, this.bannerButton);
  }

  makeStatus() {
    this.readout = make("span", { class: "readout" });
    this.spoken = make("span", { class: "unseen", "aria-live": "polite" });
    this.zoom = make("span", { class: "zoom" });
    this.time = make("span", { class: "time", title: "time at the brush; stops after 20 s without input" });
    this.saved = make("span", { class: "saved", role: "status", "data-state": "saved", text: "Saved" });
    this.statusBar = make("div", { class: "status" }, this.readout, this.spoken, this.zoom, this.time, this.saved);
  }

  /** Brings everything in line with the easel. */
  update() {
    const { easel } = this;
    const { settings, windowing, stage } = easel;
    this.toolbar.show(settings.tool);
    this.classPicker.show(settings.label);
    this.strip.show(easel.shown);
    this.toolTitle.textContent = TOOL_NAMES[settings.tool];
    this.hint.textContent = HINTS[settings.tool];
    this.size.element.hidden = !["brush", "eraser", "threshold"].includes(settings.tool);
    this.band.element.hidden = settings.tool !== "threshold";
    this.size.show(SIZES.indexOf(settings.size));
    this.band.show(Math.round(settings.bandShare * 100));
    this.opacity.show(Math.round(stage.opacity * 100));
    this.keep.checked = settings.keepOthers;
    this.presets.show(windowing);
    this.windowWords.textContent = this.windowText();
    this.zoom.textContent = stage.canvas ? `${Math.round(stage.view.zoom * 100)} %` : "";
    this.updateBanner();
    if (this.pixel && stage.slice) this.showPixel(this.pixel);
  }

  updateBanner() {
    const { easel } = this;
    const away = easel.shown - easel.index;
    if (away !== 0) {
      this.bannerWords.textContent =
        `context: slice ${easel.shown}, ${away > 0 ? "+" : "−"}${Math.abs(away)} · painting is off here`;
      this.bannerButton.textContent = `Back to ${easel.index} (Home)`;
      this.bannerRun = () => this.actions.showSlice(easel.index);
    } else if (easel.locked) {
      this.bannerWords.textContent = easel.locked;
      this.bannerButton.textContent = "Try again";
      this.bannerRun = this.actions.claimAgain;
    }
    this.banner.hidden = away === 0 && !easel.locked;
  }

  /** After a change of the mask. */
  updateAreas(counts) {
    this.classPicker.showAreas(counts);
    const isEmpty = counts[0] === this.easel.grid.numPixels;
    this.nothing.disabled = !isEmpty || Boolean(this.easel.locked);
    this.submit.disabled = isEmpty || Boolean(this.easel.locked);
  }

  showPixel(pixel, kind) {
    this.pixel = pixel;
    const { x, y } = pixel;
    const { grid, stage, painting, classes, isContext } = this.easel;
    if (!grid.contains(x, y)) {
      this.readout.textContent = "";
      return;
    }
    const offset = grid.offset(x, y);
    const label = isContext ? 0 : painting.mask[offset];
    const named = label ? ` · ${classes.find(({ index }) => index === label)?.name ?? label}` : "";
    const words = `${x}, ${y} · ${this.valueWords(stage.slice[offset])}${named}`;
    this.readout.textContent = words;
    if (kind === "keyboard") this.spoken.textContent = words;
  }

  showTime(seconds, isRunning) {
    this.time.textContent = `${asMinutes(seconds)} at the brush`;
    this.time.classList.toggle("paused", !isRunning);
  }

  showSaved(state, words) {
    this.saved.dataset.state = state;
    this.saved.textContent = words;
  }

  valueWords(value) {
    return this.scan.display.unit === "HU" ? `${value} HU` : `grey ${value}`;
  }

  sizeWords(size) {
    const mm = 2 * radiusOf(size, this.easel.grid);
    return `${size} px · ${mm < 10 ? mm.toFixed(1) : Math.round(mm)} mm`;
  }

  bandWords() {
    const { easel, scan } = this;
    if (scan.display.unit === "HU") return `± ${easel.band} HU`;
    return `± ${Math.round(easel.settings.bandShare * 100)} %`;
  }

  windowText() {
    const { level, width, low, high } = this.easel.windowing;
    if (this.scan.display.unit === "HU") return `Level ${Math.round(level)} HU, width ${width} HU`;
    return `Grey ${low} to ${high}`;
  }
}

function makePresetsOf(layout, easel, actions) {
  layout.presets = makePresets(layout.scan.presets, actions.setWindow);
  return layout.presets.element;
}

function section(title, ...content) {
  return make("section", {}, make("h2", { text: title }), ...content);
}
