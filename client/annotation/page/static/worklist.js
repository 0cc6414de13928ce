import * as api from "./api.js";
import { asMinutes } from "./active_time.js";
import { say } from "./dialog.js";
import { make } from "./element.js";
import { PLANES } from "./orientation.js";
import { listenToKeys } from "./shortcuts.js";

const PAGE_ROWS = 50;
const REFRESH_MS = 15000;
const STATES = [
  ["", "All"], ["asked", "To paint"], ["drafted", "Begun"], ["painted", "To review"],
  ["accepted", "Accepted"], ["flagged", "Flagged"],
];
const STATE_NAMES = Object.fromEntries(STATES);
const ACTION = { asked: "Paint", drafted: "Go on", painted: "Review", accepted: "Look", flagged: "Look" };

/** Opens the list of scans in `container`; `filters` are URLSearchParams with task, state, offset. */
export async function openWorklist(container, page, filters) {
  const list = new Worklist(page, filters);
  container.replaceChildren(list.element);
  await list.refresh();
  list.start();
  return list;
}

class Worklist {
  constructor(page, filters) {
    this.page = page;
    this.task = filters.get("task") ?? "";
    this.state = filters.get("state") ?? "";
    this.offset = Number(filters.get("offset") ?? 0);
    this.keys = this.makeKeys();
    this.chips = make("div", { class: "chips", role: "group", "aria-label": "State" });
    this.next = make("button", { type: "button", class: "primary next", text: "Paint the next slice" });
    this.next.addEventListener("click", () => this.paintNext());
    this.body = make("tbody");
    this.body.addEventListener("keydown", (event) => moveThroughRows(event));
    this.pages = make("nav", { class: "pages", "aria-label": "Pages of the list" });
    this.element = make("div", { class: "worklist" },
      make("div", { class: "list-head" }, make("h1", { text: "Worklist" }), this.taskPicker(), this.chips, this.next),
      make("div", { class: "table" }, make("table", {}, tableHead(), this.body)), this.pages);
  }

  start() {
    this.stopKeys = listenToKeys(this.keys);
    // Others work on the same list.
    this.timer = setInterval(() => document.hidden || this.refresh().catch(() => {}), REFRESH_MS);
  }

  async close() {
    this.stopKeys?.();
    clearInterval(this.timer);
    return true;
  }

  async refresh() {
    const { task, state, offset } = this;
    const found = await api.worklist({ task, state, offset, limit: PAGE_ROWS });
    this.showChips(found.counts);
    this.showRows(found.rows);
    this.showPages(found.total);
    const left = found.counts.asked + found.counts.drafted;
    this.next.disabled = left === 0;
    this.next.textContent = left ? "Paint the next slice" : "Nothing left to paint";
  }

  taskPicker() {
    const { tasks } = this.page.me;
    const select = make("select", { "aria-label": "Task" }, make("option", { value: "", text: "All tasks" }),
      ...tasks.map(({ name, plane }) => make("option", { value: name, text: `${name} (${plane})` })));
    select.value = this.task;
    select.addEventListener("change", () => this.filter({ task: select.value, offset: 0 }));
    return select;
  }

  filter(changes) {
    const { task, state, offset } = { ...this, ...changes };
    const named = Object.entries({ task, state, offset }).filter(([, value]) => value);
    const query = new URLSearchParams(named).toString();
    this.page.go(query ? `#/?${query}` : "#/");
  }

  showChips(counts) {
    const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
    this.chips.replaceChildren(...STATES.map(([state, name]) => make("button", {
      type: "button", class: `chip ${state}`, "aria-pressed": String(state === this.state),
      on: { click: () => this.filter({ state, offset: 0 }) },
    }, name, make("span", { class: "count", text: String(state ? counts[state] : all) }))));
  }

  showRows(rows) {
    const focused = document.activeElement?.closest("tr")?.dataset.scan;
    const none = make("tr", { class: "none" }, make("td", { colSpan: 8, text: this.emptyWords() }));
    this.body.replaceChildren(...(rows.length ? rows.map((row) => this.row(row)) : [none]));
    this.body.querySelector(`tr[data-scan="${CSS.escape(focused ?? "")}"] a`)?.focus();
  }

  emptyWords() {
    if (this.state || this.task) return "No scan of this task is in this state.";
    return "No scans yet: “oneslice hospital ingest” brings them in.";
  }

  row(row) {
    const held = row.claimed_by && !row.mine;
    const address = addressOf(row);
    const action = make("a", {
      class: "button", href: address, text: ACTION[row.state], "aria-label": `${ACTION[row.state]} ${row.scan_id}`,
    });
    const element = make("tr", { "data-scan": row.scan_id, "data-state": row.state, class: held ? "held" : "" },
      make("td", { class: "scan-id", text: row.scan_id }), make("td", { text: row.task }),
      make("td", {}, make("span", { class: `state ${row.state}`, text: STATE_NAMES[row.state] })),
      make("td", { text: row.index === null ? "–" : `${PLANES[row.axis]} ${row.index}` }),
      make("td", { class: "why", text: row.why, title: row.why }),
      make("td", { class: "typical", text: typicalWords(row.typical_seconds) }),
      make("td", { class: "claim" }, claimWords(row)), make("td", { class: "action" }, action));
    element.addEventListener("click", (event) => {
      if (!event.target.closest("a")) this.page.go(address);
    });
    return element;
  }

  showPages(total) {
    const last = Math.min(this.offset + PAGE_ROWS, total);
    const turn = (text, offset, possible) => make("button", {
      type: "button", text, disabled: !possible, on: { click: () => this.filter({ offset }) },
    });
    this.pages.replaceChildren(
      make("span", { text: total ? `${this.offset + 1}–${last} of ${total}` : "" }),
      turn("‹ Before", Math.max(this.offset - PAGE_ROWS, 0), this.offset > 0),
      turn("Next ›", this.offset + PAGE_ROWS, last < total));
  }

  /** The own drafts first, then what is asked and not with somebody else. */
  async paintNext() {
    for (const state of ["drafted", "asked"]) {
      const { rows } = await api.worklist({ task: this.task, state, limit: PAGE_ROWS });
      const free = rows.find((row) => row.mine || !row.claimed_by);
      if (free) {
        this.page.go(addressOf(free));
        return;
      }
    }
    say("Every scan that wants a slice is with somebody else at the moment.");
  }

  makeKeys() {
    return [{
      title: "Worklist",
      keys: [
        { on: ["ArrowDown"], shown: "Down", what: "next scan", run: () => this.body.querySelector("a")?.focus() },
        { on: [], shown: "Enter", what: "open the scan" },
        { on: ["n"], shown: "N", what: "paint the next slice", run: () => this.paintNext() },
        { on: ["?"], shown: "?", what: "this sheet", run: () => this.page.help() },
      ],
    }];
  }
}

/** Where a row's scan is worked on: the editor, or the review once it is painted. */
export function addressOf({ scan_id: scanId, state, index }) {
  const id = encodeURIComponent(scanId);
  // Without an index, the slice is chosen from the image when the scan is opened.
  return state === "asked" || state === "drafted" ? `#/edit/${id}/${index ?? ""}` : `#/review/${id}`;
}

function typicalWords(seconds) {
  return seconds === null ? "–" : `${asMinutes(seconds)} min`;
}

function claimWords({ claimed_by: holder, claim_left_s: leftS, mine }) {
  if (!holder) return "";
  return mine ? "you" : `${holder}, ${Math.max(1, Math.round(leftS / 60))} min`;
}

function tableHead() {
  const names = ["Scan", "Task", "State", "Slice", "Why this slice", "Takes", "With", ""];
  return make("thead", {}, make("tr", {}, ...names.map((text) => make("th", { scope: "col", text }))));
}

function moveThroughRows(event) {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!step) return;
  event.preventDefault();
  event.stopPropagation();
  event.target.closest("tr")[step]?.querySelector("a")?.focus();
}
