"""The newest models that each federation has sent to this hospital: what it may predict with.

Each is a release (`common/released_models.py`) in received/FEDERATION/, put there whole by one
rename and named after its round and its content; what came before goes afterwards. The newest is
the one that came last, not that of the highest round: a coordinator may go back to an older one.

They are weights that the federation sent, no data, and stay when a patient is withdrawn.
"""

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path

from safetensors.numpy import save

from client.store.atomic_files import UNFINISHED, check_room, write_atomically
from client.store.store import Store
from common.errors import ReleaseError, SettingsError, StoreError
from common.plan import Earlier, FederationPlan
from common.released_models import RECORD, Release, read_record, read_release, write_release
from common.updates import Arrays, RoundRequest

log = logging.getLogger(__name__)
RECEIVED = "received"
EARLIER = ".extends.json"


def keep_received(store: Store, request: RoundRequest, arrays: Arrays) -> None:
    """Keeps the models that came with a request, unless nobody has trained them yet.

    A request for training brings those of the round before. Which earlier federation the plan goes
    on from is noted in any case. A disk without room costs the hospital newer models, not the
    round: the log says so.
    """
    plan, number = request.plan, request.round - (request.action == "train")
    _note_earlier(store, plan)
    if number <= max(plan.begins_after, plan.correspondence.rounds):
        return
    models = save(arrays)
    name = f"round-{number:05d}-{hashlib.sha256(models).hexdigest()[:16]}"
    folder = store.folder / RECEIVED / plan.federation / name
    try:
        if not folder.exists():
            check_room(store.folder, len(models))
            _put_in_place(folder, models, plan, number)
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
    except (OSError, StoreError) as error:
        log.warning("%s: the models of round %d are not kept: %s", store.folder, number, error)


def load_newest(store: Store) -> Release:
    """The models that came last.

    Raises:
        StoreError: none has come yet.
        SettingsError: they came from federations of different names, so somebody must choose.
        ReleaseError: they were changed on the disk.
    """
    folders = _newest_first(store)
    if not folders:
        raise StoreError(
            f"{store.hospital} has received no trained models yet: wait for the second round of a "
            "federation, or name a release with --release"
        )
    newest = folders[0]
    try:
        if len({read_record(folder).plan.name for folder in folders}) > 1:
            listed = "\n".join(f"  --release {folder}" for folder in folders)
            raise SettingsError(f"models of different federations are here; choose:\n{listed}")
        return read_release(newest)
    except ReleaseError:
        if newest.exists():
            raise
        # The next round's came meanwhile.
        return load_newest(store)


def goes_on_from(store: Store) -> dict[str, Earlier]:
    """Of each federation that asked here and extends an earlier one: which, after which round."""
    notes = (store.folder / RECEIVED).glob(f"*{EARLIER}")
    return {
        note.name.removesuffix(EARLIER): Earlier.model_validate_json(note.read_text("utf-8"))
        for note in notes
        if not note.name.startswith(UNFINISHED)
    }


def _note_earlier(store: Store, plan: FederationPlan) -> None:
    """Before anything else of a request: its models derive from those of the earlier one."""
    note = store.folder / RECEIVED / f"{plan.federation}{EARLIER}"
    if plan.extends is None or note.exists():
        return
    text = plan.extends.model_dump_json()
    write_atomically(note, lambda unfinished: _write(unfinished, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _put_in_place(folder: Path, models: bytes, plan: FederationPlan, number: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    try:
        write_release(unfinished, models, plan, number)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _newest_first(store: Store) -> list[Path]:
    """Several of one federation are there if a process was killed between two."""
    records = (store.folder / RECEIVED).glob(f"*/round-*/{RECORD}")
    written = sorted((record.stat().st_mtime_ns, record.parent) for record in records)
    return [folder for _, folder in reversed(written)]
