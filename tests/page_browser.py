"""The clinician's page in a real browser, as a person with a mouse, a pen and a keyboard has it."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREEN = {"width": 1366, "height": 768}
Pixel = tuple[float, float]


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser that is installed on this machine, without a window and without a GPU."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Screen:
    """One tab. Pixels are (x, y) on the slice as it is shown, whole numbers their corners."""

    page: Page
    base_url: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listens to everything that goes wrong and everything that is asked for."""
        self.page.set_default_timeout(10_000)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def enter(self, link: str) -> None:
        """Opens a link and waits for the worklist."""
        self.page.goto(link)
        self.page.wait_for_selector(".worklist tbody tr")

    def open_slice(self, scan_id: str, index: int | str = "") -> None:
        """Opens a slice in the editor; without an index the one that is asked for."""
        self.page.goto(f"{self.base_url}/#/edit/{scan_id}/{index}")
        self.page.wait_for_selector(
            f".editor .surface[data-shown='{index}']" if index != "" else ".editor .surface"
        )

    def positions(self, points: Sequence[Pixel]) -> list[Pixel]:
        """Where on the screen points of the slice are."""
        left, top, across, down = self.page.locator(".surface canvas").first.evaluate(
            """(canvas) => {
                const box = canvas.getBoundingClientRect();
                const { left, top, pixelWidth, pixelHeight } = canvas.dataset;
                return [box.left + +left, box.top + +top, +pixelWidth, +pixelHeight];
            }"""
        )
        return [(left + x * across, top + y * down) for x, y in points]

    def position(self, point: Pixel) -> Pixel:
        """Where on the screen a point of the slice is."""
        return self.positions([point])[0]

    def centre(self, pixel: Pixel) -> Pixel:
        """The middle of a whole pixel on the screen."""
        return self.position((pixel[0] + 0.5, pixel[1] + 0.5))

    def colours(self, pixels: Sequence[Pixel]) -> np.ndarray:
        """Red, green and blue that the canvas shows in the middles of whole pixels."""
        places = self.positions([(x + 0.5, y + 0.5) for x, y in pixels])
        found = self.page.locator(".surface canvas").first.evaluate(
            """(canvas, places) => {
                const box = canvas.getBoundingClientRect();
                const { width, height } = canvas;
                const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
                return places.map(([left, top]) => {
                    const [x, y] = [Math.round(left - box.left), Math.round(top - box.top)];
                    return [...data.slice(4 * (y * width + x), 4 * (y * width + x) + 3)];
                });
            }""",
            places,
        )
        return np.array(found)

    def drag(self, *points: Pixel, button: str = "left", lift: bool = True) -> None:
        """Draws along points of the slice."""
        places = self.positions(points)
        self.page.mouse.move(*places[0])
        self.page.mouse.down(button=button)  # type: ignore[arg-type]
        for place in places[1:]:
            self.page.mouse.move(*place, steps=6)
        if lift:
            self.page.mouse.up(button=button)  # type: ignore[arg-type]

    def stroke(self, *pixels: Pixel, lift: bool = True) -> None:
        """Draws from pixel middle to pixel middle."""
        self.drag(*((x + 0.5, y + 0.5) for x, y in pixels), lift=lift)

    def press(self, *keys: str) -> None:
        """Presses keys one after another."""
        for key in keys:
            self.page.keyboard.press(key)

    def brush_size(self, size: int) -> None:
        """Takes the brush and sets its diameter in pixels by the slider: 1, 3, 5 or 7."""
        self.press("b")
        self.page.locator("input[aria-label=Size]").fill(str((size - 1) // 2))
        assert self.shown_size() == size

    def shown_size(self) -> int:
        """The diameter that the panel tells, in pixels."""
        text = self.page.locator(".slider:has(input[aria-label=Size]) output").inner_text()
        found = re.match(r"(\d+) px", text)
        assert found is not None
        return int(found[1])

    def wait_saved(self) -> None:
        """Waits until the status line says so."""
        self.page.wait_for_selector(".saved[data-state=saved]")

    def submit(self) -> None:
        """Sends the slice off and waits until it is taken."""
        self.press("Control+Enter")
        self.page.wait_for_selector(".review")

    def wait_for_planes(self) -> None:
        """Waits for the volume that a submitted slice becomes."""
        self.page.wait_for_selector(".plane .surface[data-shown]", timeout=30_000)


def on_screen(mask: np.ndarray) -> np.ndarray:
    """An array slice (rows, columns) as [y, x] of the screen, by the page's documented rule."""
    rows, columns = mask.shape
    shown = np.empty((columns, rows), mask.dtype)
    for y in range(columns):
        for x in range(rows):
            shown[y, x] = mask[rows - 1 - x, columns - 1 - y]
    return shown


def from_screen(shown: np.ndarray) -> np.ndarray:
    """[y, x] of the screen back to the array slice."""
    return on_screen(shown)


def dabs(shape: tuple[int, int], pixels: Sequence[tuple[int, int]], size: int) -> np.ndarray:
    """What a round brush leaves at pixels (x, y) of a screen of `shape` (height, width)."""
    y, x = np.indices(shape)
    covered = np.zeros(shape, bool)
    for column, row in pixels:
        covered |= (x - column) ** 2 + (y - row) ** 2 <= (size / 2) ** 2
    return covered


def inside(shape: tuple[int, int], corners: Sequence[Pixel]) -> np.ndarray:
    """The pixels whose middles lie in a polygon, by how often a ray to the right crosses it."""
    covered = np.zeros(shape, bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            x, y = column + 0.5, row + 0.5
            crossings = 0
            for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
                if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                    crossings += 1
            covered[row, column] = crossings % 2 == 1
    return covered
