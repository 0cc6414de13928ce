import * as api from "./api.js";
import { make } from "./element.js";

const STATES = [
  ["accepted", "accepted"], ["flagged", "flagged"], ["painted", "to review"], ["drafted", "begun"],
  ["asked", "to paint"],
];

/** Draws how far the hospital is, over all tasks, into the element at the page's top. */
export async function showProgress(element) {
  const { counts, slices_painted: slices, minutes_painted: minutes } = await api.worklist({ limit: 1 });
  const total = STATES.reduce((sum, [state]) => sum + counts[state], 0);
  const done = counts.accepted + counts.flagged;
  const bar = make("div", {
    class: "meter", role: "img",
    "aria-label": STATES.map(([state, words]) => `${counts[state]} ${words}`).join(", "),
  }, ...STATES.map(([state, words]) => share(state, counts[state], `${counts[state]} ${words}`)));
  const painted = `${slices} ${slices === 1 ? "slice" : "slices"}`;
  const words = make("span", { class: "progress-words" },
    make("strong", { text: `${done} of ${total}` }),
    ` scans done · ${painted} · ${Math.round(minutes)} min painted`);
  element.replaceChildren(bar, words);
}

function share(state, count, title) {
  const part = make("span", { class: state, title });
  part.style.flexGrow = count;
  return part;
}
