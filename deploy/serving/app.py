"""The HTTP side: routes, limits, errors; what they mean is in :mod:`deploy.serving.service`."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deploy.serving import metrics
from deploy.serving.description import ANSWERS, ERRORS, INFER, OPEN, TEXT, name_models
from deploy.serving.gate import Gate, enter
from deploy.serving.protocol import EXTENSIONS, HEADER_LENGTH
from deploy.serving.refusals import Refusal
from deploy.serving.service import VERSION, Service
from trueint8 import __version__

BODY_TYPES = ("", "application/json", "application/octet-stream")

_READ_IN_VAIN = 4
"""Bodies up to so many times the largest allowed are read before they are refused."""

_RETRY_AFTER_S = {429: "1", 503: "1"}


def build_app(service: Service) -> FastAPI:
    """Return the application; its end closes the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="TrueInt8",
        version=__version__,
        description="Open Inference Protocol v2",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    _add_health(app, service)
    _add_models(app, service)
    describe = app.openapi
    app.openapi = lambda: name_models(describe(), service.names, VERSION)  # type: ignore[method-assign]
    app.add_middleware(Gate, service=service)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/v2/health/live", summary="Whether the process answers", responses=OPEN)
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Whether it takes requests", responses=OPEN)
    async def ready() -> dict[str, bool]:
        _check_ready(service)
        return {"ready": True}


def _add_models(app: FastAPI, service: Service) -> None:
    guarded: dict[str, Any] = {"dependencies": [Depends(_guard(service))], "responses": ERRORS}

    @app.get("/v2", summary="The server", **guarded)
    async def server() -> dict[str, Any]:
        return {"name": "trueint8", "version": __version__, "extensions": list(EXTENSIONS)}

    @app.post("/v2/repository/index", summary="The models", **guarded)
    async def index() -> list[dict[str, str]]:
        state = "UNAVAILABLE" if service.draining else "READY"
        return [{"name": n, "version": VERSION, "state": state} for n in service.names]

    @app.get("/metrics", summary="Prometheus metrics", **(guarded | {"responses": TEXT}))
    async def scrape() -> Response:
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    routes = (
        ("get", "", "Inputs and outputs of a model", _metadata_routes(service), guarded),
        ("get", "/ready", "Whether a model takes requests", _ready_routes(service), guarded),
        (
            "post",
            "/infer",
            "Run a model",
            _infer_routes(service),
            guarded | {"responses": ANSWERS, "openapi_extra": INFER},
        ),
    )
    for method, path, summary, (latest, versioned), more in routes:
        for prefix, route in (("", latest), ("/versions/{version}", versioned)):
            add = getattr(app, method)(
                f"/v2/models/{{name}}{prefix}{path}", summary=summary, **more
            )
            add(route)


Routes = tuple[Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]]
"""Without a version in the path, and with one: a default would be a parameter of the query."""


def _metadata_routes(service: Service) -> Routes:
    async def metadata(name: str, version: str) -> dict[str, Any]:
        _check_name(service, name, version)
        return service.metadata(name)

    async def latest(name: str) -> dict[str, Any]:
        return await metadata(name, VERSION)

    return latest, metadata


def _ready_routes(service: Service) -> Routes:
    async def model_ready(name: str, version: str) -> dict[str, Any]:
        _check_name(service, name, version)
        _check_ready(service)
        return {"name": name, "ready": True}

    async def latest(name: str) -> dict[str, Any]:
        return await model_ready(name, VERSION)

    return latest, model_ready


def _infer_routes(service: Service) -> Routes:
    async def infer(request: Request, name: str, version: str) -> Response:
        arrived = time.monotonic()
        _check_name(service, name, version)
        status = 500
        try:
            enter(service, request)
            response = await _answer(service, request, name, arrived)
            status = response.status_code
            return response
        except Refusal as err:
            status = err.status
            raise
        finally:
            service.metrics.requests.labels(name, str(status)).inc()
            service.metrics.request_s.labels(name).observe(time.monotonic() - arrived)

    async def latest(request: Request, name: str) -> Response:
        return await infer(request, name, VERSION)

    return latest, infer


async def _answer(service: Service, request: Request, name: str, arrived: float) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity")
    if kind not in BODY_TYPES or encoding != "identity":
        raise Refusal(
            415, "bodies of this type are not read", fix=f"send {' or '.join(BODY_TYPES[1:])}"
        )
    try:
        async with asyncio.timeout(service.limits.deadline_s):
            body = await _body(request, service.limits.request_bytes)
    except TimeoutError as err:
        raise Refusal(408, "the body did not arrive in time", fix="send it at once") from err
    raw, header = await service.infer(name, body, request.headers.get(HEADER_LENGTH), arrived)
    if header is None:
        return Response(raw, media_type="application/json")
    return Response(raw, 200, {HEADER_LENGTH: str(header)}, "application/octet-stream")


async def _body(request: Request, most: int) -> bytes:
    """Read a body without ever holding more than allowed.

    One that is somewhat too large is read to its end and thrown away: a client that is refused
    while it still sends may see a reset connection instead of the reason.
    """
    said = request.headers.get("content-length", "0")
    body, size = bytearray(), 0
    if not said.isdigit() or len(said) > 12 or int(said) > _READ_IN_VAIN * most:
        raise _too_large(most)
    async for part in request.stream():
        size += len(part)
        if size <= most:
            body += part
        elif size > _READ_IN_VAIN * most:
            raise _too_large(most)
    if size > most:
        raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most} bytes", fix="send fewer rows at a time")


def _check_name(service: Service, name: str, version: str) -> None:
    if name not in service.names or version != VERSION:
        raise Refusal(
            404,
            "there is no model of that name and version",
            fix=f"models: {', '.join(service.names)}; version: {VERSION}",
        )


def _check_ready(service: Service) -> None:
    if service.draining:
        raise Refusal(503, "the server is shutting down", fix="ask another one")


def _guard(service: Service) -> Callable[[Request], Awaitable[None]]:
    """Return what refuses a request without the token, if there is one."""

    async def check(request: Request) -> None:
        if service.token is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, b"Bearer " + service.token):
            raise Refusal(401, "no valid token", fix="send the header Authorization: Bearer TOKEN")

    return check


def _error(status: int, message: str) -> JSONResponse:
    response = JSONResponse({"error": message}, status)
    if status in _RETRY_AFTER_S:
        response.headers["retry-after"] = _RETRY_AFTER_S[status]
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


async def _refused(_: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, Refusal)
    return _error(err.status, f"{err.problem}; {err.fix}")


async def _http_error(_: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, HTTPException)
    response = _error(err.status_code, str(err.detail))
    response.headers.update(err.headers or {})
    return response


async def _defect(_: Request, __: Exception) -> JSONResponse:
    return _error(500, "internal error; the server's log has more")
