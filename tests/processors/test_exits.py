"""Each way in which a worker can end has a code of its own, one clear line, and a test that gets there."""

import re
import subprocess
import sys
from pathlib import Path

from processors import exits

CODES = {name: code for name, code in vars(exits).items() if name.isupper() and isinstance(code, int)}
TESTS = Path(__file__).parent.parent

_CRASH = """
from processors.app import create_app
from schemas.settings import Settings
create_app(Settings(), lambda _: None)._crash(RuntimeError('a thread is gone'))
"""


def test_a_part_that_dies_ends_the_worker() -> None:
    done = subprocess.run([sys.executable, "-c", _CRASH], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == exits.CRASHED
    lines = [line for line in done.stderr.splitlines() if "worker ends" in line]
    assert lines == ["worker ends with code 76: a part of the worker died: RuntimeError('a thread is gone')"]


def test_codes_are_distinct_and_mean_something_to_a_supervisor() -> None:
    assert len(set(CODES.values())) == len(CODES) == 7
    assert all(64 < code < 79 for code in CODES.values())  # those of sysexits.h: no shell and no signal uses them


def test_each_code_is_reached_by_a_test() -> None:
    texts = [path.read_text() for path in TESTS.rglob("test_*.py")]
    reached = set(re.findall(r"(?:==|in|,|\{0,) exits\.([A-Z]+)", " ".join(texts)))
    assert reached == CODES.keys()
