"""The models page, for browsers: `GET /ui` and the two files that it loads.

Rule: fixed files with nothing of the user's in them, so they need no token; the page itself sends
it with each of its requests. They load from nowhere else and cannot be framed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).with_name("page")
# path → (file, media type)
FILES: Final = {
    "/ui": ("index.html", "text/html"),
    "/ui/page.css": ("page.css", "text/css"),
    "/ui/page.js": ("page.js", "text/javascript"),
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


async def file(request: Request) -> Response:
    """Return the file at the request's path."""
    name, media = FILES[request.url.path]
    return Response((_FOLDER / name).read_bytes(), media_type=media, headers=_HEADERS)
