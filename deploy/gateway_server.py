"""One gateway process: uvicorn on a port that several such processes share."""

import socket
from pathlib import Path
from types import FrameType

import uvicorn

from deploy.errors import DeployError
from schemas.settings import Settings

_BACKLOG = 2_048
# What still waits then is answered 503. The producer stops after that, and all of it is to take ten seconds at most.
_GRACEFUL_SHUTDOWN_S = 6
# Longer than the usual idle time of a load balancer in front, which must be the one to close a connection.
_KEEP_ALIVE_S = 75


def shared_socket(host: str, port: int) -> socket.socket:
    """A socket bound to `host`:`port` that other processes of the same user can bind too; it does not listen yet.

    Raises :class:`DeployError` when something else has the port or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise DeployError(f"cannot listen on {host}:{port} ({error.strerror}): choose another with --port") from error
    return bound


class _Server(uvicorn.Server):
    """uvicorn's server, which tells by a file when it takes requests."""

    def __init__(self, config: uvicorn.Config, ready_file: str) -> None:
        super().__init__(config)
        self._ready_file = ready_file

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        # uvicorn raises these again at the end, so that a stop in order would look like a death by signal.
        self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready_file:
            Path(self._ready_file).touch()  # noqa: ASYNC240 - one empty file, before the first request


def serve(settings: Settings) -> None:
    """Answer requests until SIGTERM or SIGINT, then let those under way finish, 6 s at most."""
    bound = shared_socket(settings.host, settings.port)
    config = uvicorn.Config(
        "gateway.app:app",
        loop="uvloop",
        http="gateway.protocol:BoundedProtocol",  # httptools, with a limit on everything before the application
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing asks who the client is
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACEFUL_SHUTDOWN_S,
    )
    _Server(config, settings.ready_file).run(sockets=[bound])
