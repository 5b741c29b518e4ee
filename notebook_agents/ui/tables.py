"""Lists that show themselves as tables: as text in a terminal, as HTML in a notebook."""

from __future__ import annotations

from html import escape
from typing import ClassVar, TypeVar

T = TypeVar("T")


class Table(list[T]):
    """A list with a row for each of its first items.

    Attributes:
        heads: The columns' names.
        empty: What is shown where there is no item.
        rest: What is said of the others.
    """

    most: ClassVar[int] = 20
    heads: ClassVar[tuple[str, ...]] = ()
    empty: ClassVar[str] = ""
    rest: ClassVar[str] = ""

    def row(self, one: T) -> tuple[str, ...]:
        """Return what the columns say of an item."""
        raise NotImplementedError

    def __repr__(self) -> str:
        rows = [self.heads, *map(self.row, self[: self.most])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *self._others()]) if self else self.empty

    def _repr_html_(self) -> str:
        if not self:
            return f"<p>{escape(self.empty)}</p>"
        heads = "".join(f"<th>{escape(name)}</th>" for name in self.heads)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in self.row(one))}</tr>"
            for one in self[: self.most]
        )
        rest = "".join(f"<p>{escape(line)}</p>" for line in self._others())
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{rest}"

    def _others(self) -> list[str]:
        more = len(self) - self.most
        return [f"and {more} older: {self.rest}"] if more > 0 else []
