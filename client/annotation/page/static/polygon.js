/**
 * Paints the pixels whose centres lie inside a closed polygon, by the even-odd rule. `corners` are
 * {x, y} in pixel coordinates, not rounded: pixel (i, j) has its centre at (i + 0.5, j + 0.5).
 */
export function paintPolygon(painting, corners, label, accepts) {
  const heights = corners.map(({ y }) => y);
  const first = Math.max(Math.floor(Math.min(...heights)), 0);
  const last = Math.min(Math.ceil(Math.max(...heights)), painting.grid.height - 1);
  for (let row = first; row <= last; row++) {
    const crossings = crossingsAt(corners, row + 0.5);
    for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
      const from = Math.ceil(crossings[pair] - 0.5);
      const to = Math.ceil(crossings[pair + 1] - 0.5) - 1;
      painting.paintRow(row, from, to, label, accepts);
    }
  }
}

/** Where the outline crosses the horizontal line at height y, from left to right. */
function crossingsAt(corners, y) {
  const crossings = [];
  for (let place = 0; place < corners.length; place++) {
    const from = corners[place];
    const to = corners[(place + 1) % corners.length];
    if (from.y <= y === to.y <= y) continue;
    crossings.push(from.x + ((y - from.y) / (to.y - from.y)) * (to.x - from.x));
  }
  return crossings.sort((one, other) => one - other);
}
