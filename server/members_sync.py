"""Makes the SuperLink's list of hospitals the same as members.json.

The SuperLink lists nodes by id and without their keys, so which key has which id is kept beside.
It never takes a key again that it let go.
"""

import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import ServiceError
from common.file_lock import hold_file
from common.whole_file import write_whole
from server.consortium import CONNECTION, Consortium
from server.flower_control import call_flower, node_states
from server.members import Member, read_members

# A key that is being registered and has no id yet: the command may have been killed in between.
UNKNOWN = ""
NodeIds = dict[str, str]
_BEGIN_ANEW = (
    "stop the coordinator, remove superlink.db and start it again: all hospitals are registered "
    "anew with the keys that they have, and federations go on from their last saved round"
)


def is_superlink_up(consortium: Consortium) -> bool:
    """Whether something listens on the SuperLink's port."""
    port = consortium.read_settings().superlink_port
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex(("127.0.0.1", port)) == 0


def is_in_step(consortium: Consortium) -> bool:
    """Whether the SuperLink should know just the keys of registered hospitals.

    Reads files and asks nobody: a SuperLink that lost its database is noticed only by
    `register_with_superlink`, which is therefore called once after every start.
    """
    ids = read_node_ids(consortium.nodes_file)
    return set(_registered(consortium)) == set(ids) and UNKNOWN not in ids.values()


def register_with_superlink(consortium: Consortium) -> list[str]:
    """Registers who is in members.json, unregisters all others, and says what it did.

    Whose year is over stays in until somebody revokes it: the clock may be wrong, and a key that
    was let go is lost.

    Raises:
        ServiceError: the SuperLink does not answer, or refuses one; the others were done.
    """
    with _alone(consortium):
        registered, ids = _registered(consortium), read_node_ids(consortium.nodes_file)
        live = list(node_states(consortium))
        _check_known(consortium, live)
        ids = _only_live(ids, live)
        _write_ids(consortium.nodes_file, ids)
        done, problems = _unregister_others(consortium, registered, ids)
        for member in [one for key, one in registered.items() if key not in ids]:
            try:
                _register(consortium, member, ids)
                done.append(f"{member.hospital} may connect")
            except ServiceError as error:
                problems.append(f"{member.hospital} could not be registered: {error}")
                # Of two keys that may have been taken nobody could tell which is which.
                ids = _only_live(ids, list(node_states(consortium)))
                _write_ids(consortium.nodes_file, ids)
    if problems:
        raise ServiceError("; ".join([*problems, *done]))
    return done


def _only_live(ids: NodeIds, live: list[str]) -> NodeIds:
    """The ids that the SuperLink has, and those that it alone has under a name of their own.

    A key whose registering was cut off has the one id that nobody knows. An id that nobody knows
    and nobody was registering was put there by somebody else, and goes.
    """
    known = {fingerprint: node for fingerprint, node in ids.items() if node in live}
    strangers = [node for node in live if node not in known.values()]
    cut_off = [fingerprint for fingerprint, node in ids.items() if node == UNKNOWN]
    if len(strangers) == len(cut_off) == 1:
        return {**known, cut_off[0]: strangers[0]}
    return {**known, **{f"stranger {node}": node for node in strangers}}


def _check_known(consortium: Consortium, live: list[str]) -> None:
    """Without the ids all nodes would be strangers, and their keys lost by being let go."""
    if live and not consortium.nodes_file.exists():
        raise ServiceError(
            f"the SuperLink knows {len(live)} nodes, and {consortium.nodes_file} is gone: restore "
            f"it, or {_BEGIN_ANEW}"
        )


def _unregister_others(
    consortium: Consortium, registered: dict[str, Member], ids: NodeIds
) -> tuple[list[str], list[str]]:
    """What was done, and what could not be."""
    names = {m.fingerprint: m.hospital for m in read_members(consortium.members_file).members}
    done, problems = [], []
    for fingerprint in [one for one in ids if one not in registered]:
        who = names.get(fingerprint, "a node that is nobody's now")
        try:
            call_flower(consortium, "supernode", "unregister", ids[fingerprint], CONNECTION)
        except ServiceError as error:
            problems.append(f"{who} could not be shut out: {error}")
            continue
        del ids[fingerprint]
        _write_ids(consortium.nodes_file, ids)
        done.append(f"{who} is shut out")
    return done, problems


def _register(consortium: Consortium, member: Member, ids: NodeIds) -> None:
    ids[member.fingerprint] = UNKNOWN
    _write_ids(consortium.nodes_file, ids)
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        file.write(member.public_key)
        file.flush()
        told = _register_key(consortium, file.name, member.hospital)
    ids[member.fingerprint] = str(told["node-id"])
    _write_ids(consortium.nodes_file, ids)


def _register_key(consortium: Consortium, file: str, hospital: str) -> dict[str, Any]:
    try:
        return call_flower(
            consortium, "supernode", "register", file, CONNECTION, "--name", hospital
        )
    except ServiceError as error:
        if "already in use" in str(error):
            raise ServiceError(f"{error}: {_BEGIN_ANEW}") from None
        raise


def _registered(consortium: Consortium) -> dict[str, Member]:
    members = read_members(consortium.members_file).members
    return {member.fingerprint: member for member in members if member.state == "registered"}


@contextmanager
def _alone(consortium: Consortium) -> Iterator[None]:
    """A command and the supervisor must not register the same key at once."""
    consortium.flower_home.mkdir(parents=True, exist_ok=True)
    with hold_file(consortium.nodes_file.with_suffix(".lock"), wait=True):
        yield


def read_node_ids(path: Path) -> NodeIds:
    """The SuperLink's id of each key's node, by the key's fingerprint.

    Raises:
        ServiceError: the file is damaged.
    """
    try:
        return {str(key): str(node) for key, node in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise ServiceError(
            f"{path} is damaged ({error}): restore it, or remove it and {_BEGIN_ANEW}"
        ) from None


def _write_ids(path: Path, ids: NodeIds) -> None:
    write_whole(path, json.dumps(ids, indent=2) + "\n")
