import { asMinutes } from "./active_time.js";
import * as api from "./api.js";
import { make } from "./element.js";

/**
 * Who painted a slice, when, how long, and how far any two agree. `compare(version)` outlines one,
 * null none; `startFrom(version)` takes one over. Both are left out where they are not given.
 */
export function makeVersions(classes, { compare, startFrom } = {}) {
  const title = make("summary", { text: "Versions" });
  const body = make("div", { class: "versions" });
  const element = make("details", {}, title, body);
  let compared = null;
  const toggle = (number) => {
    compared = compared === number ? null : number;
    for (const button of body.querySelectorAll("[data-compare]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.compare) === compared));
    }
    compare(compared);
  };
  return {
    element,
    async load(scanId, index) {
      const { versions, agreement } = await api.versions(scanId, index);
      title.textContent = versions.length ? `Versions (${versions.length})` : "Versions: none yet";
      const rows = versions.toReversed().map((one) => versionRow(one, compare && toggle, startFrom));
      body.replaceChildren(...rows, ...agreement.map((pair) => agreementRow(pair, classes)));
    },
  };
}

function versionRow({ version, annotator, seconds, time }, toggle, startFrom) {
  const when = new Date(time).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  const buttons = [];
  if (toggle) {
    buttons.push(make("button", {
      type: "button", class: "chip", text: "Outline", "aria-pressed": "false", "data-compare": version,
      "aria-label": `Outline version ${version}`, on: { click: () => toggle(version) },
    }));
  }
  if (startFrom) {
    buttons.push(make("button", {
      type: "button", class: "chip", text: "Take over", "aria-label": `Take over version ${version}`,
      on: { click: () => startFrom(version) },
    }));
  }
  return make("div", { class: "version" },
    make("span", { class: "who", text: `${version} · ${annotator}` }),
    make("span", { class: "when", text: `${when} · ${asMinutes(seconds)} min` }),
    ...buttons);
}

function agreementRow({ one, other, dice, mean }, classes) {
  const each = classes
    .filter(({ index }) => dice[index] !== null && dice[index] !== undefined)
    .map(({ index, name }) => `${name} ${dice[index].toFixed(2)}`);
  const overall = mean === null ? "both found nothing" : `Dice ${mean.toFixed(2)}`;
  return make("div", { class: "agreement" },
    make("span", { text: `${one} and ${other}` }), make("strong", { text: overall }),
    make("span", { class: "when", text: each.join(", ") }));
}
