"""The page in the browser: which files it is, and the headers that fence it in.

Plain modules and style sheets in ``page/``, served as they are: nothing is built, nothing comes from
elsewhere. The files hold no data of anybody, so they need no token; what they ask the service for does.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

FOLDER = Path(__file__).parent / "page"
MOUNT = "/page"
# Own scripts, own styles, own answers and pictures made of them; no frames, no forms, no strings as code.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # a newer version of the node brings a newer page at once
}

router = APIRouter(include_in_schema=False)


def page_paths() -> frozenset[str]:
    """Exactly the paths that need no token: the page and each of its files."""
    return frozenset({"/", *(f"{MOUNT}/{path.name}" for path in FOLDER.iterdir() if path.is_file())})


@router.get("/")
def page() -> Response:
    """The page itself."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers=HEADERS)


class PageFiles:
    """The files of the page as an ASGI application, each with the headers."""

    def __init__(self) -> None:
        self._files = StaticFiles(directory=FOLDER)
        self._paths = page_paths()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        if scope["path"] not in self._paths:  # no name that was made up reaches the file system
            raise HTTPException(404)
        await self._files(scope, receive, fenced)
