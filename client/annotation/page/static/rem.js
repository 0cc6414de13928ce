/** The CSS pixels of so many times the page's text size, which grows with the screen. */
export function rem(count) {
  return count * parseFloat(getComputedStyle(document.documentElement).fontSize);
}
