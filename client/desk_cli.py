"""The commands of a hospital's desk: what is here, what left, what to mend, what to take out.

Heavy libraries load inside the commands, so that help is quick.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_options import NodeFolder, OutputFormat, StoreFolder
from common.command_line import STOPPED, Format

if TYPE_CHECKING:
    from client.egress import Content
    from client.store.store import Store
    from client.store_checks import Progress
    from common.plan import FederationPlan

Facts = dict[str, str | int | float | None]
MaybePlan = Annotated[Path | None, typer.Option("--plan", help="The federation's plan, TOML.")]
audit_app = typer.Typer(no_args_is_help=True, help="What was done and sent, and is it all there.")


def add_desk(app: typer.Typer) -> None:
    """Puts the desk's commands among a hospital's others."""
    for command in (status, policy, egress, forget, doctor):
        app.command()(command)
    app.add_typer(audit_app, name="audit")


def status(store: StoreFolder, node: NodeFolder = None, output: OutputFormat = Format.TEXT) -> None:
    """Scans by task and state, rounds, what was sent last, the policy, the federation's side."""
    from client.desk_text import print_status
    from client.egress import last_sent
    from client.node import node_of
    from client.node_status import print_node_status, read_node_status
    from client.policy import read_policy
    from client.store.status import read_status
    from client.store.store import open_store
    from common.errors import OneSliceError

    opened = open_store(store)
    found, sent = read_status(opened), last_sent(opened)
    taking_part = read_node_status(node_of(store, node))
    try:
        in_force, broken = read_policy(store), ""
    except OneSliceError as error:
        in_force, broken = None, str(error)
    if output is Format.JSON:
        rules = in_force.model_dump(mode="json") if in_force else {"broken": broken}
        last = asdict(sent) if sent else None
        told = {"last_sent": last, "policy": rules, "federation": asdict(taking_part)}
        print(json.dumps({**asdict(found), **told}, indent=2, default=str))
        return
    print_status(found, sent, in_force, broken)
    print_node_status(taking_part)


def policy(store: StoreFolder, output: OutputFormat = Format.TEXT) -> None:
    """The hospital's own policy as it is in force; the text can be saved as its policy.toml."""
    from client.desk_text import print_policy
    from client.policy import read_policy
    from client.store.store import open_store

    in_force = read_policy(open_store(store).folder)
    if output is Format.JSON:
        print(in_force.model_dump_json(indent=2))
        return
    print_policy(in_force, store)


def egress(
    store: StoreFolder,
    plan: MaybePlan = None,
    upcoming: Annotated[
        bool, typer.Option("--next", help="Try the next round of --plan; nothing is sent or kept.")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Attack this hospital's own update of --plan: what can be read back."
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the message to this file.")] = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Exactly what the last message held, or what the next one would: every tensor and number.

    With --probe exit code 1: a round's update tells more than the policy's most_leak.
    """
    from client.desk_text import print_content
    from client.egress import content_of
    from client.store.store import open_store
    from common.errors import SettingsError

    if (upcoming or probe) and plan is None:
        raise SettingsError("--next and --probe try a round of a plan: name it with --plan")
    opened = open_store(store)
    if probe and plan is not None:
        _probe(opened, _read_plan(plan), output)
        return
    if upcoming and plan is not None:
        facts, message = _next_message(opened, _read_plan(plan))
        content = content_of(message)
    else:
        facts, content, message = _last_message(opened, wanted=out is not None)
    if out is not None:
        out.write_bytes(message)
    if output is Format.JSON:
        print(json.dumps({**facts, **asdict(content)}, indent=2))
        return
    print_content(facts, content)


def _probe(store: "Store", plan: "FederationPlan", output: Format) -> None:
    from client.desk_text import print_probe
    from client.leak_probe import ITERATIONS, probe_leaks
    from client.local_round import Hospital

    found = probe_leaks(Hospital(store), plan, ITERATIONS)
    if output is Format.JSON:
        print(json.dumps({**asdict(found), "too_much": found.too_much}, indent=2))
    else:
        print_probe(found)
    if found.too_much:
        raise typer.Exit(STOPPED)


def _next_message(store: "Store", plan: "FederationPlan") -> tuple[Facts, bytes]:
    from client.dry_run import try_next_round
    from client.local_round import Hospital

    trial = try_next_round(Hospital(store), plan)
    return {"round": trial.round, "stayed_out": trial.stayed_out}, trial.reply


def _last_message(store: "Store", *, wanted: bool) -> tuple[Facts, "Content", bytes]:
    from client.egress import last_sent
    from common.errors import StoreError

    sent = last_sent(store)
    if sent is None:
        raise StoreError(f"{store.hospital} has sent nothing yet; --next shows what it would")
    if wanted and sent.stored_reply is None:
        raise StoreError(
            "the last message itself is not kept (those of the last two rounds are); the audit "
            "log has its names, sizes and numbers: leave --out away"
        )
    message = sent.stored_reply.read_bytes() if sent.stored_reply else b""
    reply = str(sent.stored_reply) if sent.stored_reply else None
    facts: Facts = {"time": sent.time, "stored_reply": reply, "update_norm": sent.update_norm}
    return facts, sent.content, message


def forget(
    name: Annotated[str, typer.Argument(help="A scan's id, a case's name or a patient's number.")],
    store: StoreFolder,
    reason: Annotated[str, typer.Option(help="Stays in the audit log: name nobody.")] = "",
    output: OutputFormat = Format.TEXT,
) -> None:
    """Withdraw scans: remove all that is kept of them for good, and keep a proof of that."""
    from client.desk_text import print_proof
    from client.store.forget import forget as withdraw
    from client.store.store import open_store

    proofs = withdraw(open_store(store), name, reason)
    if output is Format.JSON:
        print(json.dumps([asdict(proof) for proof in proofs], indent=2))
        return
    if not proofs:
        print("removed from the quarantine; no scan of that name was registered")
    for proof in proofs:
        print_proof(proof)


def doctor(
    store: StoreFolder,
    plan: MaybePlan = None,
    node: NodeFolder = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read the arrays' content.")
    ] = False,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean", help="Remove files that nothing points to, and damaged label maps."
        ),
    ] = False,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Check machine, packages and store: what is wrong, what to do. Exit code 1: a problem."""
    from client.desk_text import print_check
    from client.doctor import examine, examine_node
    from client.node import node_of

    agreed, here = (_read_plan(plan) if plan else None), node_of(store, node)
    checks = []
    with _progress_bar() as progress:
        looked_at = examine(store, agreed, quick=quick, clean=clean, progress=progress)
        for check in chain(looked_at, examine_node(store, here)):
            checks.append(check)
            if output is Format.TEXT:
                print_check(check)
    if output is Format.JSON:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    if any(check.problem for check in checks):
        raise typer.Exit(STOPPED)


@audit_app.command("show")
def audit_show(store: StoreFolder, output: OutputFormat = Format.TEXT) -> None:
    """Every row of the log, the oldest first."""
    from client.store.audit import read_audit
    from client.store.store import open_store

    rows = read_audit(open_store(store))
    if output is Format.JSON:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    for row in rows:
        print(f"{row.number:>6}  {row.time}  {row.event:<13} {row.details[:120]}")


@audit_app.command("verify")
def audit_verify(
    store: StoreFolder,
    noted: Annotated[
        str | None, typer.Option(help="A head that was printed earlier and kept elsewhere.")
    ] = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Says whether a row was changed, removed, put in or cut off. Exit code 1: one was."""
    from client.store.audit import verify_audit
    from client.store.store import open_store

    head = verify_audit(open_store(store), noted)
    if output is Format.JSON:
        print(json.dumps({"rows": head.number, "head": str(head)}))
        return
    print(f"{head.number} rows, none changed, removed, put in or cut off\nhead {head}")


def _read_plan(path: Path) -> "FederationPlan":
    from common.plan import FederationPlan
    from common.settings_file import read_settings

    return read_settings(FederationPlan, path)


@contextmanager
def _progress_bar() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:

        def track(keys: Iterable[str]) -> Iterable[str]:
            return bar.track(list(keys), description="arrays")

        yield track
