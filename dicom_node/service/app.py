"""The FastAPI application: routers, the page, errors, envelope. Not the server (`dicom_node.http_server`)."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

import dicom_node
from dicom_node.service import (
    page_files,
    routes_archive,
    routes_corrections,
    routes_jobs,
    routes_queries,
    routes_slices,
    routes_studies,
)
from dicom_node.service.access import BODY_BYTES, HEALTH, Envelope
from dicom_node.service.audited import Audited
from dicom_node.service.errors import add_error_handlers
from dicom_node.service.parts import Parts

BASE = "/api/1"
_ROUTES = (
    routes_studies,
    routes_queries,
    routes_slices,
    routes_archive,
    routes_jobs,
    routes_corrections,
)
# FastAPI would send paths, which hold UIDs, and the texts of errors wherever the environment or a provider of
# the process tells it to.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
_ABOUT = """Ask a Sightline node: which studies it has read, what it found, and where a text is.
Positions are LPS in mm. Research software, not a medical device."""


def create_app(parts: Parts, token: str | None) -> FastAPI:
    """The service as an ASGI application.

    Parameters
    ----------
    parts: what answers are made of; whoever made them also closes them.
    token: that every request has to bring but for ``/api/1/health`` and the files of the page, which
        hold no data; None asks for none.
    """
    app = FastAPI(
        title="Sightline",
        summary="A DICOM node that reads CT and can be asked",
        description=_ABOUT,
        version=dicom_node.__version__,
        openapi_url=f"{BASE}/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    app.state.parts = parts
    for routes in _ROUTES:
        app.include_router(routes.router, prefix=BASE)
    app.include_router(page_files.router)
    app.mount(page_files.MOUNT, page_files.PageFiles())
    add_error_handlers(app)
    app.add_middleware(
        Envelope,
        token=token,
        body_limit=lambda path: _body_limit(path, parts),
        without_token=page_files.page_paths() | {HEALTH},
    )
    app.add_middleware(Audited, config=parts.config, archive=parts.archive)
    return app


def _body_limit(path: str, parts: Parts) -> int:
    """Most bytes of a request's body; more than the default only where a volume is sent."""
    if path == f"{BASE}/uploads":
        return parts.config.service.upload_mib << 20
    return routes_corrections.MAX_BYTES if path.endswith("/corrections") else BODY_BYTES
