"""The page of the console and its files. They contain no data: the API asks for a token."""

from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request, Response

FOLDER = Path(__file__).with_name("assets")

_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def page_router() -> APIRouter:
    """Return a router with the page at `/` and its files under it."""
    router = APIRouter(include_in_schema=False)

    @router.get("")
    def console_page(request: Request) -> Response:
        # The page's addresses are relative to its own, which a proxy may have given a prefix.
        folder = request.scope["path"].rpartition("/")[2]
        html = (FOLDER / "console.html").read_text().replace("{folder}", f"./{quote(folder)}")
        return Response(html, media_type="text/html", headers=_HEADERS)

    @router.get("/assets/{console_file}")
    def console_asset(console_file: str) -> Response:
        # Only a name that is listed: the path may contain anything.
        found = next((each for each in FOLDER.iterdir() if each.name == console_file), None)
        if found is None or found.suffix not in _TYPES:
            raise HTTPException(404)
        return Response(found.read_bytes(), media_type=_TYPES[found.suffix], headers=_HEADERS)

    return router
