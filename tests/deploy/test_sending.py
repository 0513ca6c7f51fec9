"""Sending: what is read, what is sent again, what is told. Against a scripted gateway."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy import sending
from deploy.cli import cli
from deploy.errors import DeployError
from deploy.http import Client
from deploy.sending import Event, Rejected, Sender

Script = Callable[[list[Any]], tuple[int, Any, dict[str, str]]]


def accepted(index: int) -> dict[str, Any]:
    return {"index": index, "status": "accepted", "event": {}}


def failed(index: int, code: str, *, retryable: bool) -> dict[str, Any]:
    return {"index": index, "status": "error", "error": f"it was {code}", "code": code, "retryable": retryable}


class Gateway:
    """Answers from a script, and remembers the events of each request as bytes."""

    def __init__(self, script: list[Script]) -> None:
        self.script = script
        self.bodies: list[bytes] = []
        self.url = ""

    def answer(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        self.bodies.append(body)
        step = self.script[min(len(self.bodies), len(self.script)) - 1]
        return step(json.loads(body)["events"])


@contextmanager
def gateway(*script: Script) -> Iterator[Gateway]:
    fake = Gateway(list(script))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, told, headers = fake.answer(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(told).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join(5)


def everything(events: list[Any]) -> tuple[int, Any, dict[str, str]]:
    return 200, {"results": [accepted(index) for index in range(len(events))]}, {}


def run(source: str, text: bytes, url: str) -> Result:
    return CliRunner().invoke(cli, ["send", source, "--url", url, "--key", "k", "--json"], input=text)


def events(count: int) -> list[Event]:
    return [Event(number, b'{"n":%d}' % number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b"", []),
        (b'{"a":1}\n\n{"b":1.50}\n', [Event(1, b'{"a":1}'), Event(3, b'{"b":1.50}')]),
        (b'\n{"a":1}', [Event(1, b'{"a":1}')]),
        (b'{"events":[{"a":1e400},{}]}', [Event(1, b'{"a":1e400}'), Event(2, b"{}")]),
        (b'{\n  "events": [\n    {"a": 1}\n  ]\n}\n', [Event(1, b'{"a": 1}')]),
        (b'{"events": [\n{"a":1}\n]}', [Event(1, b'{"a":1}')]),
    ],
)
def test_reads_lines_and_batch_files_byte_by_byte(text: bytes, read: list[Event]) -> None:
    assert list(sending.read(text.splitlines(keepends=True))) == read


def test_refuses_what_is_neither() -> None:
    with pytest.raises(DeployError, match="neither NDJSON nor a batch file"):
        list(sending.read([b"{\n", b'"event": 1}\n']))


def test_batches_are_bounded_by_count_and_bytes() -> None:
    assert [len(batch) for batch in sending.batches(events(250))] == [100, 100, 50]
    big = [Event(number, b"x" * (sending.BATCH_BYTES_MAX // 2 - 1)) for number in range(3)]
    assert [len(batch) for batch in sending.batches(big)] == [2, 1]


def test_sends_again_only_what_can_succeed() -> None:
    def first(_: list[Any]) -> tuple[int, Any, dict[str, str]]:
        conflict = failed(1, "idempotency_conflict", retryable=False)
        return 200, {"results": [accepted(0), conflict, failed(2, "unavailable", retryable=True)]}, {}

    pauses: list[float] = []
    with gateway(first, everything) as fake, closing(Client(fake.url, "k")) as client:
        rejected = Sender(client, pauses.append).send(events(3))
    assert rejected == [Rejected(2, "idempotency_conflict", "it was idempotency_conflict")]
    assert fake.bodies == [b'{"events":[{"n":1},{"n":2},{"n":3}]}', b'{"events":[{"n":3}]}']
    assert len(pauses) == 1
    assert 0.1 < pauses[0] < 0.5


def test_waits_as_long_as_the_gateway_asks() -> None:
    def busy(_: list[Any]) -> tuple[int, Any, dict[str, str]]:
        return 429, {"code": "too_many_requests", "message": "slow down"}, {"Retry-After": "7"}

    pauses: list[float] = []
    with gateway(busy, everything) as fake, closing(Client(fake.url, "k")) as client:
        assert Sender(client, pauses.append).send(events(1)) == []
    assert pauses == [7.0]


def test_gives_up_after_bounded_attempts() -> None:
    pauses: list[float] = []
    sender = Sender(Client("http://127.0.0.1:9", "k"), pauses.append)
    with pytest.raises(DeployError, match=r"gave up after 8 attempts at event 1: the gateway does not answer"):
        sender.send(events(1))
    assert len(pauses) == 7
    assert max(pauses) <= 10


def test_exit_code_0_when_all_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b'{"n":1}\n{"n":2}\n')
    with gateway(everything) as fake:
        result = run(str(file), b"", fake.url)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"total": 2, "accepted": 2, "rejected": 0, "errors": []}


def test_exit_code_1_when_one_is_rejected() -> None:
    with gateway(everything) as fake:
        result = run("-", b'{"n":1}\nnot json\n', fake.url)
    assert result.exit_code == 1
    errors = [{"number": 2, "code": "invalid_json", "message": "not JSON"}]
    assert json.loads(result.stdout) == {"total": 2, "accepted": 1, "rejected": 1, "errors": errors}


def test_refused_key_is_one_line() -> None:
    with gateway(lambda _: (401, {"code": "unauthorized", "message": "unknown key"}, {})) as fake:
        result = run("-", b'{"n":1}\n', fake.url)
    assert result.exit_code == 1
    assert result.stderr == "Error: the gateway refuses the request: unknown key (HTTP 401)\n"
