"""Tables on the command line: what is shown is data, never markup, and nothing is cut where it cannot be seen
whole in another way."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_UNCUT = 10_000
"""Columns of an output that is no terminal: more than any table needs."""


def console() -> Console:
    """Standard output; into a file or pipe as wide as its lines, since a word that is cut there cannot be
    searched."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(width=_UNCUT, highlight=False)


def print_table(table: Table) -> None:
    """Print a table to standard output."""
    console().print(table)


def add_row(table: Table, *cells: object) -> None:
    """Add a row whose cells stand there as they are: a name may hold brackets."""
    table.add_row(*(escape(str(cell)) for cell in cells))
