"""The page fits the screens that hospitals have, can be read, and works without a mouse."""

import pytest
from page_browser import Screen

from client.annotation.worklist import Wanted, read_worklist

AA = 4.5
# Every visible text with its colour and the ground that it stands on, as WCAG compares them.
CONTRASTS = """() => {
  const channels = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const over = (top, alpha, below) =>
    top.map((value, place) => alpha * value + (1 - alpha) * below[place]);
  const ground = (element) => {
    if (!element) return [13, 17, 22];
    const { rgb, alpha } = channels(getComputedStyle(element).backgroundColor);
    return alpha === 1 ? rgb : over(rgb, alpha, ground(element.parentElement));
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3);
    const text = own.map((node) => node.data).join("").trim();
    if (!text || !element.checkVisibility()) continue;
    if (element.closest(":disabled, noscript, .skip, .unseen")) continue;
    const below = ground(element);
    const style = getComputedStyle(element);
    const { rgb, alpha } = channels(style.color);
    const opacity = alpha * style.opacity;
    const pair = [luminance(over(rgb, opacity, below)), luminance(below)];
    found.push([text, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)]);
  }
  return found;
}"""
UNNAMED = """() => [
  ...document.querySelectorAll("button, a, input, select, textarea, [tabindex='0']"),
].filter((element) => element.checkVisibility() && !element.closest("label"))
  .filter(({ textContent, ariaLabel, title }) => !(textContent.trim() || ariaLabel || title))
  .map((element) => element.outerHTML)"""
OUTSIDE = """() => [...document.querySelectorAll("button, .surface, .letter, .scale")]
  .filter((element) => element.checkVisibility() && !element.closest(".table, .scrolls"))
  .filter((element) => {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return left < -1 || top < -1 || right > innerWidth + 1 || bottom > innerHeight + 1;
  }).map((element) => element.outerHTML)"""


def check(screen: Screen) -> None:
    """Text can be read, everything has a name, nothing is cut off."""
    contrasts = screen.page.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    assert [(text, ratio) for text, ratio in contrasts if ratio < AA] == []
    assert screen.page.evaluate(UNNAMED) == []
    assert screen.page.evaluate(OUTSIDE) == []
    assert screen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [(1366, 768), (3840, 2160), (820, 1180), (1024, 768)], ids=str)
def test_every_view_fits_the_screen(page, open_screen, size: tuple[int, int]) -> None:
    screen = open_screen(page, viewport={"width": size[0], "height": size[1]})
    check(screen)
    scan_id = read_worklist(page.store, page.plan, Wanted()).rows[0].scan_id
    screen.open_slice(scan_id)
    check(screen)
    screen.press("t", "PageUp")
    screen.page.wait_for_selector(".banner:not([hidden])")
    check(screen)
    screen.press("Home", "b", "?")
    check(screen)
    screen.press("Escape")
    screen.stroke((8, 12), (16, 12))
    screen.submit()
    screen.wait_for_planes()
    check(screen)


def test_tab_reaches_every_button_and_shows_where_it_is(page, open_screen) -> None:
    screen = open_screen(page)
    scan_id = read_worklist(page.store, page.plan, Wanted()).rows[0].scan_id
    screen.open_slice(scan_id)
    buttons = screen.page.evaluate(
        """() => {
            const kinds = "button:not(:disabled), .surface, input, summary";
            const shown = [...document.querySelectorAll(kinds)]
              .filter((element) => element.checkVisibility() && element.tabIndex >= 0);
            shown.forEach((element, place) => { element.dataset.place = place; });
            return shown.length;
        }"""
    )
    assert buttons > 20
    reached = set()
    for _ in range(buttons + 10):
        screen.press("Tab")
        place, outline = screen.page.evaluate(
            """() => {
                const { dataset } = document.activeElement;
                return [dataset.place ?? "", getComputedStyle(document.activeElement).outlineStyle];
            }"""
        )
        if place:
            reached.add(place)
            assert outline != "none"
    assert len(reached) == buttons
