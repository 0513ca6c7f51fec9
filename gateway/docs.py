"""The contracts for machines, and a reference page that shows the first of them without the internet.

The page's scripts come from an installed package (`swagger-ui-py`, for its copy of Swagger UI) and from nowhere else:
the content policy holds the browser to that.
"""

import mimetypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import asyncapi, openapi
from gateway.problems import ApiError
from schemas.errors import NOT_FOUND

_FILES = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "LICENSE"})

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Headrace: HTTP reference</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<noscript>This page needs scripts. The same in JSON: <a href="/openapi.json">HTTP</a>,
<a href="/asyncapi.json">Kafka</a>.</noscript>
<div id="reference"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#reference", deepLinking: true, tryItOutEnabled: false, validatorUrl: null,
});
"""

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FILE_HEADERS = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}


@cache
def _contract(name: str) -> bytes:
    return msgspec.json.encode(openapi.document() if name == "openapi" else asyncapi.document())


async def show_openapi(_: Request) -> Response:
    """Answer ``GET /openapi.json``."""
    return Response(_contract("openapi"), media_type="application/json")


async def show_asyncapi(_: Request) -> Response:
    """Answer ``GET /asyncapi.json``."""
    return Response(_contract("asyncapi"), media_type="application/json")


async def show_docs(_: Request) -> Response:
    """Answer ``GET /docs``."""
    return Response(_PAGE, headers=_PAGE_HEADERS, media_type="text/html")


async def show_file(request: Request) -> Response:
    """Answer ``GET /docs/{file}``: what the page is made of, and nothing else of the package."""
    name = request.path_params["file"]
    if name == "start.js":
        return Response(_START, headers=_FILE_HEADERS, media_type="text/javascript")
    content = _file(name) if name in _FILES else None
    if content is None:
        raise ApiError(NOT_FOUND, "there is no such file")
    return Response(content, headers=_FILE_HEADERS, media_type=mimetypes.guess_type(name)[0] or "text/plain")


@cache
def _file(name: str) -> bytes | None:
    spec = find_spec("swagger_ui")  # found, not imported: only its files are of use
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "static" / name
        if path.is_file():
            return path.read_bytes()
    return None


def routes() -> list[Route]:
    """The routes of this module; none needs a key."""
    return [
        Route("/openapi.json", show_openapi, methods=["GET"]),
        Route("/asyncapi.json", show_asyncapi, methods=["GET"]),
        Route("/docs", show_docs, methods=["GET"]),
        Route("/docs/{file}", show_file, methods=["GET"]),
    ]
