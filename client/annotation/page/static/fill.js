/**
 * The connected pixels (by their sides) that have the label of the pixel at (x, y), as {offsets,
 * rect, sides}: `sides` are how many of the slice's four borders they touch.
 */
export function areaAround(grid, mask, x, y) {
  const { width, height } = grid;
  const label = mask[grid.offset(x, y)];
  const seen = new Uint8Array(grid.numPixels);
  const waiting = [y * width + x];
  const offsets = [];
  const rect = { left: x, top: y, right: x + 1, bottom: y + 1 };
  seen[waiting[0]] = 1;
  while (waiting.length) {
    const place = waiting.pop();
    const column = place % width;
    const row = (place - column) / width;
    const offset = grid.offset(column, row);
    if (mask[offset] !== label) continue;
    offsets.push(offset);
    grow(rect, column, row);
    if (column > 0) visit(place - 1);
    if (column < width - 1) visit(place + 1);
    if (row > 0) visit(place - width);
    if (row < height - 1) visit(place + width);
  }
  return { offsets, rect, sides: sidesTouched(rect, grid) };

  function visit(next) {
    if (seen[next]) return;
    seen[next] = 1;
    waiting.push(next);
  }
}

/** Gives an area that was found a label. */
export function paintArea(painting, { offsets, rect }, label) {
  for (const offset of offsets) painting.mask[offset] = label;
  painting.touch(rect);
}

function grow(rect, column, row) {
  rect.left = Math.min(rect.left, column);
  rect.top = Math.min(rect.top, row);
  rect.right = Math.max(rect.right, column + 1);
  rect.bottom = Math.max(rect.bottom, row + 1);
}

function sidesTouched(rect, grid) {
  const touched = [rect.left === 0, rect.top === 0, rect.right === grid.width, rect.bottom === grid.height];
  return touched.filter(Boolean).length;
}
