"""Serves an application of the suite's as gateways are served: uvicorn on uvloop and httptools, no access log."""

import uvicorn
from starlette.applications import Starlette

from schemas.settings import load


def serve(app: Starlette) -> None:
    """Answer requests on the port of the settings until SIGTERM."""
    settings = load()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
