/** The names of the planes whose slices lie along array axis 0, 1 and 2. */
export const PLANES = ["sagittal", "coronal", "axial"];
const FAR_END = ["R", "A", "S"];
const NEAR_END = ["L", "P", "I"];

/** The two other axes of a slice along `axis`: its rows and its columns. */
export function axesOf(axis) {
  return [0, 1, 2].filter((other) => other !== axis);
}

/** What lies at the four sides of the screen, by the radiological convention. */
export function lettersOf(axis) {
  const [rows, columns] = axesOf(axis);
  return { left: FAR_END[rows], right: NEAR_END[rows], top: FAR_END[columns], bottom: NEAR_END[columns] };
}

/**
 * The pixels of one slice. The array is (rows, columns) in RAS, row after row; on screen x runs
 * along the rows and y along the columns, both reversed, so that the patient's right is on the left
 * and the front or the head on top.
 */
export class Grid {
  constructor(rows, columns, rowMm, columnMm) {
    this.rows = rows;
    this.columns = columns;
    this.width = rows;
    this.height = columns;
    this.pixelWidthMm = rowMm;
    this.pixelHeightMm = columnMm;
    this.numPixels = rows * columns;
  }

  /** Where the array holds the pixel that is shown at (x, y). */
  offset(x, y) {
    return this.numPixels - 1 - (x * this.columns + y);
  }

  contains(x, y) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }
}
