"""The page of GraphiQL and its files, all from the router's own address.

`make graphiql` builds the files from `clients/graphiql`, and a wheel contains them. Their names
contain a hash of their content. Without them the page says how to build them.
"""

import gzip
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

FOLDER = Path(__file__).with_name("assets")

_COMPRESSED = ".gz"
_PAGE_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'self'",
    "referrer-policy": "no-referrer",
}
_FILE_HEADERS = {
    "cache-control": "public, max-age=31536000, immutable",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>GraphiQL</title>
{head}
</head>
<body>
{body}
</body>
</html>
"""
_HEAD = """<link rel="stylesheet" href="{style}">
<script type="module" src="{script}"></script>"""
_BODY = """<div id="graphiql"><p class="missing">GraphiQL did not start. It needs JavaScript and the
files in <code>{folder}</code>. If there is a proxy, let it pass this path.</p></div>"""
_NOT_BUILT = """<h1>GraphiQL is not built</h1>
<p>The server works, and any GraphQL client can use it at this address. To use GraphiQL here too,
run this in a clone of gqlnotify, with npm and network access, and reload the page:</p>
<pre>make graphiql</pre>"""


def page(request: Request) -> HTMLResponse:
    """Return the page for an address of a router. It needs no other host, and no inline script."""
    script, style = _find("page-*.js"), _find("page-*.css")
    if script is None or style is None:
        html = _PAGE.format(head="", body=_NOT_BUILT)
    else:
        folder = _folder_of(request)
        head = _HEAD.format(style=folder + style, script=folder + script)
        html = _PAGE.format(head=head, body=_BODY.format(folder=folder))
    return HTMLResponse(html, headers=_PAGE_HEADERS)


def add_files(router: APIRouter, path: str) -> None:
    """Serve the files of the page under `path`, the path of the page itself."""

    # The application's path may have parameters too, so this one has a name of its own.
    @router.get(path.rstrip("/") + "/graphiql/{graphiql_file}", include_in_schema=False)
    def handle_graphiql_file(request: Request, graphiql_file: str) -> Response:
        # In a thread: it reads, and for some clients decompresses, up to half a megabyte.
        return _file(graphiql_file, request.headers.get("accept-encoding", ""))


def _find(pattern: str) -> str | None:
    found = next(FOLDER.glob(pattern + _COMPRESSED), None)
    return None if found is None else found.name.removesuffix(_COMPRESSED)


def _folder_of(request: Request) -> str:
    # Relative to the address of the page: a proxy may have removed a prefix that only the browser
    # knows.
    last = request.scope["path"].rpartition("/")[2]
    return f"./{quote(last)}/graphiql/" if last else "./graphiql/"


def _file(name: str, accepted: str) -> Response:
    # Only a name that is listed: `name` may contain anything.
    if not any(each.name == name + _COMPRESSED for each in FOLDER.glob("*")):
        raise HTTPException(404)
    content = (FOLDER / (name + _COMPRESSED)).read_bytes()
    headers = dict(_FILE_HEADERS)
    if "gzip" in accepted:
        headers["content-encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    type_, _ = guess_type(name)
    return Response(content, media_type=type_ or "application/octet-stream", headers=headers)
