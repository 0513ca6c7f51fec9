"""Free ports on loopback."""

import errno
import random
import socket

from deploy.errors import DeployError

# Below every system's range for outgoing connections, so that a port kept for the next start is likely still free.
_FIRST, _LAST = 20_000, 31_999
_TRIES_MAX = 200

_given: set[int] = set()
"""What this process has been given: free until whoever it is meant for listens, but nobody else's."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nothing listens on `port`; connections still closing do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
        return True


def pick(count: int, keep: list[int] | None = None) -> list[int]:
    """`count` distinct free ports, none of which this was ever asked for; those of `keep` first while they are free."""
    chosen = [port for port in (keep or [])[:count] if is_free(port)]
    for _ in range(_TRIES_MAX):
        if len(chosen) == count:
            _given.update(chosen)
            return chosen
        port = random.randint(_FIRST, _LAST)  # noqa: S311 - nothing secret hangs on a port's number
        if port not in chosen and port not in _given and is_free(port):
            chosen.append(port)
    raise DeployError(f"no {count} free ports between {_FIRST} and {_LAST} on 127.0.0.1: close something and try again")
