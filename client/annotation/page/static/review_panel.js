import { make } from "./element.js";
import { PLANES } from "./orientation.js";
import { makePresets } from "./presets.js";
import { makeSlider } from "./slider.js";
import { makeVersions } from "./versions.js";

const STATE_NAMES = {
  asked: "To paint", drafted: "Begun", painted: "To review", accepted: "Accepted", flagged: "Flagged",
};
const SOURCES = {
  propagated: "Spread from the painted slices.",
  fused: "Spread from the painted slices, joined with the current model.",
};

/** What is known of the label under review, and what can be done about it. */
export class ReviewPanel {
  constructor(scan, classes, actions) {
    Object.assign(this, { scan, classes, actions });
    this.state = make("span", { class: "state" });
    this.source = make("p", { class: "hint" });
    this.update = make("p", { class: "update", role: "status" });
    this.volumes = make("table", { class: "volumes" });
    this.suggestion = make("section", { class: "suggestion", hidden: true });
    this.painted = make("div", { class: "painted-slices" });
    this.presets = makePresets(scan.presets, actions.setWindow);
    this.opacity = makeSlider({
      label: "Labels", min: 0, max: 100, step: 5, keys: ["O"], format: (share) => `${share} %`,
      change: (share) => actions.setOpacity(share / 100),
    });
    this.opacity.show(55);
    this.versions = makeVersions(classes);
    this.versionsOf = "";
    this.element = make("aside", { class: "panel", "aria-label": "Review" },
      make("div", { class: "scrolls" }, ...this.sections()), this.buttons());
  }

  sections() {
    const { scan, actions } = this;
    const back = { type: "button", class: "quiet", text: "‹ Worklist", on: { click: actions.toWorklist } };
    this.verdict = make("p", { class: "verdict" });
    const head = make("section", { class: "review-head" },
      make("button", back),
      make("div", {}, make("strong", { class: "scan-id", text: scan.scan_id }), this.state),
      make("p", { class: "hint", text: `${scan.task} · ${PLANES[scan.axis]}` }), this.verdict);
    // What there is to see only once the label is there.
    this.details = [
      make("section", {}, make("h2", { text: "Label" }), this.source, this.update, this.volumes, legend()),
      make("section", {}, make("h2", { text: "Painted slices" }), this.painted, this.versions.element),
      make("section", {}, make("h2", { text: "Picture" }), this.presets.element, this.opacity.element),
    ];
    const [label, ...others] = this.details;
    return [head, label, this.suggestion, ...others];
  }

  buttons() {
    const { actions } = this;
    const button = (text, kind, key, run) => make("button", {
      type: "button", class: kind, text, title: `${text} (${key})`, "aria-keyshortcuts": key, on: { click: run },
    });
    this.accept = button("Accept", "primary", "A", actions.accept);
    this.more = button("Paint one more slice", "", "P", actions.paintMore);
    this.more.disabled = true;
    this.flag = button("Flag …", "", "X", actions.flag);
    return make("div", { class: "finish review-finish" }, this.more, this.flag, this.accept);
  }

  show(found) {
    this.state.className = `state ${found.state}`;
    this.state.textContent = STATE_NAMES[found.state];
    this.accept.disabled = !found.ready;
    this.showVerdict(found.verdict);
    for (const section of this.details) section.hidden = !found.ready;
    if (!found.ready) return;
    this.source.textContent = SOURCES[found.source];
    this.showUpdate(found.update, found.suggestion);
    this.showVolumes(found.volumes_ml);
    this.showSuggestion(found.suggestion);
    this.showPainted(found.painted);
  }

  showPosition(position) {
    this.shownSlice = position[this.scan.axis];
    this.offerShown();
  }

  /** The slice that is shown can be painted too, unless it is among the painted ones. */
  offerShown() {
    if (!this.paintShown || this.shownSlice === undefined) return;
    this.paintShown.textContent = `Paint slice ${this.shownSlice}, shown now`;
    this.paintShown.hidden = this.paintedSlices.includes(this.shownSlice);
  }

  problem(words) {
    this.update.dataset.state = "failed";
    this.update.textContent = words;
  }

  showVerdict(verdict) {
    this.verdict.hidden = !verdict;
    if (!verdict) return;
    this.verdict.textContent = verdict === "accepted" ? "This label was accepted." : "This scan was flagged.";
  }

  showUpdate({ state, sentence, seconds }, suggestion) {
    this.update.dataset.state = state;
    // What is advised stands below, on its own.
    const isAdvice = sentence === suggestion?.sentence;
    const learned = `The model has learned from this scan, in ${seconds} s.`;
    this.update.textContent = isAdvice ? learned : asSentence(sentence);
  }

  showVolumes(volumesMl) {
    this.volumes.replaceChildren(...this.classes.map(({ index, name, colour }) => {
      const dot = make("span", { class: "dot" });
      dot.style.backgroundColor = colour;
      const ml = volumesMl[index] ?? 0;
      return make("tr", {}, make("th", { scope: "row" }, dot, name),
        make("td", { text: `${ml < 10 ? ml.toFixed(2) : ml.toFixed(1)} ml` }));
    }));
  }

  showSuggestion(suggestion) {
    const canPaint = suggestion && suggestion.axis === this.scan.axis;
    this.more.disabled = !canPaint;
    this.more.textContent = canPaint ? `Paint slice ${suggestion.index} too` : "Paint one more slice";
    this.suggestion.hidden = !suggestion;
    const words = asSentence(suggestion?.sentence ?? "");
    if (this.suggestion.dataset.words === words) return;
    this.suggestion.dataset.words = words;
    if (!suggestion) return;
    const look = make("button", {
      type: "button", class: "chip", text: "Show it", on: { click: () => this.actions.goTo(suggestion) },
    });
    const title = make("h2", { text: "Where one more slice would help" });
    this.suggestion.replaceChildren(title, make("p", { text: words }), look);
  }

  showPainted(painted) {
    const names = painted.map(({ axis, index }) => `${axis} ${index}`).join();
    if (this.painted.dataset.names === names) return;
    this.painted.dataset.names = names;
    const rows = painted.map((one) => make("div", { class: "version" },
      make("span", { class: "who", text: `${PLANES[one.axis]} ${one.index}` }),
      make("button", { type: "button", class: "chip", text: "Show", on: { click: () => this.actions.goTo(one) } }),
      make("button", {
        type: "button", class: "chip", text: "Correct", disabled: one.axis !== this.scan.axis,
        on: { click: () => this.actions.paint(one.index) },
      })));
    this.paintShown = make("button", { type: "button", class: "chip", on: { click: this.actions.paintShown } });
    this.paintedSlices = painted.filter(({ axis }) => axis === this.scan.axis).map(({ index }) => index);
    this.offerShown();
    this.painted.replaceChildren(...rows, this.paintShown);
    const last = painted.findLast(({ axis }) => axis === this.scan.axis);
    if (last) this.versions.load(this.scan.scan_id, last.index).catch(() => {});
  }
}

function asSentence(words) {
  const whole = words.charAt(0).toUpperCase() + words.slice(1);
  return !whole || /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function legend() {
  const item = (kind, words) => make("span", {}, make("i", { class: kind }), words);
  const items = [item("sure", "sure"), item("unsure", "less sure"), item("doubtful", "doubtful")];
  return make("p", { class: "legend" }, ...items);
}
