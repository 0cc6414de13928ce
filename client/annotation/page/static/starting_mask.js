import * as api from "./api.js";
import { ask } from "./dialog.js";
import { asMinutes } from "./active_time.js";

/**
 * What the painting of a slice begins with: {mask, version, seconds, words}. The own draft if there
 * is one, else what the same person submitted before, else nothing; somebody else's only if wanted,
 * because two who paint without looking at each other can be compared.
 */
export async function startingMask(scan, index, annotator) {
  const begun = scan.drafts.some((one) => isSlice(one, scan, index));
  const draft = begun ? await api.draft(scan.scan_id, index) : null;
  if (draft) {
    return { ...draft, words: `Your draft goes on where you left it (${asMinutes(draft.seconds)} at the brush).` };
  }
  const nothing = { mask: new Uint8Array(scan.rows * scan.columns), version: 0, seconds: 0, words: "" };
  if (!scan.painted.some((one) => isSlice(one, scan, index))) return nothing;
  const { versions } = await api.versions(scan.scan_id, index);
  const own = versions.filter((one) => one.annotator === annotator);
  const chosen = newest(own) ?? (await wantedOfOthers(newest(versions)));
  if (!chosen) return nothing;
  const mask = await api.version(scan.scan_id, index, chosen.version);
  const words = `Version ${chosen.version} by ${chosen.annotator}: what you change becomes a new version.`;
  return { ...nothing, mask, words };
}

async function wantedOfOthers(version) {
  if (!version) return null;
  const start = await ask({
    title: `${version.annotator} has painted this slice`,
    words: [
      `Version ${version.version} of ${new Date(version.time).toLocaleString()}.`,
      "Painted anew, without looking, yours can be compared with it; both are kept.",
    ],
    choices: [
      { value: "anew", label: "Paint anew", kind: "primary" },
      { value: "theirs", label: `Correct ${version.annotator}'s` },
    ],
  });
  return start === "theirs" ? version : null;
}

function isSlice(one, scan, index) {
  return one.axis === scan.axis && one.index === index;
}

function newest(versions) {
  return versions.reduce((last, one) => (last && last.version > one.version ? last : one), null);
}
