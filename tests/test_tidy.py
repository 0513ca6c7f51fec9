"""Keeps the house tidy: what no linter looks at."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import settings_page

ROOT = Path(__file__).parent.parent
ROOMS = {
    "schemas": {"schemas"},
    "gateway": {"gateway", "schemas"},
    "processors": {"processors", "schemas"},
    "deploy": {"deploy", "gateway", "processors", "schemas"},
}
SKIPPED = {".git", ".venv", ".headrace", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__"}
LINES_MAX = 400
# In pieces, so that this file does not hold what it looks for.
REGISTRIES = [
    "py" + "pi.org",
    "python" + "hosted",
    "maven" + ".org",
    "maven" + ".apache",
    "npm" + "js",
    "crates" + ".io",
]
UNFINISHED = re.compile("TO" + "DO|FIX" + "ME|XX" + "X")


def _files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT).parts
        if (
            path.is_file()
            and not SKIPPED.intersection(inside)
            and not any(part.endswith(".egg-info") for part in inside)
        ):
            yield path


def _texts() -> dict[str, str]:
    found = {}
    for path in _files():
        try:
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image
            continue
    return found


TEXTS = _texts()
MODULES = {name: text for name, text in TEXTS.items() if name.endswith(".py")}


def _found(pattern: str, texts: dict[str, str]) -> list[str]:
    return [f"{name}: {match.group()}" for name, text in texts.items() for match in re.finditer(pattern, text)]


def test_no_registry_is_named() -> None:
    assert _found("|".join(map(re.escape, REGISTRIES)), TEXTS) == []


def test_no_path_of_this_machine_is_named() -> None:
    places = [str(place) + "/" for place in (ROOT.parent, Path.home()) if place != Path("/")]
    assert _found("|".join(map(re.escape, places)), TEXTS) == []


def test_nothing_is_left_unfinished() -> None:
    assert _found(UNFINISHED.pattern, MODULES) == []


def test_files_hold_one_idea() -> None:
    assert {name: text.count("\n") for name, text in MODULES.items() if text.count("\n") > LINES_MAX} == {}


def test_every_module_says_what_it_is() -> None:
    assert [name for name, text in MODULES.items() if text and not ast.get_docstring(ast.parse(text))] == []


def _imported(text: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_the_design_allows(room: str) -> None:
    forbidden = (ROOMS.keys() | {"tests"}) - ROOMS[room]
    wrong = {name: _imported(text) & forbidden for name, text in MODULES.items() if name.startswith(f"{room}/")}
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def test_settings_page_tells_what_the_code_does() -> None:
    assert TEXTS["docs/settings.md"] == settings_page.render(), "run make docs"


def test_lock_files_pin_every_package_by_hash() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        entries = re.split(r"\n(?=\S)", TEXTS[name])
        pinned = [entry for entry in entries if not entry.startswith("#")]
        assert len(pinned) > 10
        assert [entry for entry in pinned if "==" not in entry or "--hash=sha256:" not in entry] == [], name
