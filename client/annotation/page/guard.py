"""What every request passes before anything else looks at it, and what every answer carries.

Another site's page in the same browser may send requests here. It cannot read the answers, so what
must be stopped is whatever changes something: the cookie is not sent from other sites, a header is
asked for that a form cannot send, and the origin must be ours. A name that somebody made point to
127.0.0.1 is refused by the Host header.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.annotation.page.access import Access

CHANGING = ("POST", "PUT", "DELETE", "PATCH")
MOST_JSON_BYTES = 64 * 1024
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
NO_SESSION = (
    "this browser has no session: open a fresh link; whoever started the page sees one after "
    "pressing Enter there"
)
NO_SESSION_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>OneSlice</title>
<h1>This link is used up, or there was none</h1>
<p>Every link to this page works once, in one browser.</p>
<p>Ask whoever started the page for a fresh link: pressing <b>Enter</b> in the window where
<code>oneslice hospital annotate</code> runs prints one.</p>
<p>Nothing is lost: what you painted is saved with every stroke.</p></html>"""


class Guard:
    """Wraps the page's app. Puts the annotator's name into the request's state."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Around `app`, with the links and sessions of `access`."""
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is refused; passes the rest on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                caching = "no-cache" if scope["path"].startswith("/static/") else "no-store"
                headers.setdefault("Cache-Control", caching)
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self.app(scope, _bounded(scope, receive), send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further; None if it may pass."""
        headers = Headers(scope=scope)
        if headers.get("host") not in self.access.hosts:
            return _refusal(400, f"expected a request to {' or '.join(self.access.hosts)}")
        if scope["path"] == "/enter" and scope["method"] == "GET":
            return None
        annotator = self.access.annotator_of(_session_in(headers, self.access.cookie))
        if annotator is None:
            wants_page = scope["path"] == "/" and scope["method"] == "GET"
            return HTMLResponse(NO_SESSION_PAGE, 401) if wants_page else _refusal(401, NO_SESSION)
        scope.setdefault("state", {})["annotator"] = annotator
        return self._refuse_change(scope["method"], headers)

    def _refuse_change(self, method: str, headers: Headers) -> Response | None:
        if method in CHANGING and headers.get("x-oneslice") != "1":
            return _refusal(403, "expected the header X-OneSlice: 1, as the page sends it")
        own = self.access.origins
        if method in CHANGING and headers.get("origin", own[0]) not in own:
            return _refusal(403, "expected a request from this page, it came from elsewhere")
        if method != "PUT" and _length(headers) > MOST_JSON_BYTES:
            return _refusal(413, f"expected at most {MOST_JSON_BYTES} bytes, more were announced")
        return None


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Stops reading a request that is larger than any of ours; masks are bounded by their slice."""
    if scope["method"] == "PUT":
        return receive
    read = 0

    async def receive_at_most() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MOST_JSON_BYTES:
            raise HTTPException(413, f"expected at most {MOST_JSON_BYTES} bytes, more came")
        return message

    return receive_at_most


def _length(headers: Headers) -> int:
    announced = headers.get("content-length", "0")
    return int(announced) if announced.isascii() and announced.isdigit() else 0


def _session_in(headers: Headers, name: str) -> str:
    # Not http.cookies: it gives up at the first odd cookie, and other programs on this machine set
    # cookies for the same host.
    return cookie_parser(headers.get("cookie", "")).get(name, "")


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)
