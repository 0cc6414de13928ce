"""The commands by which a hospital joins a consortium.

Heavy libraries load inside the commands, so that help is quick.
"""

from pathlib import Path
from typing import Annotated

import typer

from client.cli_options import NodeFolder, StoreFolder


def add_node(app: typer.Typer) -> None:
    """Puts these commands among a hospital's others."""
    app.command("join-kit")(join_kit)


def join_kit(
    invitation: Annotated[Path, typer.Argument(help="The file that the coordinator sent.")],
    store: StoreFolder,
    node: NodeFolder = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make another key; the one before is gone then.")
    ] = False,
) -> None:
    """Accept an invitation: make this hospital's key here, and the request that goes back."""
    from datetime import UTC, datetime

    from client.join_kit import accept_invitation
    from client.node import node_of
    from client.store.store import open_store

    here = node_of(store, node)
    made = accept_invitation(
        open_store(store), here, invitation, datetime.now(UTC), new_key=new_key
    )
    invited = made.invitation
    print(
        f"{invited.hospital}: invited to {invited.consortium} at {invited.address}:{invited.port}"
    )
    print(f"{'a new key was made' if made.new_key else 'the key stays'}: {here.private_key}")
    print(f"\nthis hospital's key:  {made.key}\nthe coordinator's CA: {made.authority}\n")
    print("1. By telephone with the coordinator, compare the CA: if it differs, go no further.")
    print(f"2. Send {made.request} to the coordinator, until {invited.expires:%Y-%m-%d}; it holds")
    print("   no secret. The coordinator reads this hospital's key back to you by telephone.")
    print("3. When you are registered: `oneslice hospital approve`, then `oneslice hospital join`.")
