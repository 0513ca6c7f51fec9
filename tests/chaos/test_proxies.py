"""The proxies do what the faults count on."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.chaos.proxies import Proxies


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    proxies = Proxies()
    yield proxies
    proxies.stop()


def _serve(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # the test is over
            return
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)


def _connect(port: int) -> "closing[socket.socket]":
    return closing(socket.create_connection(("127.0.0.1", port), timeout=5))


def test_what_comes_is_passed_on_and_back(proxies: Proxies, echo: int) -> None:
    with _connect(proxies.add("one", ("127.0.0.1", echo))) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"


def test_refusing_cuts_off_and_takes_no_one_until_it_listens_again(proxies: Proxies, echo: int) -> None:
    port = proxies.add("one", ("127.0.0.1", echo))
    with _connect(port) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        proxies.refuse("one")
        assert client.recv(100) == b""
    with pytest.raises(ConnectionRefusedError), _connect(port):
        pass
    proxies.listen("one")
    with _connect(port) as client:
        client.sendall(b"again")
        assert client.recv(100) == b"again"


def test_a_deaf_one_keeps_connections_open_and_what_was_sent(proxies: Proxies, echo: int) -> None:
    with _connect(proxies.add("one", ("127.0.0.1", echo))) as client:
        proxies.set_deaf("one", deaf=True)
        client.sendall(b"hello")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxies.set_deaf("one", deaf=False)
        client.settimeout(5)
        assert client.recv(100) == b"hello"


def test_a_slow_one_takes_its_time(proxies: Proxies, echo: int) -> None:
    with _connect(proxies.add("one", ("127.0.0.1", echo))) as client:
        proxies.set_delay("one", 0.2)
        begun = time.monotonic()
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        assert time.monotonic() - begun >= 0.4  # there and back


def test_a_target_that_is_down_is_a_closed_connection(proxies: Proxies, echo: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with _connect(proxies.add("one", ("127.0.0.1", port))) as client:
        assert client.recv(100) == b""
    assert echo != port
