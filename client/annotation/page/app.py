"""The page's server as an app: the guard in front, one router for each thing that is served."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from client.annotation.page import drafts, review, scans, versions, worklist
from client.annotation.page.access import SESSION_S
from client.annotation.page.desk import Desk, Refusal
from client.annotation.page.guard import NO_SESSION_PAGE, Guard
from client.store.claims import ClaimedError
from common.errors import OneSliceError

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"


def make_app(desk: Desk) -> FastAPI:
    """The whole page. `app.openapi()` describes it; no document of it is served."""

    @asynccontextmanager
    async def while_running(_: FastAPI) -> AsyncIterator[None]:
        desk.previews.start()
        yield
        await run_in_threadpool(desk.previews.stop)

    app = FastAPI(
        title="OneSlice: the clinician's page",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=while_running,
        redirect_slashes=False,
    )
    app.state.desk = desk
    app.add_middleware(Guard, access=desk.access)
    for one in (worklist.router, scans.router, drafts.router, versions.router, review.router):
        app.include_router(one, prefix="/api")
    app.add_api_route("/", _front, include_in_schema=False, response_model=None)
    app.add_api_route("/enter", _enter, include_in_schema=False, response_model=None)
    app.mount("/static", StaticFiles(directory=STATIC))
    _answer_errors(app)
    return app


def _front() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def _enter(request: Request, token: str = "") -> Response:
    """Turns a link into a session of this browser."""
    access = cast(Desk, request.app.state.desk).access
    session = access.enter(token)
    if session is None:
        return HTMLResponse(NO_SESSION_PAGE, 401)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        access.cookie, session, max_age=int(SESSION_S), path="/", httponly=True, samesite="strict"
    )
    return response


def _answer_errors(app: FastAPI) -> None:
    """Every error is JSON with one sentence, never a traceback."""

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        fields = error.fields if isinstance(error, Refusal) else {}
        return JSONResponse({"error": error.detail, **fields}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"error": "; ".join(problems)}, 422)

    @app.exception_handler(ClaimedError)
    def claimed(_: Request, error: ClaimedError) -> JSONResponse:
        claim = {"claimed_by": error.claim.annotator, "claim_left_s": error.claim.left_s}
        return JSONResponse({"error": str(error), **claim}, 409)

    @app.exception_handler(OneSliceError)
    def failed(_: Request, error: OneSliceError) -> JSONResponse:
        # A full disk, a damaged file: nothing that was asked for is wrong, and nothing was saved.
        log.error("%s", error)
        return JSONResponse({"error": str(error)}, 507)

    @app.exception_handler(Exception)
    def broken(_: Request, error: Exception) -> JSONResponse:
        log.error("a request could not be answered", exc_info=error)
        return JSONResponse({"error": "this failed; what was saved before is whole"}, 500)
