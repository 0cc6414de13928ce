const KEPT = 32;
const NEIGHBOURS = 3;

/** The slices along one axis: asked for once, the nearest fetched ahead, a few dozen kept. */
export class Slices {
  /** `load` turns an index from 0 to `depth` - 1 into a promise of the slice. */
  constructor(depth, load) {
    this.depth = depth;
    this.load = load;
    this.arrived = new Map();
    this.asked = new Map();
  }

  /** The slice if it is here already. */
  here(index) {
    return this.arrived.get(index);
  }

  /** A promise of the slice. */
  get(index) {
    const here = this.arrived.get(index);
    if (here) return Promise.resolve(here);
    if (!this.asked.has(index)) this.asked.set(index, this.fetch(index));
    return this.asked.get(index);
  }

  /** Fetches the neighbours of a slice, the nearest first; one that fails is asked again later. */
  prefetch(index) {
    for (let step = 1; step <= NEIGHBOURS; step++) {
      for (const near of [index - step, index + step]) {
        if (near >= 0 && near < this.depth) this.get(near).catch(() => {});
      }
    }
  }

  async fetch(index) {
    try {
      const slice = await this.load(index);
      this.arrived.set(index, slice);
      if (this.arrived.size > KEPT) this.arrived.delete(this.arrived.keys().next().value);
      return slice;
    } finally {
      this.asked.delete(index);
    }
  }
}
