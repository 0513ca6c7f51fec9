"""Arrays as Postgres reads them, written at once: psycopg's own way looks at each item again and again."""

from collections.abc import Sequence


def text_array(texts: Sequence[str | None]) -> str:
    """An array of texts, which hold no NUL, as Postgres' own do; None: NULL."""
    if not texts:
        return "{}"
    if None in texts:
        return "{" + ",".join(["NULL" if text is None else f'"{_escaped(text)}"' for text in texts]) + "}"
    # No text holds what stands between them here, so all are escaped in one go.
    joined = _escaped("\0".join(texts))  # type: ignore[arg-type]  # None was asked for above
    return '{"' + joined.replace("\0", '","') + '"}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
