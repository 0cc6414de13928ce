"""Who may open the page: a link works once and becomes a session in that browser.

Nothing is written to the disk, no password exists, and a restart ends all sessions. Tokens and
sessions are kept as digests, so that reading the server's memory does not give them away.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

SESSION_S = 12 * 3600.0  # a long shift


@dataclass
class Access:
    """Links and sessions of one server. `port` is where it listens on 127.0.0.1."""

    port: int
    _links: dict[str, str] = field(default_factory=dict)
    _sessions: dict[str, tuple[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def hosts(self) -> tuple[str, str]:
        """The names under which the server may be asked; another one is somebody's trick."""
        return f"127.0.0.1:{self.port}", f"localhost:{self.port}"

    @property
    def origins(self) -> tuple[str, ...]:
        """Where the page's own requests come from."""
        return tuple(f"http://{host}" for host in self.hosts)

    @property
    def cookie(self) -> str:
        """The cookie's name; browsers share cookies between the ports of a machine."""
        return f"oneslice-{self.port}"

    def fresh_links(self, annotators: Sequence[str]) -> dict[str, str]:
        """A link for each annotator; theirs that nobody used are worthless from now on."""
        links = {}
        with self._lock:
            for annotator in annotators:
                unused = [one for one, owner in self._links.items() if owner == annotator]
                for digest in unused:
                    del self._links[digest]
                token = secrets.token_urlsafe(32)
                self._links[_digest(token)] = annotator
                links[annotator] = f"http://{self.hosts[0]}/enter?token={token}"
        return links

    def enter(self, token: str) -> str | None:
        """A session for a link's token, which is used up by that; None if it is none of ours."""
        with self._lock:
            annotator = self._links.pop(_digest(token), None)
            if annotator is None:
                return None
            session = secrets.token_urlsafe(32)
            self._sessions[_digest(session)] = (annotator, time.monotonic() + SESSION_S)
            return session

    def annotator_of(self, session: str) -> str | None:
        """Whose session it is; None if it is nobody's, or has ended."""
        with self._lock:
            annotator, ends = self._sessions.get(_digest(session), ("", 0.0))
        return annotator if time.monotonic() < ends else None


def _digest(secret: str) -> str:
    # Looking up a digest tells an attacker who measures time nothing about the secret.
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
