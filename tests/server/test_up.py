"""What is looked at before anything starts: one clear sentence for each thing that is wrong."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import ServiceError
from server import up
from server.consortium import (
    Consortium,
    ConsortiumSettings,
    make_consortium,
    renew_server_certificate,
)
from server.members import Member, changing_members
from server.up import check_before_start, services_of


@pytest.fixture
def settings() -> ConsortiumSettings:
    held = [socket.socket() for _ in range(3)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ConsortiumSettings(
        name="trial",
        addresses=("127.0.0.1",),
        port=ports[0],
        superlink_port=ports[1],
        mlflow_port=ports[2],
        proxy="own",
    )


@pytest.fixture
def consortium(tmp_path: Path, settings: ConsortiumSettings) -> Consortium:
    return make_consortium(tmp_path / "c", settings, datetime.now(UTC))


def _problems(consortium: Consortium) -> dict[str, str]:
    checks = check_before_start(consortium, consortium.read_settings())
    return {check.name: check.problem for check in checks if check.problem}


def test_nothing_is_wrong_with_a_new_consortium(consortium: Consortium) -> None:
    assert _problems(consortium) == {}


def test_a_port_in_use_is_named(consortium: Consortium, settings: ConsortiumSettings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.superlink_port))
        other.listen()
        (problem,) = _problems(consortium).items()
    assert problem[0] == "superlink port"
    assert problem[1].startswith(f"{settings.superlink_port} cannot be used (Address already in")


def test_a_certificate_that_has_ended_is_named(
    tmp_path: Path, settings: ConsortiumSettings
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=500)
    consortium = make_consortium(tmp_path / "old", settings, long_ago)
    assert "`oneslice coordinator renew`" in _problems(consortium)["certificate"]
    with pytest.raises(ServiceError, match="nothing was started: certificate: the server's cert"):
        up.up(consortium, lambda _: None)
    assert not consortium.services_file.exists()


def test_a_renew_that_was_cut_off_is_named(consortium: Consortium) -> None:
    key, certificate = consortium.server_key, consortium.server_certificate
    old = certificate.read_bytes()
    renew_server_certificate(consortium, consortium.read_settings(), datetime.now(UTC))
    new = certificate.read_bytes()
    certificate.write_bytes(old)
    problem = _problems(consortium)["certificate"]
    assert problem == f"{key} is not the key of {certificate}: `oneslice coordinator renew` again"
    certificate.write_bytes(new)
    assert _problems(consortium) == {}
    key.unlink()
    assert "cannot be read" in _problems(consortium)["certificate"]


@pytest.fixture
def hangs_up(settings: ConsortiumSettings) -> Iterator[None]:
    """Something on the SuperLink's port that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", settings.superlink_port)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.usefixtures("hangs_up")
def test_hospitals_that_cannot_be_registered_hold_no_federation_up(consortium: Consortium) -> None:
    with changing_members(consortium.members_file) as held:
        # A key is missing, so the SuperLink is to be asked.
        lost = Member(hospital="lost", state="registered", since=datetime.now(UTC))
        held[0] = held[0].with_member(lost)
    damaged = consortium.run_folder("first").path / "wanted.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    with pytest.raises(
        ServiceError, match=r"`flwr supernode list` failed.*; first: .*wanted\.json is damaged"
    ):
        up.tick(consortium)


def test_an_nginx_that_is_not_there_is_named(
    consortium: Consortium, settings: ConsortiumSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "_search_path", lambda _: "/nowhere")
    with_nginx = settings.model_copy(update={"proxy": "nginx"})
    checks = {check.name: check.problem for check in check_before_start(consortium, with_nginx)}
    assert "apt install nginx-light" in checks["nginx"]


def test_a_full_disk_is_named(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(consortium.path)
    monkeypatch.setattr(up, "LEAST_DISK_BYTES", usage.total * 2)
    assert "at least" in _problems(consortium)["disk"]


def test_everything_but_the_proxy_listens_on_loopback(
    consortium: Consortium, settings: ConsortiumSettings
) -> None:
    services = services_of(consortium, settings)
    assert [service.name for service in services] == ["superlink", "mlflow"]
    for service in services:
        assert service.command[service.command.index("--host") + 1] == "127.0.0.1"
        assert service.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert service.env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    with_nginx = settings.model_copy(update={"proxy": "nginx"})
    names = [service.name for service in services_of(consortium, with_nginx)]
    assert names == ["superlink", "nginx", "mlflow"]
