/** The corners of a polygon that is not closed yet, kept in this browser in case the page goes. */

export function recallCorners(scanId, index) {
  try {
    const kept = JSON.parse(localStorage.getItem(keyOf(scanId, index)) ?? "[]");
    return kept.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
  } catch {
    return [];
  }
}

export function rememberCorners(scanId, index, corners) {
  try {
    if (corners.length) localStorage.setItem(keyOf(scanId, index), JSON.stringify(corners));
    else localStorage.removeItem(keyOf(scanId, index));
  } catch {
    // A browser may forbid storage; then an unfinished polygon lives as long as its page.
  }
}

function keyOf(scanId, index) {
  return `oneslice polygon ${scanId} ${index}`;
}
