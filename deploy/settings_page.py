"""Writes ``docs/settings.md`` from ``schemas.settings``, so that the page cannot tell anything else than the code."""

import sys
from pathlib import Path

from schemas import settings

_HEAD = """# Settings

Every setting comes from the environment. All mistakes are reported at once, at the start; a name that starts with
`HEADRACE_` and is not listed here is a mistake too. Written by `make docs`.

| name | default | unit | meaning |
|---|---|---|---|
"""


def render() -> str:
    """The page as Markdown."""
    rows = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {unit} | {meaning} |"
        for name, default, unit, meaning in settings.describe()
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
