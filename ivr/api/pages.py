"""The pages: files of this package, and the headers that keep anything else from running in them.

A page holds no data and needs no token; its script asks the API as whoever signs in. Transcripts are a stranger's
words in an operator's browser, so nothing inline runs, nothing foreign loads, and markup cannot be made out of text
(Trusted Types, where the browser has them).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path as File
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException

FOLDER = File(__file__).parent.parent / "web"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Asked again each time, answered 304 nearly always: after an upgrade no page runs half old, half new.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    media_type: str
    etag: str


def _read(folder: File) -> dict[str, _Asset]:
    """Every file of the pages, once: handlers touch no disk, and only these names exist."""
    assets = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in _TYPES:
            body = file.read_bytes()
            assets[file.name] = _Asset(body, _TYPES[file.suffix], f'"{hashlib.sha256(body).hexdigest()[:20]}"')
    return assets


def pages(folder: File = FOLDER) -> APIRouter:
    """``/agent/{ext}``, ``/supervisor`` and what they load."""
    assets = _read(folder)
    router = APIRouter(include_in_schema=False)

    def answer(request: Request, name: str) -> Response:
        asset = assets.get(name)
        if asset is None:
            raise HTTPException(404, "there is no such file")
        headers = {**HEADERS, "ETag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    @router.get("/agent/{ext}")
    async def agent(request: Request, ext: Annotated[str, Path(pattern=r"^[0-9A-Za-z*#+_.-]{1,64}$")]) -> Response:
        return answer(request, "agent.html")

    @router.get("/supervisor")
    async def supervisor(request: Request) -> Response:
        return answer(request, "supervisor.html")

    @router.get("/assets/{name}")
    async def asset(request: Request, name: str) -> Response:
        return answer(request, name)

    return router
