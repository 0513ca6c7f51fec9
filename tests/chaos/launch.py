"""Starts a gateway or a worker, after doing what was ordered for this one start: ``launch.py ROLE ORDERS_FILE``.

The orders are what happens while a process is down, or to it: its table deleted, truncated or replaced by an older
copy; a pause; a fail point. They hold for one start. Imports the standard library only, and becomes the real command.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any


def main(role: str, orders_file: str) -> None:
    """Do what is ordered, then become the real process."""
    orders = _take(Path(orders_file))
    if role == "worker":
        _handle_table(Path(os.environ["HEADRACE_TABLE_DIR"]) / os.environ["HEADRACE_WORKER_ID"], orders.get("table"))
    if "fail_point" in orders:
        os.environ["HEADRACE_TEST_FAIL_POINT"] = orders["fail_point"]
    if "pause_s" in orders:
        time.sleep(orders["pause_s"])
    breach = Path(orders_file).with_name(f"{role}.broken")
    module = ["tests.chaos.broken", breach.read_text(encoding="utf-8")] if breach.exists() else ["deploy.cli"]
    os.execv(sys.executable, [sys.executable, "-m", *module, role])  # noqa: S606 - this project's own program


def _take(path: Path) -> dict[str, Any]:
    try:
        orders: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    path.unlink()
    return orders


def _handle_table(table: Path, fault: str | None) -> None:
    kept = table.with_name(table.name + ".kept")
    if fault == "delete":
        shutil.rmtree(table, ignore_errors=True)
    elif fault == "truncate":
        for file in table.rglob("*"):
            if file.is_file():
                os.truncate(file, file.stat().st_size // 2)
    elif fault == "old" and kept.exists():
        shutil.rmtree(table, ignore_errors=True)
        kept.rename(table)
    if table.exists() and not kept.exists():
        shutil.copytree(table, kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
