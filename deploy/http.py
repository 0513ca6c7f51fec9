"""A small HTTP client for the command line: one connection, kept alive, every wait bounded."""

import http.client
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from deploy.errors import DeployError

_TIMEOUT_S = 40.0  # longer than the longest `?wait=`


class Unreachable(Exception):  # noqa: N818 - named for what it tells
    """No answer: nothing listens, the connection broke, or the time was up."""


class Answer(NamedTuple):
    """An HTTP answer. `retry_after_s` is None where the server names no time."""

    status: int
    body: bytes
    retry_after_s: float | None

    def json(self) -> dict[str, Any]:
        """The body as an object; an empty one where it is none (a proxy's error page, for instance)."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except msgspec.MsgspecError:
            return {}

    def error(self) -> str:
        """What the server says is wrong, in one line."""
        told = self.json()
        return str(told.get("message") or told.get("code") or f"HTTP {self.status}")


class Client:
    """Talks to one gateway with one key."""

    def __init__(self, url: str, api_key: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Nothing is sent yet. Raises :class:`DeployError` for what is no http(s) URL."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise DeployError(f"{url} is no http:// or https:// address")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._base = parts.path.rstrip("/")
        self._headers = {"X-API-Key": api_key, "Accept": "application/json"}

    def get(self, path: str) -> Answer:
        """GET `path`. Raises :class:`Unreachable`."""
        return self._request("GET", path, None)

    def post(self, path: str, body: bytes) -> Answer:
        """POST JSON to `path`. Raises :class:`Unreachable`."""
        return self._request("POST", path, body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _request(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            self._connection.request(method, self._base + path, body, headers)
            response = self._connection.getresponse()
            return Answer(response.status, response.read(), _seconds(response.getheader("Retry-After")))
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request opens it anew
            raise Unreachable(str(error) or type(error).__name__) from error


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:  # the other form, a date: the usual backoff serves
        return None
