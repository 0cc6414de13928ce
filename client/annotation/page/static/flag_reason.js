import { ask } from "./dialog.js";
import { make } from "./element.js";

const LONGEST = 500;
const COMMON = [
  "The image is unreadable here", "The structure is not on this scan", "The label runs over", "Wrong task",
];

/** Asks why a scan is flagged, until a reason is given; a promise of it, null if it was left. */
export async function askForReason() {
  for (;;) {
    const text = make("textarea", {
      rows: 4, maxLength: LONGEST, "aria-label": "Reason", placeholder: "What is wrong, in a few words",
    });
    text.setAttribute("autofocus", "");
    const chips = COMMON.map((reason) => make("button", {
      type: "button", class: "chip", text: reason, on: {
        click: () => {
          text.value = text.value ? `${text.value}; ${reason}`.slice(0, LONGEST) : reason;
          text.focus();
        },
      },
    }));
    const choice = await ask({
      title: "Flag this scan",
      words: "It is set aside for somebody to look at. No name or birth date belongs here.",
      content: make("div", { class: "reason" }, make("div", { class: "chips" }, ...chips), text),
      choices: [
        { value: "flag", label: "Flag", kind: "danger" },
        { value: "back", label: "Back" },
      ],
    });
    if (choice !== "flag") return null;
    const reason = text.value.trim();
    if (reason) return reason;
  }
}
