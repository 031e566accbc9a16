"""The page as one HTML file: template, style, script, chart library and data, with nothing to load from elsewhere."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.strict_json import strict_json
from simsiam_eval.plots.pages import page_template
from simsiam_eval.wording import printable
from tasks.report.content import Content


def write_page(path: Path, content: Content) -> int:
    """Write the page; returns its size in bytes.

    Raises:
        DataError: it cannot be written.
    """
    from plotly.offline import get_plotlyjs

    folder = files("tasks.report") / "page"
    text = page_template("tasks.report", "report.html").render(
        content=content,
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        data=embedded(_data(content)),
    )
    encoded = text.encode("utf-8", "backslashreplace")
    with atomic_write(path) as file:
        file.write(encoded)
    return len(encoded)


def embedded(value: Any) -> str:
    """JSON that can stand inside of a script element: no name in it can end the element or begin a comment."""
    text = strict_json(value)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(content: Content) -> dict[str, Any]:
    return {
        "images": content.data,
        "figures": {name: json.loads(figure.to_json()) for name, figure in content.figures.items()},
        "confused": content.confused,
        "suspects": {
            suspects.key: [[list(row.numbers), round(row.score, 6), printable(row.reason)] for row in suspects.rows]
            for suspects in content.suspects
        },
    }
