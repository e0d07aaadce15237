"""The paths we answer ourselves, at any moment of a start, and the 503 for those that only the engine can answer.

``/v1/manifest`` gives ``{"manifest": "<yaml>"}``, or the YAML itself to a client that asks for ``application/yaml`` or
``text/yaml``. Everything before it is known is 503 with ``Retry-After``.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lading.events import Phase
from lading.gateway.metrics import CONTENT_TYPE, page
from lading.gateway.status import ServiceStatus, StatusSnapshot
from lading.gateway.traffic import Traffic
from lading.profiles.measurement import Measurement
from lading.units import format_bytes, format_seconds

API_VERSION = "1.0"
# Clients of the OpenAI API wait as long as they are told, up to a minute.
_RETRY_DEFAULT_SECONDS = 5
_RETRY_MOST_SECONDS = 60
_YAML_TYPES = frozenset(("application/yaml", "text/yaml", "application/x-yaml", "text/x-yaml"))

MetricsPage = Callable[[], Awaitable[bytes]]


def management_app(status: ServiceStatus, version: str, *, metrics: MetricsPage | None = None) -> Starlette:
    """The application behind :data:`MANAGEMENT_PATHS`; any other path gets the 503 of a model that is not ready.

    ``metrics`` gives the whole metrics page; without it, the page tells the start-up alone.
    """
    endpoints = _Endpoints(status, version, metrics or _startup_page(status))
    app = Starlette(
        routes=[Route(path, partial(answer, endpoints)) for path, answer in _ANSWERS.items()],
        exception_handlers={405: _method_not_allowed},
    )
    app.router.redirect_slashes = False
    app.router.default = endpoints.engine
    return app


def health_app(status: ServiceStatus, version: str, *, metrics: MetricsPage) -> Starlette:
    """The application of the port for probes: health and metrics; any other path is unknown there."""
    endpoints = _Endpoints(status, version, metrics)
    app = Starlette(
        routes=[Route(path, partial(_ANSWERS[path], endpoints)) for path in sorted(PROBE_PATHS)],
        exception_handlers={404: _not_found, 405: _method_not_allowed},
    )
    app.router.redirect_slashes = False
    return app


def explain(snapshot: StatusSnapshot) -> str:
    """One sentence for a person: what the service is doing instead of answering, and how far it is."""
    match snapshot.phase:
        case Phase.READY:
            return "The model is ready."
        case Phase.STOPPING | Phase.STOPPED:
            return "The service is stopping."
        case Phase.DOWNLOADING if snapshot.download:
            done = snapshot.download
            so_far = f"{done.percent:.0f} % of {format_bytes(done.total_bytes)}"
            left = f", about {format_seconds(done.eta_seconds)} left" if done.eta_seconds is not None else ""
            return f"The model is not ready: downloading, {so_far}{left}."
        case phase:
            detail = f" ({snapshot.detail})" if snapshot.detail else ""
            return f"The model is not ready: {phase.value}{detail}, for {format_seconds(snapshot.seconds_in_phase)}."


class _Endpoints:
    """One method per path."""

    def __init__(self, status: ServiceStatus, version: str, metrics: MetricsPage) -> None:
        self._status = status
        self._version = version
        self._metrics = metrics

    async def live(self, _request: Request) -> Response:
        return JSONResponse({"object": "health.response", "message": "live", "status": "live"})

    async def ready(self, _request: Request) -> Response:
        snapshot = self._status.snapshot()
        if snapshot.ready:
            return JSONResponse({"object": "health.response", "message": "ready", "status": "ready"})
        body = {"object": "health.response", "message": explain(snapshot), "status": "not_ready"} | _progress(snapshot)
        return _unavailable(snapshot, body)

    async def metadata(self, _request: Request) -> Response:
        return JSONResponse(_metadata(self._status.snapshot(), self._version))

    async def version(self, _request: Request) -> Response:
        return JSONResponse({"release": self._version, "api": API_VERSION})

    async def manifest(self, request: Request) -> Response:
        snapshot = self._status.snapshot()
        text = snapshot.info.manifest_yaml
        if text is None:
            return _unavailable(snapshot, _error(snapshot, "The manifest is not known yet. " + explain(snapshot)))
        if _asks_for_yaml(request.headers.get("accept", "")):
            return Response(text, media_type="application/yaml", headers={"vary": "accept"})
        return JSONResponse({"manifest": text}, headers={"vary": "accept"})

    async def metrics(self, _request: Request) -> Response:
        return Response(await self._metrics(), headers={"content-type": CONTENT_TYPE})

    async def engine(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every other path, in every method: what the engine would answer if it were there."""
        snapshot = self._status.snapshot()
        message = "The engine is not connected." if snapshot.ready else explain(snapshot)
        await _unavailable(snapshot, _error(snapshot, message))(scope, receive, send)


_ANSWERS: Mapping[str, Callable[[_Endpoints, Request], Awaitable[Response]]] = {
    "/v1/health/live": _Endpoints.live,
    "/v1/health/ready": _Endpoints.ready,
    "/v1/metadata": _Endpoints.metadata,
    "/v1/version": _Endpoints.version,
    "/v1/manifest": _Endpoints.manifest,
    "/v1/metrics": _Endpoints.metrics,
    "/metrics": _Endpoints.metrics,
}
MANAGEMENT_PATHS = frozenset(_ANSWERS)
PROBE_PATHS = frozenset(("/v1/health/live", "/v1/health/ready", "/v1/metrics", "/metrics"))


def _startup_page(status: ServiceStatus) -> MetricsPage:
    traffic = Traffic(MANAGEMENT_PATHS)

    async def metrics() -> bytes:
        return page(status.snapshot(), traffic, None, b"")

    return metrics


async def _not_found(_request: Request, _error: Exception) -> Response:
    message = "This port answers health and metrics only."
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "code": 404}}, 404)


async def _method_not_allowed(_request: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, HTTPException) else None
    body = {"message": "This path does not take this method.", "type": "invalid_request_error", "code": 405}
    return JSONResponse({"error": body}, 405, headers)


def _unavailable(snapshot: StatusSnapshot, body: Mapping[str, object]) -> Response:
    return JSONResponse(body, 503, {"retry-after": str(retry_seconds(snapshot))})


def retry_seconds(snapshot: StatusSnapshot) -> int:
    """When it is worth asking again."""
    eta = snapshot.download.eta_seconds if snapshot.phase is Phase.DOWNLOADING and snapshot.download else None
    return min(_RETRY_MOST_SECONDS, max(1, math.ceil(eta))) if eta is not None else _RETRY_DEFAULT_SECONDS


def _error(snapshot: StatusSnapshot, message: str) -> dict[str, object]:
    progress = _progress(snapshot)
    kept = {key: progress[key] for key in ("phase", "percent", "eta_seconds")}
    return {"error": {"message": message, "type": "service_unavailable", "code": 503} | kept}


def _progress(snapshot: StatusSnapshot) -> dict[str, object]:
    download = snapshot.download
    return {
        "phase": snapshot.phase.value,
        "detail": snapshot.detail,
        "percent": round(download.percent, 1) if download else None,
        "eta_seconds": round(download.eta_seconds, 1) if download and download.eta_seconds is not None else None,
        "bytes_fetched": download.fetched_bytes if download else None,
        "bytes_total": download.total_bytes if download else None,
        "seconds_in_phase": round(snapshot.seconds_in_phase, 1),
    }


def _metadata(snapshot: StatusSnapshot, version: str) -> dict[str, Any]:
    info = snapshot.info
    return {
        "version": version,
        "assetInfo": [info.source] if info.source else [],
        "licenseInfo": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        "modelInfo": [{"shortName": name, "modelUrl": info.source or ""} for name in info.served_names],
        "repository_override": info.repository_override,
        "selectedModelProfileId": info.profile_id or "",
        "profile_name": info.profile_name,
        "profile_reason": info.profile_reason,
        "backend": info.backend,
        "backend_version": info.backend_version,
        "revision": info.revision,
        "phase": snapshot.phase.value,
        "memory": {"estimated": _ranks(info.estimated_memory), "measured": _ranks(info.measured_memory)},
    }


def _ranks(memory: Sequence[Measurement]) -> list[dict[str, int | None]]:
    return [{"rank": rank, **each.to_json()} for rank, each in enumerate(memory)]


def _asks_for_yaml(accept: str) -> bool:
    return any(each.partition(";")[0].strip().lower() in _YAML_TYPES for each in accept.split(","))
