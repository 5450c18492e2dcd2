"""Tables for people: rows of typed values as text of a given width. Pure functions.

Numbers are aligned right and carry their unit; the one wide column (a query, a reason) takes what width is left, or a
line of its own below the row where too little is.
"""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Sequence

WIDTH_MIN, WIDTH_MAX = 80, 120
WIDE_MIN = 30
GAP = "  "
NOTHING = "-"


def width_of_terminal() -> int:
    """The width to print at: the terminal's, within 80 and 120; 120 when there is none."""
    return max(WIDTH_MIN, min(WIDTH_MAX, shutil.get_terminal_size((WIDTH_MAX, 40)).columns))


def integer(value: Any) -> str:
    """12,345"""
    return f"{round(float(value)):,}"


def milliseconds(value: Any) -> str:
    """Three significant digits in the unit that reads best."""
    ms = float(value)
    if ms < 1:
        return f"{ms:.2f} ms"
    if ms < 100:
        return f"{ms:.1f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f} s"
    return f"{ms / 60_000:.1f} min"


def size(value: Any) -> str:
    """Bytes in the binary unit that reads best, as PostgreSQL names them."""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or abs(amount) >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TB"


def percent(value: Any) -> str:
    """12.3 %"""
    return f"{float(value):.1f} %"


def factor(value: Any) -> str:
    """A speed-up: 3.2x, 140x"""
    return f"{float(value):.1f}x" if float(value) < 10 else f"{float(value):,.0f}x"


def text(value: Any) -> str:
    """Text on one line; arrays as comma-separated lists."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return " ".join(str(value).split())


LEFT: frozenset[Callable[[Any], str]] = frozenset([text])


@dataclass(frozen=True)
class Column:
    """One column: key in the row, heading, how to write a value, and whether it takes the width that is left."""

    key: str
    title: str
    write: Callable[[Any], str] = text
    wide: bool = False
    # Text longer than this is cut; 0: never.
    limit: int = 0

    def cell(self, row: Mapping[str, Any]) -> str:
        """The value as text; what is not known is a dash, never a zero."""
        value = row.get(self.key)
        written = NOTHING if value is None else self.write(value)
        return shorten(written, self.limit) if self.limit else written


def shorten(value: str, limit: int) -> str:
    """At most `limit` characters, with dots for what was cut."""
    return value if len(value) <= limit else value[:max(0, limit - 3)].rstrip() + "..."


def wrapped(value: str, width: int, lines_max: int) -> list[str]:
    """A text in at most `lines_max` lines of `width`; the last one ends in dots when more was cut."""
    lines = textwrap.wrap(value, width, break_on_hyphens=False) or [""]
    if len(lines) > lines_max:
        lines = lines[:lines_max]
        last = lines[-1]
        lines[-1] = (last if len(last) + 4 <= width else last[:width - 4].rstrip()) + " ..."
    return lines


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], width: int, *, lines_max: int = 2,
          empty: str = "nothing") -> list[str]:
    """The lines of a table no wider than `width`."""
    if not rows:
        return [f"  ({empty})"]
    narrow = [column for column in columns if not column.wide]
    wide: Optional[Column] = next((column for column in columns if column.wide), None)
    cells = [[column.cell(row) for column in narrow] for row in rows]
    widths = [max(len(column.title), *(len(line[position]) for line in cells)) for position, column in enumerate(narrow)]
    left = width - sum(widths) - len(GAP) * len(widths)
    beside = wide is not None and left >= WIDE_MIN

    def join(values: Sequence[str], last: str = "") -> str:
        padded = [value.ljust(size_) if column.write in LEFT else value.rjust(size_)
                  for column, value, size_ in zip(narrow, values, widths)]
        return shorten(GAP.join([*padded, last] if last else padded).rstrip(), width)

    heading = join([column.title for column in narrow], wide.title if wide is not None and beside else "")
    lines = [heading, "-" * (width if beside else max(len(heading), 1))]
    for row, values in zip(rows, cells):
        if wide is None:
            lines.append(join(values))
        elif beside:
            first, *more = wrapped(wide.cell(row), left, lines_max)
            lines.append(join(values, first))
            lines += [" " * (width - left) + line for line in more]
        else:
            lines.append(join(values))
            lines += ["    " + line for line in wrapped(wide.cell(row), width - 4, lines_max)]
    return lines


def heading(title: str, width: int) -> list[str]:
    """A section's heading."""
    return ["", f"== {title} " + "=" * max(0, width - len(title) - 4), ""]


def paragraph(value: str, width: int, indent: str = "  ") -> list[str]:
    """Text wrapped to the width."""
    return textwrap.wrap(value, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
