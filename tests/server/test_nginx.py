"""The proxy's configuration: nginx takes it, and it holds what it must."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.errors import SettingsError
from server.consortium import Consortium, ConsortiumSettings, make_consortium
from server.nginx import FLEET, nginx_command, site_settings, write_nginx_settings

SETTINGS = ConsortiumSettings(
    name="trial", addresses=("127.0.0.1",), port=18443, superlink_port=18444, mlflow_port=18445
)


def _make(path: Path) -> Consortium:
    return make_consortium(path, SETTINGS, datetime.now(UTC))


@pytest.mark.parametrize("name", ["c", "a folder; with {odd} letters #1"])
def test_nginx_takes_the_configuration(tmp_path: Path, name: str) -> None:
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    consortium = _make(tmp_path / name)
    write_nginx_settings(consortium)
    command = [*nginx_command(consortium, program), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
    assert "emerg" not in done.stderr


def test_each_path_is_matched_whole_and_passed_on_as_itself(tmp_path: Path) -> None:
    text = site_settings(_make(tmp_path / "c"))
    locations = re.findall(r"location (.*?) \{", text)
    assert locations == ["@away", *(f"= /v1/fleet/{name}" for name in FLEET), "/"]
    passed = re.findall(r"proxy_pass (.*?);", text)
    assert passed == [f"https://127.0.0.1:18444/v1/fleet/{name}" for name in FLEET]
    assert "proxy_ssl_verify on;" in text
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in text


@pytest.mark.parametrize("letter", ['"', "$", "\\"])
def test_a_folder_that_nginx_cannot_be_told_is_refused(tmp_path: Path, letter: str) -> None:
    consortium = _make(tmp_path / f"odd{letter}name")
    with pytest.raises(SettingsError, match="without quotes, backslashes and"):
        write_nginx_settings(consortium)
