"""The short way to the routes that take events in: one look into a table instead of the router and its wrappings.

Those cost more than all that is done with an event. What the table does not have goes on to the application as ever.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.problems import ApiError, error_response


class Shortcut:
    """Serves `routes`, whose paths have no parameters, and leaves the rest to `app`."""

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        self._routes = {(method, route.path): route for route in routes for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except ApiError as error:
            response = error_response(request, error)
        await response(scope, receive, send)
