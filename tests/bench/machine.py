"""Where and with what a run was done."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.local.kafka_jars import KAFKA_VERSION
from tests.bench.bed import row
from tests.stack import Backend

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("aiokafka", "faust-streaming", "msgspec", "psycopg", "rocksdict", "starlette", "uvicorn", "uvloop")


def machine() -> dict[str, Any]:
    """Cores, processor, memory, and the load before the run."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    models = {line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "cpu": ", ".join(sorted(models)) or platform.processor(),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def versions(backend: Backend) -> dict[str, str]:
    """Headrace's commit, and what it runs on."""
    (postgres,) = row(backend, "show server_version")
    packages = {name: version(name) for name in _PACKAGES}
    own = {"headrace": _commit(), "Python": platform.python_version()}
    return own | packages | {"Postgres": str(postgres), "Kafka": KAFKA_VERSION}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version("headrace")
    return found.stdout.strip()
