"""The folder from which a hospital takes part in a federation, and where each file of it lies."""

from dataclasses import dataclass
from pathlib import Path

from client.approvals import ASKED
from client.gate import APPROVALS, REFUSED
from common.bundle import APP, BUNDLE
from common.errors import SettingsError
from common.kit import Invitation, JoinRequest, read_kit

FOLDER = "federation"


@dataclass(frozen=True)
class Node:
    """The paths below a node's folder; by default that is STORE/federation."""

    path: Path

    @property
    def invitation_file(self) -> Path:
        """What the coordinator sent."""
        return self.path / "invitation.json"

    @property
    def ca_certificate(self) -> Path:
        """The consortium's authority: what the coordinator's server is known by."""
        return self.path / "ca.crt"

    @property
    def private_key(self) -> Path:
        """Made here; never leaves."""
        return self.path / "node.key"

    @property
    def public_key(self) -> Path:
        """Its public half, in OpenSSH's format."""
        return self.path / "node.pub"

    @property
    def request_file(self) -> Path:
        """What goes back to the coordinator."""
        return self.path / "request.json"

    @property
    def approvals_file(self) -> Path:
        """Which bundles and plans somebody here has approved."""
        return self.path / APPROVALS

    @property
    def asked(self) -> Path:
        """Plans that were asked for and not approved."""
        return self.path / ASKED

    @property
    def refused(self) -> Path:
        """Bundles that were refused."""
        return self.path / REFUSED

    @property
    def staged_app(self) -> Path:
        """The code that should travel, as this installation has it."""
        return self.path / "bundle" / APP

    @property
    def bundle(self) -> Path:
        """The same as one file."""
        return self.path / BUNDLE

    @property
    def worker_socket(self) -> Path:
        """Where the worker answers."""
        return self.path / "worker.sock"

    @property
    def worker_secret(self) -> Path:
        """What the worker's callers prove to have."""
        return self.path / "worker.secret"

    @property
    def flower_home(self) -> Path:
        """Flower's own folder."""
        return self.path / "flwr"

    @property
    def programs(self) -> Path:
        """Where the gate stands in front of Flower's program of the same name."""
        return self.path / "bin"

    @property
    def logs(self) -> Path:
        """One log per service."""
        return self.path / "logs"

    @property
    def services_file(self) -> Path:
        """The supervisor's state."""
        return self.path / "services.json"

    def read_invitation(self) -> Invitation:
        """The invitation that was accepted.

        Raises:
            SettingsError: none was, or its file is damaged.
        """
        if not self.invitation_file.exists():
            raise SettingsError(
                f"expected an accepted invitation in {self.path}, found none: "
                "`oneslice hospital join-kit INVITATION` first"
            )
        return read_kit(Invitation, self.invitation_file)

    def read_request(self) -> JoinRequest:
        """The request that was made for the coordinator.

        Raises:
            SettingsError: there is none, or its file is damaged.
        """
        return read_kit(JoinRequest, self.request_file)


def node_of(store: Path, node: Path | None) -> Node:
    """The node in the folder that was given, else in the store."""
    return Node(store / FOLDER if node is None else node)
