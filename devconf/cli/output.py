"""What the commands print: tables for people, JSON for scripts, and progress.

The result goes to the standard output; notes and progress go to the standard error. Rich, which takes a while to load,
is used at a terminal only.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from attrs import frozen

Progress = Callable[[int, int], None]
#: A heading, and the field of an item that stands below it.
Column = tuple[str, str]


@frozen
class Output:
    """Where a command prints.

    :ivar as_json: for a script: one JSON document on the standard output, and nothing else there.
    """

    as_json: bool = False

    def document(self, value: Any) -> None:
        """Print ``value`` as JSON; on a terminal in lines."""
        click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))

    def result(self, value: Any, text: str) -> None:
        """Print what was done: as a sentence, or for a script ``value``."""
        if self.as_json:
            self.document(value)
        else:
            click.echo(text)

    def items(self, items: Sequence[Mapping[str, Any]], columns: Sequence[Column], nothing: str = "none") -> None:
        """Print a list, as a table.

        :param nothing: noted if there are no items.
        """
        if self.as_json:
            self.document(items)
        elif items:
            table([heading for heading, _ in columns], [[shown(item.get(key)) for _, key in columns] for item in items])
        else:
            self.note(nothing)

    def item(self, item: Mapping[str, Any]) -> None:
        """Print all that is known of one thing, a line for each field."""
        if self.as_json:
            self.document(item)
        else:
            table([], [[name, shown(value)] for name, value in item.items()])

    def note(self, text: str) -> None:
        """Print a remark, beside the result."""
        click.echo(printable(text), err=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Show how far something is, on a terminal: what is given takes how much is done, and of how much."""
        if not sys.stderr.isatty():
            yield _untold
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        # No thread that refreshes: it would paint while the reactor runs.
        with Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        ) as bars:
            task = bars.add_task(what, total=None)

            def tell(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total, refresh=True)

            yield tell


def _untold(_done: int, _total: int) -> None:
    """Nobody is looking."""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; without ``headings``, pairs of a name and its value."""
    if not sys.stdout.isatty():
        click.echo("\n".join(aligned([headings, *rows] if headings else rows)))
        return
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD if headings else None, show_header=bool(headings), pad_edge=False)
    for number, heading in enumerate(headings or ("", "")):
        # Ids stay whole, so that they can be copied.
        made.add_column(heading, no_wrap=not any(" " in row[number] for row in rows), overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    console = Console()
    # Where there is no room for them, the terminal wraps the line.
    least = Measurement.get(console, console.options.update(max_width=10_000), made).minimum
    Console(width=max(console.width, least)).print(made)


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return ``rows`` as lines with their cells below each other, in the width that a terminal gives each letter."""
    rows = list(rows)
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def width(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes: a Chinese letter takes two, an accent none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shown(value: Any) -> str:
    """Return ``value`` as it stands in a table."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return printable(", ".join(value))
    if isinstance(value, dict | list):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))


def short(command: str) -> str:
    """Return ``command`` without the path that all have: ``get tasks``."""
    return command.replace("/wsapi/v1/devconf_fx/", "")


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: devices choose their names, and what they answer."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
