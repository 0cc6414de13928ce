import * as api from "./api.js";
import { say } from "./dialog.js";
import { make } from "./element.js";
import { showHelp } from "./help.js";
import { showProgress } from "./progress.js";
import { listenToKeys } from "./shortcuts.js";
import { openWorklist } from "./worklist.js";

const QUIET_MS = 300;
const container = document.getElementById("view");

/** What the parts of the page know of the whole. */
const page = {
  me: null,
  open: null,
  address: "",
  routing: false,
  routeAgain: false,
  go(address) {
    if (location.hash === address) route();
    else location.hash = address;
  },
  progressChanged() {
    showProgress(document.getElementById("progress")).catch(() => {});
  },
  help() {
    showHelp(page.open?.keys ?? []);
  },
};

/** Shows what the address names: `#/`, `#/edit/SCAN/INDEX` or `#/review/SCAN`. */
async function route() {
  page.routeAgain = true;
  if (page.routing) return;
  page.routing = true;
  // An address that changes while one is opened waits for it: two at once would share the screen.
  while (page.routeAgain) {
    page.routeAgain = false;
    await leaveAndOpen(location.hash || "#/");
  }
  page.routing = false;
}

async function leaveAndOpen(address) {
  if (page.open && !(await page.open.close())) {
    history.replaceState(null, "", page.address);
    return;
  }
  document.getElementById("messages").replaceChildren();
  page.open = null;
  page.address = address;
  document.title = titleOf(address);
  container.replaceChildren(make("p", { class: "waiting", text: "Loading …" }));
  try {
    page.open = await openAddress(address);
  } catch (error) {
    showProblem(error);
  }
}

function titleOf(address) {
  const [name, scanId] = address.slice(2).split("/");
  const title = { edit: `Paint ${scanId}`, review: `Review ${scanId}` }[name] ?? "Worklist";
  return `${title} – OneSlice`;
}

/** The editor and the review are loaded when they are first opened, or before, in quiet moments. */
async function openAddress(address) {
  const [path, query] = address.slice(2).split("?");
  const [name, scanId, index] = path.split("/").map(decodeURIComponent);
  if (name === "edit") {
    const { openEditor } = await import("./editor.js");
    return openEditor(container, page, scanId, index ? Number(index) : null);
  }
  if (name === "review") {
    const { openReview } = await import("./review.js");
    return openReview(container, page, scanId);
  }
  return openWorklist(container, page, new URLSearchParams(query));
}

function showProblem(error) {
  const words = error instanceof api.Refused && error.status === 401
    ? "Your session has ended. Ask for a new link: it is printed where “oneslice hospital annotate” runs."
    : error.message;
  container.replaceChildren(make("div", { class: "problem-page" },
    make("h1", { text: "This could not be opened" }), make("p", { text: words }),
    make("button", { type: "button", class: "primary", text: "Try again", on: { click: start } }),
    make("a", { href: "#/", text: "To the worklist" })));
}

async function start() {
  try {
    page.me ??= await api.me();
  } catch (error) {
    showProblem(error);
    return;
  }
  document.getElementById("hospital").textContent = page.me.hospital;
  document.getElementById("annotator").textContent = page.me.annotator;
  page.progressChanged();
  await route();
  // Ahead of time only: without a network it is tried again when it is needed.
  setTimeout(() => Promise.allSettled([import("./editor.js"), import("./review.js")]), QUIET_MS);
}

document.getElementById("help").addEventListener("click", () => page.help());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  container.focus();
});
window.addEventListener("hashchange", route);
window.addEventListener("unhandledrejection", (event) => {
  say(event.reason?.message ?? "Something went wrong.", "problem");
  if (event.reason instanceof api.Refused || event.reason instanceof api.Unreachable) event.preventDefault();
});
// A page that the browser kept while it was away has lost its timers and its claim.
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
start();
