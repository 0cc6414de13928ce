"""Who is turned away, and that it changes nothing: asked of a real server."""

import hashlib
import socket
from collections.abc import Iterator
from http.client import HTTPConnection

import httpx
import numpy as np
import pytest
from running_page import RunningPage

from client.store.scans import list_scans

SCAN = "scan-0123456789abcdef"
CHANGES = [
    ("POST", "/api/scans/{scan}/claim"),
    ("DELETE", "/api/scans/{scan}/claim"),
    ("PUT", "/api/scans/{scan}/drafts/3?version=0&seconds=1"),
    ("DELETE", "/api/scans/{scan}/drafts/3"),
    ("POST", "/api/scans/{scan}/submit"),
    ("POST", "/api/scans/{scan}/verdict"),
    ("POST", "/api/scans/{scan}/ask"),
]
READS = [
    "/api/me",
    "/api/worklist",
    "/api/scans/{scan}",
    "/api/scans/{scan}/slices/3",
    "/api/scans/{scan}/drafts/3",
    "/api/scans/{scan}/versions/3",
    "/api/scans/{scan}/review",
    "/static/index.html",
    "/openapi.json",
    "/docs",
    "/nothing",
]
BODY = np.ones((24, 24), np.uint8).tobytes()


@pytest.fixture
def scan_id(page: RunningPage) -> str:
    """A scan that is there."""
    return list_scans(page.store, "first")[0].scan_id


@pytest.fixture
def stranger(page: RunningPage) -> Iterator[httpx.Client]:
    """Somebody without a session."""
    with httpx.Client(base_url=page.base_url, headers={"X-OneSlice": "1"}) as client:
        yield client


def contents(page: RunningPage) -> str:
    """A digest of all rows of the catalog that the page writes."""
    digest = hashlib.sha256()
    with page.store.read() as connection:
        for table in ("annotations", "drafts", "claims", "reviews", "label_maps"):
            for row in connection.execute(f"SELECT * FROM {table}"):
                digest.update(repr(tuple(row)).encode())
    return digest.hexdigest()


def assert_refused(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    sentence = response.json()["error"]
    assert sentence
    assert "Traceback" not in sentence


def test_without_a_session_nothing_is_told(
    page: RunningPage, stranger: httpx.Client, scan_id: str
) -> None:
    before = contents(page)
    for path in READS:
        assert_refused(stranger.get(path.format(scan=scan_id)), 401)
    for method, path in CHANGES:
        assert_refused(stranger.request(method, path.format(scan=scan_id), content=BODY), 401)
    front = stranger.get("/")
    assert front.status_code == 401
    assert "fresh link" in front.text
    assert "<script" not in front.text
    assert contents(page) == before


def test_a_wrong_session_is_none(page: RunningPage, stranger: httpx.Client) -> None:
    name = page.desk.access.cookie
    for cookie in ("", "x", "a=b", f"{name}=", f"{name}=guess", f"{name}=;;=,", f'{name}="', "é"):
        headers = {b"Cookie": cookie.encode("latin-1")}
        assert_refused(stranger.get("/api/me", headers=headers), 401)


def test_cookies_of_other_programs_do_not_hide_the_session(page: RunningPage) -> None:
    with page.client() as client:
        name = page.desk.access.cookie
        own = f"{name}={client.cookies[name]}"
        for cookies in (f'a={{"b": "c, d"}}; {own}', f"=;; ,@; {own}", f"{own}; x=\u00e9"):
            headers = {b"Cookie": cookies.encode("latin-1")}
            with httpx.Client(base_url=page.base_url) as other:
                assert other.get("/api/me", headers=headers).status_code == 200


def test_a_link_works_once(page: RunningPage, stranger: httpx.Client) -> None:
    link = page.link()
    entered = stranger.get(link)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert stranger.get("/api/me").status_code == 200
    with httpx.Client(base_url=page.base_url) as other:
        assert other.get(link).status_code == 401
        assert other.get("/api/me").status_code == 401


def test_a_wrong_token_opens_nothing(page: RunningPage, stranger: httpx.Client) -> None:
    page.link()
    for query in (
        "",
        "?token=",
        "?token=wrong",
        "?token=%00",
        "?token=%ff",
        f"?token={'a' * 3000}",
    ):
        refused = stranger.get(f"/enter{query}")
        assert refused.status_code == 401
        assert "set-cookie" not in refused.headers


def test_a_request_from_another_site_changes_nothing(page: RunningPage, scan_id: str) -> None:
    before, own = contents(page), page.desk.access.hosts[0]
    elsewhere = ("http://evil.example", "null", "http://127.0.0.1", f"https://{own}", "")
    with page.client() as client:
        for origin in elsewhere:
            for method, path in CHANGES:
                response = client.request(
                    method, path.format(scan=scan_id), content=BODY, headers={"Origin": origin}
                )
                assert_refused(response, 403)
    assert contents(page) == before


def test_without_the_pages_header_nothing_is_changed(page: RunningPage, scan_id: str) -> None:
    before = contents(page)
    with page.client() as client:
        del client.headers["X-OneSlice"]
        for method, path in CHANGES:
            assert_refused(client.request(method, path.format(scan=scan_id), content=BODY), 403)
        for value in ("", "0", "true", "11"):
            claim = f"/api/scans/{scan_id}/claim"
            assert_refused(client.post(claim, headers={"X-OneSlice": value}), 403)
    assert contents(page) == before


def test_another_name_for_this_machine_is_refused(page: RunningPage) -> None:
    with page.client() as client:
        for host in ("evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", ""):
            for path in ("/", "/api/me", "/static/index.html", page.link()):
                assert_refused(client.get(path, headers={"Host": host}), 400)
    # HTTP/1.0 needs no Host at all.
    with socket.create_connection(("127.0.0.1", page.desk.access.port)) as raw:
        raw.sendall(b"GET /api/me HTTP/1.0\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400")


def test_localhost_is_as_good(page: RunningPage) -> None:
    port = page.desk.access.port
    with page.client() as client:
        own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
        cookies = {"Cookie": f"oneslice-{port}={client.cookies[f'oneslice-{port}']}"}
        assert client.get("/api/me", headers={**own, **cookies}).status_code == 200


PATHS = [
    "/api/scans/..%2f..%2fetc%2fpasswd",
    "/api/scans/scan-0123456789abcdef/../../me",
    "/api/scans/SCAN-0123456789ABCDEF",
    "/api/scans/scan-0123456789abcde",
    "/api/scans/scan-0123456789abcdef0",
    "/api/scans/scan-0123456789abcdef%0a",
    "/api/scans/scan-0123456789abcdef%00",
    "/api/scans/'%20OR%201=1%20--",
    "/api/scans/%ff%fe",
    f"/api/scans/{SCAN}",
    f"/api/scans/{SCAN}/slices/1",
    f"/api/scans/{SCAN}/review",
    "/static/../app.py",
    "/static/..%2fapp.py",
    "/static/%2e%2e/app.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/index.html%00.js",
    "/static/" + "a" * 5000,
    "/static/.",
    "/static",
    "//evil.example/",
]


def test_tricks_with_paths_find_nothing(page: RunningPage) -> None:
    with page.client() as client:
        cookie = f"{page.desk.access.cookie}={client.cookies[page.desk.access.cookie]}"
        for path in PATHS:
            # http.client sends a path as it stands; httpx would tidy it up.
            connection = HTTPConnection(page.desk.access.hosts[0])
            connection.putrequest("GET", path, skip_accept_encoding=True)
            connection.putheader("Cookie", cookie)
            connection.endheaders()
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
            assert response.status in (400, 404, 405), (path, text)
            assert "root:" not in text
            assert "def make_app" not in text
        assert client.get("/api/me").status_code == 200


def test_every_answer_carries_the_security_headers(
    page: RunningPage, stranger: httpx.Client
) -> None:
    with page.client() as client:
        answers = [
            client.get("/"),
            client.get("/static/index.html"),
            client.get("/api/me"),
            client.get("/api/nothing"),
            client.post("/api/me"),
            stranger.get("/"),
            stranger.get("/api/me"),
            stranger.get("/enter?token=x"),
        ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    assert {one.headers["cache-control"] for one in answers[2:]} == {"no-store"}
    assert {one.headers["cache-control"] for one in answers[:2]} == {"no-cache"}


def test_a_giant_body_is_not_read(page: RunningPage, scan_id: str) -> None:
    before = contents(page)
    chunk, chunks = b"x" * 65536, 64

    def body() -> Iterator[bytes]:
        for _ in range(chunks):
            yield chunk

    with page.client() as client:
        for headers in ({"Content-Length": str(len(chunk) * chunks)}, {}):
            for method, path in CHANGES[2:3] + CHANGES[4:6]:
                response = client.request(
                    method, path.format(scan=scan_id), content=body(), headers=headers
                )
                assert_refused(response, 413)
        assert client.get("/api/me").status_code == 200
    assert contents(page) == before


def test_a_body_that_never_comes_holds_up_nobody(page: RunningPage, scan_id: str) -> None:
    with page.client() as client:
        cookie = f"oneslice-{page.desk.access.port}"
        head = (
            f"PUT /api/scans/{scan_id}/drafts/3?version=0&seconds=1 HTTP/1.1\r\n"
            f"Host: {page.desk.access.hosts[0]}\r\nX-OneSlice: 1\r\n"
            f"Cookie: {cookie}={client.cookies[cookie]}\r\nContent-Length: 576\r\n\r\nabc"
        )
        address = ("127.0.0.1", page.desk.access.port)
        waiting = [socket.create_connection(address) for _ in range(60)]
        for one in waiting:
            one.sendall(head.encode())
        assert client.get("/api/worklist").status_code == 200
        for one in waiting:
            one.close()
        assert client.get(f"/api/scans/{scan_id}/drafts/3").status_code == 404


def test_hundreds_of_wrong_requests_leave_it_alive(page: RunningPage, scan_id: str) -> None:
    before = contents(page)
    statuses = set()
    with page.client() as client:
        for number in range(300):
            method, path = CHANGES[number % len(CHANGES)]
            wrong = path.format(scan=f"scan-{number:016x}")
            statuses.add(client.request(method, wrong, content=BODY[: number % 600]).status_code)
        assert statuses <= {404, 422}
        assert client.get(f"/api/scans/{scan_id}").status_code == 200
    assert contents(page) == before


def test_the_catalog_is_never_asked_by_a_websocket(page: RunningPage) -> None:
    with page.client() as client:
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version": "13",
        }
        assert client.get("/api/me", headers=upgrade).status_code == 200, "plain HTTP, no upgrade"
