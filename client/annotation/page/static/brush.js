/** Diameters in pixels of the finer spacing; odd, so that a brush has a middle pixel. */
export const SIZES = [1, 3, 5, 7, 9, 11, 15, 19, 25, 31, 41, 55, 75];

/**
 * The pixels of a round brush: for each row from -reach to +reach, how far it extends from its
 * middle pixel to both sides. Round in millimetres: a pixel belongs to it whose centre lies within
 * half the diameter of the middle pixel's.
 */
export function roundBrush(size, grid) {
  const radiusMm = radiusOf(size, grid);
  const reach = Math.floor(radiusMm / grid.pixelHeightMm);
  const extents = [];
  for (let row = -reach; row <= reach; row++) {
    const heightMm = row * grid.pixelHeightMm;
    extents.push(Math.floor(Math.sqrt(radiusMm * radiusMm - heightMm * heightMm) / grid.pixelWidthMm));
  }
  return { reach, extents };
}

export function radiusOf(size, grid) {
  return (size / 2) * Math.min(grid.pixelWidthMm, grid.pixelHeightMm);
}

/** Moves the brush from pixel to pixel along a line; returns the rectangle that it covered. */
export function paintLine(painting, brush, from, to, label, accepts) {
  const across = Math.abs(to.x - from.x);
  const down = Math.abs(to.y - from.y);
  const stepX = from.x < to.x ? 1 : -1;
  const stepY = from.y < to.y ? 1 : -1;
  let { x, y } = from;
  let error = across - down;
  for (;;) {
    stampBrush(painting, brush, x, y, label, accepts);
    if (x === to.x && y === to.y) break;
    const doubled = 2 * error;
    if (doubled > -down) {
      error -= down;
      x += stepX;
    }
    if (doubled < across) {
      error += across;
      y += stepY;
    }
  }
  return coveredBy(painting.grid, brush, from, to);
}

/** Accepts the pixels whose grey value lies within `halfWidth` of the mean around (x, y). */
export function similarTo(slice, grid, { x, y }, halfWidth) {
  let sum = 0;
  let count = 0;
  for (let row = y - 1; row <= y + 1; row++) {
    for (let column = x - 1; column <= x + 1; column++) {
      if (!grid.contains(column, row)) continue;
      sum += slice[grid.offset(column, row)];
      count++;
    }
  }
  const middle = count ? sum / count : NaN;
  return (offset) => Math.abs(slice[offset] - middle) <= halfWidth;
}

function stampBrush(painting, { reach, extents }, x, y, label, accepts) {
  for (let row = -reach; row <= reach; row++) {
    const extent = extents[row + reach];
    painting.paintRow(y + row, x - extent, x + extent, label, accepts);
  }
}

function coveredBy(grid, { reach, extents }, from, to) {
  const extent = extents[reach];
  const rect = {
    left: Math.max(Math.min(from.x, to.x) - extent, 0),
    top: Math.max(Math.min(from.y, to.y) - reach, 0),
    right: Math.min(Math.max(from.x, to.x) + extent + 1, grid.width),
    bottom: Math.min(Math.max(from.y, to.y) + reach + 1, grid.height),
  };
  return rect.left < rect.right && rect.top < rect.bottom ? rect : null;
}
