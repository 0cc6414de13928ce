"""The coordinator's folder: everything that one consortium is, and where each file of it lies."""

import os
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import Field, model_validator

from common.bundle import APP, BUNDLE
from common.errors import SettingsError
from common.kit import Host, Port
from common.plan import Name
from common.quiet import FRUGAL, QUIET
from common.settings_file import Settings, read_settings
from common.whole_file import write_whole
from server.certificates import issue_server_certificate, make_authority
from server.run_folder import RunFolder

CONNECTION = "consortium"
PLAN_TEMPLATE = Path(__file__).parent / "plan_template.toml"


class ConsortiumSettings(Settings):
    """consortium.toml.

    `addresses`: names and IP addresses that hospitals use; the first is put into invitations.
    `port`: the proxy's, the only one that hospitals reach. The others listen on loopback only.
    """

    name: Name
    addresses: tuple[Host, ...] = Field(min_length=1)
    port: Port = 8443
    superlink_port: Port = 8444
    mlflow_port: Port = 8445
    proxy: Literal["nginx", "own"] = "nginx"

    @model_validator(mode="after")
    def _check(self) -> "ConsortiumSettings":
        ports = (self.port, self.superlink_port, self.mlflow_port)
        if len(set(ports)) != len(ports):
            raise ValueError(f"port, superlink_port and mlflow_port must differ, got {ports}")
        return self


@dataclass(frozen=True)
class Consortium:
    """The paths below a coordinator's folder."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """Name, addresses and ports; written by `init`, may be edited."""
        return self.path / "consortium.toml"

    @property
    def authority(self) -> tuple[Path, Path]:
        """The certificate authority's key, which never leaves, and its certificate."""
        return self.path / "ca.key", self.ca_certificate

    @property
    def ca_certificate(self) -> Path:
        """What hospitals know the server by."""
        return self.path / "ca.crt"

    @property
    def server_key(self) -> Path:
        """The server's private key."""
        return self.path / "server.key"

    @property
    def server_certificate(self) -> Path:
        """The server's certificate."""
        return self.path / "server.crt"

    @property
    def members_file(self) -> Path:
        """Who was invited, is registered, was revoked."""
        return self.path / "members.json"

    @property
    def plan_file(self) -> Path:
        """A complete plan to start from."""
        return self.path / "plan.toml"

    @property
    def staged_app(self) -> Path:
        """The code that travels, as `flwr run` takes it."""
        return self.path / "bundle" / APP

    @property
    def bundle(self) -> Path:
        """The same as one file, whose hash hospitals approve."""
        return self.path / BUNDLE

    @property
    def flower_home(self) -> Path:
        """Flower's own settings and its list of what was registered."""
        return self.path / "flwr"

    @property
    def nodes_file(self) -> Path:
        """Which key the SuperLink knows by which node id."""
        return self.flower_home / "nodes.json"

    @property
    def superlink_database(self) -> Path:
        """The SuperLink's state, an SQLite file."""
        return self.path / "superlink.db"

    @property
    def tracking_database(self) -> Path:
        """MLflow's database, an SQLite file."""
        return self.path / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.path / "artifacts"

    @property
    def nginx_settings(self) -> Path:
        """The proxy's generated configuration."""
        return self.path / "nginx" / "nginx.conf"

    @property
    def programs(self) -> Path:
        """Programs of Flower as they are run here."""
        return self.path / "bin"

    @property
    def logs(self) -> Path:
        """One log per service."""
        return self.path / "logs"

    @property
    def services_file(self) -> Path:
        """The supervisor's state."""
        return self.path / "services.json"

    @property
    def runs(self) -> Path:
        """One folder per federation."""
        return self.path / "runs"

    def run_folder(self, name: str) -> RunFolder:
        """The folder of the federation of that name."""
        return RunFolder(self.runs / name)

    def read_settings(self) -> ConsortiumSettings:
        """What consortium.toml says.

        Raises:
            SettingsError: this is no consortium's folder, or a value is impossible.
        """
        if not self.settings_file.exists():
            raise SettingsError(
                f"expected a consortium in {self.path}, found no consortium.toml: name its folder "
                "with --consortium, or make one with `oneslice coordinator init`"
            )
        return read_settings(ConsortiumSettings, self.settings_file)

    def write_flower_settings(self, settings: ConsortiumSettings) -> None:
        """Tells Flower's commands where the SuperLink is; anew if ports or folder changed."""
        connection = {
            "address": f"127.0.0.1:{settings.superlink_port}",
            "root-certificates": str(self.ca_certificate.resolve()),
        }
        values = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        write_whole(self.flower_home / "config.toml", tomli_w.dumps(values))

    def flower_environment(self) -> dict[str, str]:
        """The environment for Flower's commands: nobody is phoned, no one else's settings apply."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        home = str(self.flower_home.resolve())
        return {**os.environ, **QUIET, **FRUGAL, "PATH": programs, "FLWR_HOME": home}


def make_consortium(path: Path, settings: ConsortiumSettings, now: datetime) -> Consortium:
    """Makes the folder: authority, server certificate, settings, plan template.

    An unfinished one is finished; its authority, if made, stays.

    Raises:
        SettingsError: there is a consortium already; it is not touched.
    """
    made = Consortium(path)
    if made.settings_file.exists():
        raise SettingsError(
            f"{path} holds the consortium {made.read_settings().name} already; nothing was changed"
        )
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    if not all(file.exists() for file in made.authority):
        make_authority(settings.name, *made.authority, now)
    renew_server_certificate(made, settings, now)
    made.write_flower_settings(settings)
    template = PLAN_TEMPLATE.read_text(encoding="utf-8")
    write_whole(made.plan_file, template.replace('"consortium"', f'"{settings.name}"', 1))
    # Last: it says that all the rest is there.
    write_whole(made.settings_file, tomli_w.dumps(settings.model_dump(mode="json")))
    return made


def renew_server_certificate(
    consortium: Consortium, settings: ConsortiumSettings, now: datetime
) -> None:
    """A new server certificate by the same authority: hospitals need not do anything."""
    issue_server_certificate(
        consortium.authority,
        consortium.server_key,
        consortium.server_certificate,
        settings.addresses,
        now,
    )
