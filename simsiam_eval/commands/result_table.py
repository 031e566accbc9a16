"""The table of a result: as text for the terminal, as HTML for a notebook, and as a DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simsiam_eval.errors import UsageError

if TYPE_CHECKING:
    import pandas

_HTML = """<p>{{ table.title }}</p>
{% if table.rows %}<table>
{% if table.columns | select | list %}<thead><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
{% endif %}<tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% endif %}{% for note in table.notes %}<p>{{ note }}</p>
{% endfor %}"""


@dataclass(frozen=True)
class Table:
    """A title, column names, rows of text and notes below."""

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
            table.add_row(*map(escape, row))
        with console.capture() as captured:
            console.print(escape(self.title))
            if self.rows:
                console.print(table)
            for note in self.notes:
                console.print(escape(note))
        return captured.get().rstrip("\n")

    def to_html(self) -> str:
        """The table as HTML, escaped."""
        from jinja2 import Environment

        return Environment(autoescape=True).from_string(_HTML).render(table=self)

    def to_frame(self) -> pandas.DataFrame:
        """The table as a DataFrame; a column whose cells are all numbers, or "-" for none, holds floats or integers.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_frame() requires pandas: `pip install pandas`.") from error
        frame = pandas.DataFrame([list(row) for row in self.rows], columns=list(self.columns), dtype=object)
        for position in range(frame.shape[1]):
            column = frame.iloc[:, position].replace("-", None)
            numbers = pandas.to_numeric(column, errors="coerce")
            if len(column) and (numbers.notna() == column.notna()).all() and column.notna().any():
                frame.isetitem(position, numbers)
        return frame
