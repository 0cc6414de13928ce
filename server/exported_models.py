"""A promoted round for those who do not run OneSlice: MONAI Bundles, ONNX files, a model card."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.nn import Module

from common.errors import CheckpointError, ReleaseError, SettingsError
from common.networks.released import released_networks
from common.networks.unet import SEGMENTER, STUDENT, count_parameters
from common.plan import FederationPlan, NetworkSize
from common.printable import printable
from common.released_models import (
    MODELS,
    RECORD,
    Release,
    ReleaseRecord,
    read_release,
    trained_roles,
)
from common.settings_file import Settings
from common.whole_file import write_whole
from common.window_overlap import WINDOW_OVERLAP
from server.checkpoints import load_state
from server.export.bundle_texts import bundle_texts
from server.export.monai_bundle import write_bundle
from server.export.onnx_file import write_onnx
from server.model_card import NetworkFacts, ReleaseCard, build_card, card_text
from server.promoted_models import CARD, read_card
from server.report import Report
from server.round_state import RoundState
from server.run_folder import RunFolder

OnStep = Callable[[str], None]
NUM_STEPS = 3
CARD_TEXT, CARD_FACTS = "MODEL_CARD.md", "model_card.json"


class ExportedModels(Settings):
    """What was written, and by how much ONNX differs from PyTorch (none: nobody could look)."""

    folder: Path
    federation: str
    round: int
    models_sha256: str
    onnx_differences: dict[str, float | None]


def export(folder: RunFolder, number: int | None, out: Path, on_step: OnStep) -> ExportedModels:
    """Writes a promoted round to `out`, whole or not at all.

    Args:
        folder: the run's.
        number: the round; None: the highest that is promoted.
        out: a folder that is empty or not there yet.
        on_step: told before each of at most NUM_STEPS steps.

    Raises:
        ReleaseError: there is no such promoted round, its models were changed, or ONNX Runtime
            comes to other numbers.
        SettingsError: `out` holds something, or what writes ONNX is not installed.
        CheckpointError: the run cannot be read, or `out` cannot be written.
    """
    plan = folder.read_plan()
    source = _find_promoted(folder, number)
    release = read_release(source)
    record = release.record
    if record.federation != plan.federation:
        raise ReleaseError(f"{source} is of {record.federation}, expected {plan.federation}")
    state = load_state(folder.checkpoints, plan)
    if state is None:
        raise CheckpointError(f"{folder.path}: no round is saved any more")
    with _whole_folder(out) as unfinished:
        for name in (MODELS, RECORD, CARD):
            write_whole(unfinished / name, (source / name).read_bytes())
        found = released_networks(release)
        networks = {role: found[role] for role in trained_roles(record.plan)}
        differences = {}
        for role, network in networks.items():
            on_step(f"{role}.onnx")
            differences[role] = _write_onnx(unfinished, record, role, network)
        on_step("bundles, card")
        card = _card(folder, source, release, state, differences)
        text = card_text(card)
        write_whole(unfinished / CARD_FACTS, card.model_dump_json(indent=2))
        write_whole(unfinished / CARD_TEXT, text)
        for role, network in networks.items():
            _write_bundle(unfinished, record, role, network, text)
    return ExportedModels(
        folder=out,
        federation=record.federation,
        round=record.round,
        models_sha256=record.models_sha256,
        onnx_differences=differences,
    )


def export_text(done: ExportedModels) -> str:
    """What was written, for people."""
    lines = [f"{done.federation}: round {done.round} is exported: {done.folder}"]
    for role, difference in done.onnx_differences.items():
        told = (
            "was not compared with PyTorch: onnxruntime is not installed"
            if difference is None
            else f"differs from PyTorch by {difference:.0e} of the largest logit at most"
        )
        lines.append(f"  {role}.onnx {told}")
    return "\n".join(map(printable, lines))


def _find_promoted(folder: RunFolder, number: int | None) -> Path:
    found = {
        int(path.parent.name[-5:]): path.parent
        for path in folder.promoted.glob(f"round-?????/{CARD}")
    }
    command = f"oneslice coordinator promote {folder.path}"
    if number is not None and number not in found:
        raise ReleaseError(
            f"round {number} is not promoted, promoted are {sorted(found)}: "
            f"`{command} --round {number}` first"
        )
    if not found:
        raise ReleaseError(f"{folder.path}: no round is promoted yet: `{command}` first")
    source = found[max(found) if number is None else number]
    if not (source / RECORD).exists():
        raise ReleaseError(
            f"{source} is of a version that wrote no {RECORD}: "
            f"`{command} --round {int(source.name[-5:])}` adds it"
        )
    return source


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end; if anything fails, nothing is left."""
    out = out.resolve()  # a folder can take the place of what a link points to, not of the link
    if out == Path.cwd() or out.is_mount():
        raise SettingsError(f"{out} cannot be replaced as a whole: name a new --out inside it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"expected a new or an empty folder, {out} is none: name another --out")
    unfinished = out.parent / f".{out.name}.unfinished"
    # What a killed export left.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.rename(out)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror}) and nothing of it was left: mend that and "
            "run the command again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _size_of(plan: FederationPlan, role: str) -> NetworkSize:
    return {SEGMENTER: plan.segmenter, STUDENT: plan.student}[role]


def _write_onnx(folder: Path, record: ReleaseRecord, role: str, network: Module) -> float | None:
    plan = record.plan
    facts = {
        "federation": record.federation,
        "round": str(record.round),
        "models_sha256": record.models_sha256,
        "labels": json.dumps({label.index: label.name for label in plan.labels}),
        "trained_labels": json.dumps(plan.taught_indexes(plan.stage_of_round(record.round))),
        "patch_size": json.dumps(plan.training.patch_size),
        "spacing_mm": json.dumps(plan.training.spacing_mm),
    }
    return write_onnx(folder / f"{role}.onnx", network, _size_of(plan, role), plan, facts)


def _card(
    folder: RunFolder,
    source: Path,
    release: Release,
    state: RoundState,
    differences: dict[str, float | None],
) -> ReleaseCard:
    report = None
    # It is about the run's last round.
    if release.record.round == state.round and folder.report_json.exists():
        report = _read_report(folder.report_json)
    tested = {SEGMENTER: report.segmenter, STUDENT: report.student} if report else {}
    networks = {
        role: NetworkFacts(
            size=_size_of(release.record.plan, role),
            parameters=count_parameters(release.arrays, role),
            onnx_difference=difference,
            tested=tested.get(role),
        )
        for role, difference in differences.items()
    }
    promoted = read_card(source)
    share = report.annotation.fraction_of_slices if report else None
    return build_card(release.record, promoted, state, networks, share)


def _read_report(path: Path) -> Report:
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read ({reason}): `oneslice coordinator report {path.parent}` writes "
            "it anew; or delete it, then the card goes without the test scores"
        ) from None


def _write_bundle(
    folder: Path, record: ReleaseRecord, role: str, network: Module, card: str
) -> None:
    trained, overlap = _trained(record), WINDOW_OVERLAP[role]
    texts = bundle_texts(record, trained, role, card)
    target, size = folder / f"{role}_bundle", _size_of(trained, role)
    write_bundle(target, network, size, trained, texts, overlap=overlap)


def _trained(record: ReleaseRecord) -> FederationPlan:
    """The plan with those tasks alone that the networks were trained on."""
    plan = record.plan
    begun = plan.tasks[: plan.stage_of_round(record.round) + 1]
    return plan.model_copy(update={"tasks": begun})
