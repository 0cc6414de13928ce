"""How quickly the clinician's page answers in a real browser: `python -m simulations.bench_page`.

The page is served by the hospital's own command over a synthetic CT, and driven by a Chromium
without a window and without a graphics card, as a slow hospital computer would have it.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import tomli_w
from jaxtyping import Int16

from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.store import create_store
from common.plan import FederationPlan
from common.random_streams import generator

if TYPE_CHECKING:
    from playwright.sync_api import Page

CT_SHAPE = (512, 512, 300)
SPACING_MM = (0.75, 0.75, 1.5)
LOADS, STROKES, MOVES_PER_STROKE, SWITCHES = 5, 8, 25, 24
LONGEST_WAIT_MS, STEP_MS = 10_000, 10
SCREEN = {"width": 1366, "height": 768}
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Runs in the page before its own scripts: notes when things are on the screen. A message that is
# posted in a frame arrives after that frame was painted.
STOPWATCH = """
window.bench = { times: { move: [], save: [], slice: [], worklist: [], editor: [] } };
{
  const { times } = window.bench;
  const afterPaint = (run) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = run;
    port2.postMessage(0);
  });
  const note = (what, begun) => afterPaint(() => times[what].push(performance.now() - begun));
  let lifted = null, pressed = null;
  addEventListener("pointermove", ({ buttons, timeStamp }) => {
    if (buttons === 1) note("move", timeStamp);
  }, true);
  addEventListener("pointerup", (event) => { lifted = event.timeStamp; }, true);
  addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
  new MutationObserver((changes) => {
    for (const { target, attributeName } of changes) {
      if (attributeName === "data-state" && target.dataset.state === "saved" && lifted !== null) {
        times.save.push(performance.now() - lifted);
        lifted = null;
      }
      if (attributeName === "data-shown" && pressed !== null) {
        note("slice", pressed);
        pressed = null;
      }
    }
    if (!times.worklist.length && document.querySelector("tr[data-scan]")) note("worklist", 0);
  }).observe(document, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["data-state", "data-shown"],
  });
}
"""


@dataclass(frozen=True)
class Timing:
    """One thing that was timed: milliseconds, each time it happened."""

    what: str
    limit_ms: float
    times_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The middle one."""
        return median(self.times_ms)

    @property
    def slowest_ms(self) -> float:
        """The worst one in twenty."""
        return float(np.percentile(self.times_ms, 95))


def bench_page(shape: tuple[int, int, int] = CT_SHAPE) -> list[Timing]:
    """Times the page on a synthetic CT of `shape` voxels, in a folder that is gone afterwards.

    Raises:
        FileNotFoundError: no Chromium is installed.
    """
    # An optional library, in the dev extra.
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        raise FileNotFoundError("expected `chromium` or `chromium-browser` on the path; install it")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        make_hospital(folder, shape)
        with served(folder) as link:
            browser = playwright.chromium.launch(
                executable_path=browser_path, args=BROWSER_ARGUMENTS
            )
            page = browser.new_page(viewport=SCREEN)  # type: ignore[arg-type]
            page.add_init_script(STOPWATCH)
            timings = drive(page, link, shape)
            browser.close()
    return timings


def drive(page: "Page", link: str, shape: tuple[int, int, int]) -> list[Timing]:
    """Opens the worklist and its first scan, paints, goes through slices."""
    page.goto(link)
    ready = []
    for _ in range(LOADS):
        page.wait_for_timeout(1000)
        page.reload()
        ready += _wait_for(page, "worklist", 1)
    page.wait_for_timeout(1000)
    opened = page.evaluate(
        """async () => {
            const begun = performance.now();
            document.querySelector("tr[data-scan] a").click();
            while (!document.querySelector(".surface[data-shown]")) {
                await new Promise(requestAnimationFrame);
            }
            return performance.now() - begun;
        }"""
    )
    page.wait_for_timeout(1000)
    for number in range(STROKES):
        _stroke(page, 0.3 + 0.05 * number)
        saves = _wait_for(page, "save", number + 1)
    for number in range(SWITCHES):
        page.keyboard.press("PageUp" if number < SWITCHES // 2 else "PageDown")
        slices = _wait_for(page, "slice", number + 1)
    moves = _wait_for(page, "move", 1)
    return [
        Timing("page ready", 1000, tuple(ready)),
        Timing(f"slice of {shape[0]} x {shape[1]} open", 1000, (float(opened),)),
        Timing("stroke on the screen", 30, tuple(moves)),
        Timing("stroke saved", 200, tuple(saves)),
        Timing("other slice on the screen", 100, tuple(slices)),
    ]


def _wait_for(page: "Page", what: str, times: int) -> list[float]:
    """The times noted so far, once there are so many: the page forbids Playwright's own waiting."""
    for _ in range(LONGEST_WAIT_MS // STEP_MS):
        found: list[float] = page.evaluate(f"bench.times.{what}")
        if len(found) >= times:
            return found
        page.wait_for_timeout(STEP_MS)
    raise TimeoutError(f"waited {LONGEST_WAIT_MS} ms for {times} times of {what!r}, saw {found}")


def _stroke(page: "Page", height: float) -> None:
    """A stroke across the middle of the slice, as fast as a hand draws it."""
    box = page.locator(".surface").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] * height
    page.mouse.move(box["x"] + box["width"] * 0.35, y)
    page.mouse.down()
    for step in range(MOVES_PER_STROKE):
        page.mouse.move(box["x"] + box["width"] * (0.35 + 0.01 * step), y + 3 * (step % 5))
        page.wait_for_timeout(8)
    page.mouse.up()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A link to the page over the store in `folder`, served until the block ends."""
    command = [sys.executable, "-m", "oneslice", "hospital", "annotate", "--store"]
    command += [str(folder / "store"), "--plan", str(folder / "plan.toml"), "--annotator", "bench"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def make_hospital(folder: Path, shape: tuple[int, int, int]) -> None:
    """A plan and a store with one synthetic CT."""
    plan = FederationPlan.model_validate(_plan_values())
    (folder / "plan.toml").write_text(tomli_w.dumps(_plan_values()), encoding="utf-8")
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    affine = np.diag([*SPACING_MM, 1.0])
    nib.save(nib.Nifti1Image(draw_ct(shape), affine), images / "ct.nii")
    store, dataset = create_store(folder / "store", "bench"), find_cases(folder / "data")
    ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0])


def draw_ct(shape: tuple[int, int, int]) -> Int16[np.ndarray, "i j k"]:
    """A body in air with a bright organ that changes from slice to slice, in Hounsfield units."""
    i, j = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    noise = generator(0, "ct noise").normal(0, 12, (shape[0], shape[1]))
    volume = np.empty(shape, np.int16)
    for k in range(shape[2]):
        height = 2 * k / max(shape[2] - 1, 1) - 1
        body = np.where((i / 0.85) ** 2 + (j / 0.62) ** 2 < 1, 40, -1000)
        organ = ((i + 0.3) / 0.35) ** 2 + (j / 0.3) ** 2 + (height / 0.8) ** 2 < 1
        spine = (i / 0.1) ** 2 + ((j + 0.42) / 0.1) ** 2 < 1
        body = np.where(spine, 400, np.where(organ, 110, body))
        volume[:, :, k] = body + np.roll(noise, 7 * k, axis=0)
    return volume


def _plan_values() -> dict[str, object]:
    network = {"channels": [4, 8], "strides": [2]}
    labels = [
        {"name": "liver", "index": 1, "colour": "#e8a33d"},
        {"name": "tumour", "index": 2, "colour": "#4aa3df"},
    ]
    task = {
        "name": "liver-ct",
        "classes": ["liver", "tumour"],
        "modality": "CT",
        "plane": "axial",
        "rounds": 1,
        "window_hu": [-60.0, 200.0],
    }
    return {
        "name": "page-bench",
        "labels": labels,
        "tasks": [task],
        "segmenter": network,
        "student": network,
        "training": {"patch_size": [16, 16, 16]},
        "limits": {"hospitals": 1},
    }


def to_text(timings: Sequence[Timing]) -> str:
    """The table."""
    lines = [f"{'':<30}{'median':>9}{'95 %':>9}{'limit':>9}  ms"]
    for one in timings:
        numbers = f"{one.median_ms:>9.1f}{one.slowest_ms:>9.1f}{one.limit_ms:>9.0f}"
        lines.append(f"{one.what:<30}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(to_text(bench_page()))
