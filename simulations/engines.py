"""The same ServerApp and ClientApp on two engines: in this process, or on Ray."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from flwr.app import Context, RecordDict

from client.annotation.annotator import Annotator
from client.app import Answer, NodeConfig, make_client_app
from client.local_round import Hospital, answer
from client.store.store import open_store
from common.errors import CheckpointError
from common.plan import FederationPlan
from common.quiet import QUIET
from server.app import make_server_app
from server.checkpoints import load_state
from server.round_state import RoundState
from server.rounds import OnRound
from server.run_folder import RunFolder
from simulations.faults import annotator_of, misbehave
from simulations.in_parallel import share_of_gpus
from simulations.local_grid import LocalGrid
from simulations.scenario import Fault

Engine = Literal["in-process", "ray"]


@dataclass(frozen=True)
class SimulatedFederation:
    """What an engine runs: a plan, where the run lies, and the hospitals' stores by name.

    `annotator` paints what a round asks for, at every hospital.
    """

    plan: FederationPlan
    folder: RunFolder
    stores: Mapping[str, Path]
    faults: tuple[Fault, ...] = ()
    annotator: Annotator | None = None


def run_engine(engine: Engine, federation: SimulatedFederation, on_round: OnRound) -> RoundState:
    """Runs or resumes a federation to its end; returns the last state.

    Raises:
        OneSliceError: the federation stopped; what it had saved is in `folder`.
    """
    os.environ.update(QUIET)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    plan, folder = federation.plan, federation.folder
    names = sorted(federation.stores)
    server_app = make_server_app(lambda _: (plan, folder), on_round)
    client_app = make_client_app(_answer_by_partition(federation))
    if engine == "in-process":
        configs: dict[int, dict[str, str | int]] = {
            place + 1: {"partition-id": place} for place in range(len(names))
        }
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        server_app(LocalGrid(client_app, configs), context)
    else:
        _run_on_ray(server_app, client_app, len(names))
    state = load_state(folder.checkpoints, plan)
    if state is None or state.closing is None:
        raise CheckpointError(f"the federation in {folder.path} stopped early: see the log above")
    return state


def _answer_by_partition(federation: SimulatedFederation) -> Callable[[NodeConfig], Answer]:
    """Finds a hospital by the number that Flower gives its node."""
    # Of the federation, what can travel to Ray's processes.
    stores, faults, annotator = dict(federation.stores), federation.faults, federation.annotator
    names = sorted(stores)

    def answer_of(node_config: NodeConfig) -> Answer:
        name = names[int(node_config["partition-id"])]
        painter = annotator_of(name, faults, annotator) if annotator is not None else None
        hospital = Hospital(open_store(stores[name]), annotator=painter)
        mine = [fault for fault in faults if fault.site == name]
        return lambda request: misbehave(mine, request, answer(hospital, request))

    return answer_of


def _run_on_ray(server_app: object, client_app: object, num_nodes: int) -> None:
    # Ray takes seconds to load and is an extra; only this engine needs it.
    from flwr.simulation import run_simulation  # noqa: PLC0415

    started = time.perf_counter()
    gpus = torch.cuda.device_count()
    share = share_of_gpus(gpus, num_nodes)
    run_simulation(
        server_app=server_app,  # type: ignore[arg-type]
        client_app=client_app,  # type: ignore[arg-type]
        num_supernodes=num_nodes,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": share},
            "init_args": {"num_gpus": gpus},
        },
    )
    logging.getLogger(__name__).info("Ray ended after %.1f s", time.perf_counter() - started)
