"""The table of a result: as text for the terminal, as HTML for a notebook, and as a DataFrame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simsiam_eval.errors import UsageError, spelled
from simsiam_eval.wording import Measurement, printable

if TYPE_CHECKING:
    import pandas

_SPREAD = re.compile(r" (\[95 %\]|\(std\))$")  # in a heading: what stands beside the value
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?")
_HTML = """<p>{{ table.title }}</p>
{% if table.rows %}<table>
{% if table.columns | select | list %}<thead><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
{% endif %}<tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% endif %}{% for note in notes %}<p>{{ note }}</p>
{% endfor %}"""


@dataclass(frozen=True)
class Table:
    """A title, column names, rows of text and notes below; notes name options as the command line does.

    A cell may be a `Measurement`: text for people that knows its numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """The table as the terminal shows it, or a file."""
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table as RichTable

        console = Console(highlight=False, emoji=False)
        if not console.is_terminal:
            console.width = 160
        table = RichTable(box=box.SIMPLE_HEAD, show_header=any(self.columns))
        for column in self.columns:
            table.add_column(escape(column), overflow="fold")
        for row in self.rows:
            table.add_row(*(escape(printable(cell)) for cell in row))
        with console.capture() as captured:
            console.print(escape(printable(spelled(self.title), lines=True)))
            if self.rows:
                console.print(table)
            for note in self.notes:
                console.print(escape(printable(spelled(note), lines=True)))
        return captured.get().rstrip("\n")

    def to_html(self) -> str:
        """The table as HTML, escaped."""
        from jinja2 import Environment

        return (
            Environment(autoescape=True)
            .from_string(_HTML)
            .render(table=self, notes=[spelled(note) for note in self.notes])
        )

    def to_frame(self) -> pandas.DataFrame:
        """The table as a DataFrame with numbers where the cells are numbers, measurements or "-" for none (NaN).

        The column "top-1 % [95 %]" of "50.00 [40.00, 60.00]" becomes three: "top-1 %", "top-1 % low" and "top-1 % high",
        with the exact numbers in the unit of the heading.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_frame() requires pandas: `pip install pandas`.") from error
        columns: list[tuple[str, Any]] = []
        for position, name in enumerate(self.columns):
            cells = [row[position] for row in self.rows]
            columns += _measured(name, cells) or [(name, cells)]
        frame = pandas.DataFrame(
            dict(enumerate(cells for _, cells in columns)), index=range(len(self.rows)), dtype=object
        )
        for position in range(frame.shape[1]):
            column = frame.iloc[:, position].replace("-", None)
            numbers = pandas.to_numeric(column, errors="coerce")
            if len(column) and (numbers.notna() == column.notna()).all() and column.notna().any():
                frame.isetitem(position, numbers)
        return frame.set_axis([name for name, _ in columns], axis=1)


def _measured(name: str, cells: Sequence[str]) -> list[tuple[str, list[float | str]]]:
    """The columns of numbers that a column of measurements, other numbers and "-" has; none for another column."""
    measurements = [cell for cell in cells if isinstance(cell, Measurement)]
    plain = [cell for cell in cells if not isinstance(cell, Measurement)]
    if not measurements or not all(cell == "-" or _NUMBER.fullmatch(cell) for cell in plain):
        return []
    parts = dict.fromkeys(part for cell in measurements for part in cell.parts)
    heading = _SPREAD.sub("", name)
    values: list[float | str] = [cell.value if isinstance(cell, Measurement) else cell for cell in cells]
    return [
        (heading, values),
        *(
            (
                f"{heading} {part}",
                [cell.parts.get(part, "-") if isinstance(cell, Measurement) else "-" for cell in cells],
            )
            for part in parts
        ),
    ]
