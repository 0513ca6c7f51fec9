"""The page of guarantees names tests: each must exist, and each exit code of a worker must be on it."""

import re
from pathlib import Path

from processors import exits
from schemas import settings
from tests.processors.test_exits import CODES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 20
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_promise_names_one() -> None:
    rows = PAGE.split("## Promises")[1].split("## ")[0].splitlines()
    promises = [row for row in rows if row.startswith("| ") and not row.startswith("| promise")]
    assert [row for row in promises if "::test_" not in row] == []


def test_every_exit_code_is_explained() -> None:
    assert set(re.findall(r"^\| (\d\d) \|", PAGE, re.MULTILINE)) == {str(code) for code in CODES.values()}
    assert exits.STALLED == 75


def test_settings_and_metrics_are_spelled_as_they_are() -> None:
    names = {name for name, *_ in settings.describe()}
    assert set(re.findall(r"HEADRACE_[A-Z_]+", PAGE)) <= names
    sources = "".join((ROOT / path).read_text() for path in ("processors/metrics.py", "gateway/metrics.py"))
    columns = [row.split("|")[4] for row in PAGE.split("a number and a line")[1].splitlines() if row.startswith("| ")]
    metrics = {name for column in columns for name in re.findall(r"`(\w+)[`{]", column)} - {"restarts"}
    assert len(metrics) > 12
    assert [name for name in metrics if f'"headrace_{name}"' not in sources] == []
