"""Whether this machine can do what a hospital's rounds ask of it. Heavy libraries load inside."""

import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from client.check import Check
from common.plan import FederationPlan

# The versions that were tested together, as in constraints.txt.
TESTED = {
    "dp-accounting": "0.6.0",
    "flwr": "1.41.0",
    "mlflow": "3.17.2",
    "monai": "1.6.1",
    "torch": "2.13.0",
    "torchio": "1.2.1",
}
TESTED_PYTHON = "3.11"
GB = 1e9
# Below this not even the libraries and a small round fit.
LEAST_MEMORY_GB = 2.0
DISK_RESERVE_GB = 1.0


def check_python() -> Check:
    """Against what the installed package demands and what was tested."""
    found = platform.python_version()
    same = found.startswith(f"{TESTED_PYTHON}.")
    return Check("Python", found if same else f"{found} (tested: {TESTED_PYTHON})")


def check_packages() -> list[Check]:
    """Every package that OneSlice needs: there, in the range that it asks for."""
    try:
        wanted = [Requirement(text) for text in metadata.requires("oneslice") or ()]
    except metadata.PackageNotFoundError:
        return [
            Check("packages", "", "OneSlice is not installed", "install it: pip install oneslice")
        ]
    required = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [_check_package(one) for one in sorted(required, key=lambda one: one.name.casefold())]


def _check_package(wanted: Requirement) -> Check:
    name, asked = f"package {wanted.name}", f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        found = Version(metadata.version(wanted.name))
    except metadata.PackageNotFoundError:
        return Check(name, "not installed", "a package is missing", asked)
    tested = TESTED.get(wanted.name.casefold(), found.public)
    text = str(found) if found.public == tested else f"{found} (tested: {tested})"
    if not wanted.specifier.contains(found, prereleases=True):
        return Check(name, text, f"outside of the range {wanted.specifier}", asked)
    return Check(name, text)


def check_disk(folder: Path, needed_bytes: float) -> Check:
    """Room for `needed_bytes` and a reserve."""
    free_gb, needed_gb = shutil.disk_usage(folder).free / GB, needed_bytes / GB + DISK_RESERVE_GB
    found = f"{free_gb:.1f} GB free, {needed_gb:.1f} GB needed for the label maps to come"
    if free_gb < needed_gb:
        return Check("disk", found, "the disk will be full", f"free some space under {folder}")
    return Check("disk", found)


def check_memory(needed_gb: float | None) -> Check:
    """Memory for a round of a plan; without one, for the smallest round there is."""
    needed_gb = LEAST_MEMORY_GB if needed_gb is None else needed_gb
    available_gb = _available_gb()
    if available_gb is None:
        return Check("memory", f"unknown on {platform.system()}; about {needed_gb:.1f} GB needed")
    found = f"{available_gb:.1f} GB available, about {needed_gb:.1f} GB needed for a round"
    if available_gb < needed_gb:
        to_do = "end other programs, or ask for smaller patches, batches or networks in the plan"
        return Check("memory", found, "a round may be killed for memory", to_do)
    return Check("memory", found)


def _available_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: line.split()[1] for line in lines}
    return float(values["MemAvailable"]) * 1024 / GB if "MemAvailable" in values else None


def check_cores() -> Check:
    """Processor cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("processor", f"{cores} core{'' if cores == 1 else 's'}")


def check_gpu() -> Check:
    """Whether torch can use a graphics card; a card that it cannot use is a problem."""
    import torch  # noqa: PLC0415  (two seconds)

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return Check("GPU", f"{card.name}, {card.total_memory / GB:.0f} GB")
    if Path("/proc/driver/nvidia/version").exists():
        to_do = "install the torch that fits its driver (pytorch.org names it)"
        return Check("GPU", f"a card, and torch {torch.__version__}", "torch cannot use it", to_do)
    return Check("GPU", "none: rounds run on the processor")


def check_networks(plan: FederationPlan) -> Check:
    """A pass of one training patch through each of the plan's networks."""
    import torch  # noqa: PLC0415  (two seconds)

    from client.learning.device import choose_device  # noqa: PLC0415  (loads torch)
    from common.networks.unet import build_networks  # noqa: PLC0415  (loads MONAI)

    device, seconds = choose_device(), {}
    for role, network in build_networks(plan).items():
        patch = torch.zeros(1, plan.channels, *plan.training.patch_size, device=device)
        started = time.perf_counter()
        try:
            with torch.inference_mode():
                logits = network.to(device).eval()(patch)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            return Check("networks", f"{role} on {device}", reason, "see memory and GPU above")
        assert logits.shape == (1, plan.num_classes, *plan.training.patch_size)
        seconds[role] = time.perf_counter() - started
    taken = ", ".join(f"{role} {value:.2f} s" for role, value in seconds.items())
    return Check("networks", f"a patch through each on {device}: {taken}")
