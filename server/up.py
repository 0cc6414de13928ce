"""The coordinator's long-lived programs: what must hold before they start, and who minds them."""

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from packaging.specifiers import SpecifierSet

from common.bundle import build_bundle, stage_bundle
from common.errors import OneSliceError, ServiceError, SettingsError
from common.supervision import Service, always_ready, read_services, supervise
from common.tied_program import EXECUTABLE, tied_script
from common.whole_file import write_whole
from server.certificates import expiry, load_key_of
from server.consortium import Consortium, ConsortiumSettings
from server.expiry import warnings_of
from server.keep_running import keep_federations_running
from server.members_sync import is_in_step, is_superlink_up, register_with_superlink
from server.nginx import nginx_command, write_nginx_settings

BIN = Path(sys.executable).parent
SUPEREXEC = "flower-superexec"
FLOWER = SpecifierSet(">=1.41,<1.43")
LEAST_DISK_BYTES, ENOUGH_DISK_BYTES = 1_000_000_000, 20_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before the start; `problem` says what to do, or is empty."""

    name: str
    found: str
    problem: str = ""


def up(consortium: Consortium, say: Callable[[str], None] = print) -> None:
    """Runs SuperLink, proxy and MLflow until SIGTERM or SIGINT, and keeps federations running.

    Raises:
        ServiceError: something is not as it must be; nothing was started.
        SettingsError: consortium.toml or a certificate cannot be used.
    """
    consortium = Consortium(consortium.path.resolve())
    settings = consortium.read_settings()
    checks = check_before_start(consortium, settings)
    for check in checks:
        say(f"{check.name:<16}{check.problem or check.found}")
    problems = [f"{check.name}: {check.problem}" for check in checks if check.problem]
    if problems:
        raise ServiceError("nothing was started: " + "; ".join(problems))
    for warning in warnings_of(consortium, _now()):
        say(f"warning: {warning}")
    consortium.write_flower_settings(settings)
    stage_bundle(consortium.staged_app)
    build_bundle(consortium.staged_app, consortium.path)
    services = services_of(consortium, settings)
    say(f"starts {', '.join(service.name for service in services)}; `status` shows how they are")
    supervise(services, consortium.services_file, partial(tick, consortium))


def tick(consortium: Consortium) -> None:
    """Lets new hospitals in, shuts revoked ones out, restarts federations.

    Raises:
        ServiceError: one of these failed, at the SuperLink or here; the others were done.
    """
    if not is_superlink_up(consortium):
        return
    problems = []
    for task in (_keep_in_step, keep_federations_running):
        try:
            task(consortium)
        except (OneSliceError, OSError) as error:
            problems.append(str(error))
    if problems:
        raise ServiceError("; ".join(problems))


def _keep_in_step(consortium: Consortium) -> None:
    if not is_in_step(consortium):
        register_with_superlink(consortium)


def services_of(consortium: Consortium, settings: ConsortiumSettings) -> list[Service]:
    """SuperLink, nginx unless somebody runs another proxy, and MLflow, in the order of starting."""
    write_whole(consortium.programs / SUPEREXEC, tied_script(BIN / SUPEREXEC), EXECUTABLE)
    flower = consortium.flower_environment()
    environment = {
        **flower,
        # Flower finds its SuperExec by name: first the one that is tied to the SuperLink.
        "PATH": f"{consortium.programs.resolve()}{os.pathsep}{flower['PATH']}",
        # MLflow's own job runner starts more processes, and nothing here asks it for a job.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    commands: dict[str, tuple[tuple[str, ...], int | None]] = {
        "superlink": (_superlink_command(consortium, settings), settings.superlink_port)
    }
    if settings.proxy == "nginx":
        write_nginx_settings(consortium)
        program = shutil.which("nginx", path=_search_path(consortium)) or "nginx"
        commands["nginx"] = (nginx_command(consortium, program), settings.port)
    # Federations write to its database themselves, so nobody waits for the half minute it takes.
    commands["mlflow"] = (_mlflow_command(consortium, settings), None)
    return [
        Service(
            name,
            command,
            consortium.logs / f"{name}.log",
            environment,
            always_ready if port is None else partial(_listens, port),
        )
        for name, (command, port) in commands.items()
    ]


def _superlink_command(consortium: Consortium, settings: ConsortiumSettings) -> tuple[str, ...]:
    return (
        str(BIN / "flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(settings.superlink_port)),
        *("--ssl-ca-certfile", str(consortium.ca_certificate.resolve())),
        *("--ssl-certfile", str(consortium.server_certificate.resolve())),
        *("--ssl-keyfile", str(consortium.server_key.resolve())),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", str(consortium.superlink_database.resolve())),
    )


def _mlflow_command(consortium: Consortium, settings: ConsortiumSettings) -> tuple[str, ...]:
    return (
        *(str(BIN / "mlflow"), "server"),
        *("--host", "127.0.0.1", "--port", str(settings.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{consortium.tracking_database.resolve()}"),
        *("--default-artifact-root", consortium.artifacts.resolve().as_uri()),
    )


def check_before_start(consortium: Consortium, settings: ConsortiumSettings) -> list[Check]:
    """Everything that would otherwise fail later and say less."""
    services = read_services(consortium.services_file)
    if services is not None and services.is_supervised():
        return [Check("coordinator", "", "it is up already; see `oneslice coordinator status`")]
    ports = {"superlink": settings.superlink_port, "mlflow": settings.mlflow_port}
    checks = [_check_flower(), _check_certificate(consortium), _check_disk(consortium)]
    if settings.proxy == "nginx":
        ports["proxy"] = settings.port
        checks.append(_check_nginx(consortium))
    if services is None or not services.find_processes():
        checks += [_check_port(name, port) for name, port in ports.items()]
    return checks


def _check_flower() -> Check:
    version = importlib.metadata.version("flwr")
    if version in FLOWER:
        return Check("Flower", version)
    mends = "install this OneSlice again with pip, which brings it"
    return Check("Flower", version, f"expected Flower {FLOWER}, found {version}: {mends}")


def _check_certificate(consortium: Consortium) -> Check:
    ends, now = expiry(consortium.server_certificate), _now()
    mends = "`oneslice coordinator renew`"
    if ends <= now:
        problem = f"the server's certificate ended on {ends:%Y-%m-%d}: {mends}"
        return Check("certificate", "", problem)
    try:
        load_key_of(consortium.server_key, consortium.server_certificate)
    except SettingsError as error:
        # A `renew` that was killed after the first of its two files leaves them so.
        return Check("certificate", "", f"{error}: {mends} again")
    return Check("certificate", f"good for {(ends - now).days} days, until {ends:%Y-%m-%d}")


def _check_disk(consortium: Consortium) -> Check:
    free = shutil.disk_usage(consortium.path).free
    found = f"{free / 1e9:.1f} GB free"
    if free < LEAST_DISK_BYTES:
        return Check("disk", found, f"{found}, at least 1 GB is needed: free some space")
    if free < ENOUGH_DISK_BYTES:
        found += "; weights go through the SuperLink's database, so better have 20 GB"
    return Check("disk", found)


def _check_nginx(consortium: Consortium) -> Check:
    program = shutil.which("nginx", path=_search_path(consortium))
    if program is None:
        mends = 'install it (Debian: apt install nginx-light), or set proxy = "own"'
        return Check("nginx", "", f"not found: {mends}")
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    return Check("nginx", (done.stdout + done.stderr).strip().rpartition("nginx/")[2])


def _check_port(name: str, port: int) -> Check:
    with socket.socket() as one:
        # As servers do: connections of a former run that linger must not count.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("" if name == "proxy" else "127.0.0.1", port))
        except OSError as error:
            mends = "end what uses it, or change it in consortium.toml"
            return Check(f"{name} port", "", f"{port} cannot be used ({error.strerror}): {mends}")
    return Check(f"{name} port", f"{port} is free")


def _search_path(consortium: Consortium) -> str:
    # Debian keeps nginx where only root looks by default.
    return f"{consortium.flower_environment()['PATH']}:/usr/sbin:/usr/local/sbin"


def _listens(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(0.2)
        return one.connect_ex(("127.0.0.1", port)) == 0


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
