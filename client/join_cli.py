"""The commands that take part in a federation: approve, join, and the two that join supervises.

Heavy libraries load inside the commands, so that help is quick.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.cli_options import NodeFolder, OutputFormat, StoreFolder
from common.command_line import STOPPED, Format

By = Annotated[str | None, typer.Option("--by", help="Who approves; the login name if not given.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]


def add_join(app: typer.Typer) -> None:
    """Puts these commands among a hospital's others."""
    for command in (approve, join, worker, supernode):
        app.command()(command)


def approve(
    store: StoreFolder,
    node: NodeFolder = None,
    plan: Annotated[
        Path | None, typer.Option(help="The plan, TOML; the one that was asked for if not given.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="The code, a .fab file; this installation's own if not given."),
    ] = None,
    by: By = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show all changed lines, however many.")
    ] = False,
    withdraw: Annotated[
        str | None,
        typer.Option(help="Take back a bundle's approval (its hash) or a federation's instead."),
    ] = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Show what code and plan would run here and what would leave; then approve, or not."""
    from getpass import getuser

    from client.approvals import approve as put_into_force
    from client.approvals import withdraw as take_back
    from client.node import node_of
    from client.proposal import chosen_bundle, own_bundle, propose, wanted_plans
    from client.proposal_text import print_proposal
    from client.store.store import open_store

    opened, here, who = open_store(store), node_of(store, node), by or getuser()
    here.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if withdraw is not None:
        taken = take_back(opened, here.path, withdraw, who)
        print(json.dumps({"withdrawn": taken}) if output is Format.JSON else "\n".join(taken))
        return
    own, plans = own_bundle(here), wanted_plans(here, plan)
    code = chosen_bundle(here, own, bundle)
    proposal = propose(opened, here, own, code, plans)
    if output is Format.TEXT:
        print_proposal(proposal, diff=diff)
    approved = yes or (output is Format.TEXT and typer.confirm("\nApprove this?"))
    if approved:
        put_into_force(opened, here.path, who, bundle=code, plans=plans)
    if output is Format.JSON:
        by_whom = who if approved else None
        print(json.dumps({**asdict(proposal), "approved_by": by_whom}, indent=2))
        return
    print(f"approved by {who}" if approved else "nothing was approved")
    if not approved:
        raise typer.Exit(STOPPED)


def join(store: StoreFolder, node: NodeFolder = None, device: Device = "auto") -> None:
    """Take part: the worker and Flower's SuperNode, supervised, until stopped."""
    from datetime import UTC, datetime

    from client.coordinator_checks import check_node
    from client.desk_text import print_check
    from client.join import join as run
    from client.node import node_of
    from client.store.store import open_store

    open_store(store)
    here = node_of(store, node)
    here.read_invitation()
    for check in check_node(here, datetime.now(UTC)):
        if check.check != "worker":  # it is about to be started
            print_check(check)
    print("starting; `oneslice hospital status` tells how it goes", flush=True)
    run(store, here, device)


def worker(
    store: StoreFolder,
    node: NodeFolder = None,
    socket: Annotated[
        Path | None, typer.Option(help="Where to listen; in the node's folder if not given.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="Made on first use; in the node's folder if not given.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="A group whose users may ask: for a SuperNode of another user."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Answer the federation's rounds until stopped; the SuperNode's ClientApp asks here."""
    from client.learning.device import check_device
    from client.local_round import Hospital
    from client.node import node_of
    from client.node_group import find_group, share_with_group
    from client.store.store import open_store
    from client.supernode import make_socket_folder, shared_socket, worker_socket, write_programs
    from client.worker import Door, make_secret, serve

    opened, here = open_store(store), node_of(store, node)
    hospital = Hospital(opened, check_device(device), node=here.path)
    here.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = None if group is None else find_group(group)
    usual = worker_socket(here) if number is None else shared_socket(here)
    door = Door(
        usual if socket is None else socket,
        make_secret(here.worker_secret if secret_file is None else secret_file),
        number,
    )
    if door.socket.parent.resolve() != here.path.resolve() and socket is None:
        make_socket_folder(door.socket)
    write_programs(here)
    if number is not None:
        share_with_group(here.path, opened, number)
    serve(hospital, door)


def supernode(
    node: Annotated[Path, typer.Option("--node", help="The federation's folder.")],
) -> None:
    """Hold the connection to the coordinator; needs no store, so another user can run it."""
    from client.node import Node
    from client.supernode import run_supernode

    run_supernode(Node(node))
