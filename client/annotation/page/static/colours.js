const SPARE = ["#e69f00", "#56b4e9", "#2fbf8f", "#f0e442", "#cc79a7", "#e4572e", "#8f7ee7", "#b7d968"];

/** The classes with a colour of their own each: a dictionary may give several the same one. */
export function distinctColours(classes) {
  const taken = new Set();
  return classes.map((label) => {
    const wanted = label.colour.toLowerCase();
    const free = taken.has(wanted) ? SPARE.find((colour) => !taken.has(colour)) || wanted : wanted;
    taken.add(free);
    return { ...label, colour: free };
  });
}
