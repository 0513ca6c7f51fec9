"""The live gateway against its own OpenAPI document: every check, generated requests, stateful sequences too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.stack import Stack

SEED = "20240115"

_CONFIG = """
request-timeout = 60  # a GET may wait 30 s: lists name events of other tests that never become final

[generation]
allow-x00 = false  # the document cannot say that NUL is refused; tests/test_fidelity.py does

[[operations]]
include-path = "/v1/events/batch"
checks.negative_data_rejection.enabled = false  # one bad event never costs the others: the answer is 200, item by item
"""


@pytest.mark.timeout(600)
def test_no_finding(stack: Stack, tmp_path: Path) -> None:
    document = httpx.get(f"{stack.url}/openapi.json").json()
    # What a schema cannot say: a cursor is one that a page gave. The paging tests have it.
    listing = document["paths"]["/v1/events"]["get"]
    listing["parameters"] = [each for each in listing["parameters"] if each.get("name") != "cursor"]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml"),
        *("run", "openapi.json", "--url", stack.url, "--header", f"X-API-Key: {stack.api_key}"),
        *("--max-examples", "25", "--seed", SEED, "--no-color"),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, timeout=580, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-8_000:] + result.stderr[-2_000:]
    assert "Stateful" in result.stdout, "the stateful phase has run"
