"""Templates of HTML pages, filled by Jinja2."""

from __future__ import annotations

from typing import Any


def page_template(package: str, name: str) -> Any:
    """The template `name` in the folder `page` of a package; values are escaped, and a missing one is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from simsiam_eval.wording import printable

    environment = Environment(
        loader=PackageLoader(package, "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["printable"] = printable
    return environment.get_template(name)
