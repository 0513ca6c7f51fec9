"""Text for people: columns of fixed width, and nothing that a terminal would take as a command."""

import unicodedata
from collections.abc import Sequence

WIDTH = 120
_GAP = "  "


def row(cells: Sequence[object], widths: Sequence[int]) -> str:
    """One line of a table; None is an empty cell, what is too long for its column ends in "…"."""
    return _GAP.join(fit(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def fit(cell: object, width: int) -> str:
    """The cell's text in exactly `width` columns of a terminal."""
    text = plain("" if cell is None else str(cell))
    if columns(text) > width:
        while columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - columns(text))


def columns(text: str) -> int:
    """How many columns a terminal needs for `text`: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def plain(text: str) -> str:
    """The text with every character that does not print, such as those that steer a terminal, spelled out."""
    if text.isprintable():
        return text
    return "".join(found if found.isprintable() else ascii(found)[1:-1] for found in text)
