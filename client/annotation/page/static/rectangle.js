/** Pixel rectangles {left, top, right, bottom}, right and bottom excluded; null is the empty one. */

export function union(one, other) {
  if (!one) return other;
  if (!other) return one;
  return {
    left: Math.min(one.left, other.left),
    top: Math.min(one.top, other.top),
    right: Math.max(one.right, other.right),
    bottom: Math.max(one.bottom, other.bottom),
  };
}

export function whole(grid) {
  return { left: 0, top: 0, right: grid.width, bottom: grid.height };
}
