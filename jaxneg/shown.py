"""Small tables, as text for a terminal and as HTML for a notebook."""

import html
from collections.abc import Sequence

Row = Sequence[object]


def text(title: str, rows: Sequence[Row], heads: Row = ()) -> str:
    """A title over aligned columns; the first is words, the others figures."""
    lines = [[cell(one) for one in row] for row in ([heads, *rows] if heads else rows)]
    width = max((len(line) for line in lines), default=0)
    wide = [max(len(line[n]) for line in lines if n < len(line)) for n in range(width)]
    body = [
        "  "
        + "  ".join(
            cell.ljust(wide[n]) if n == 0 else cell.rjust(wide[n]) for n, cell in enumerate(line)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title, *body])


def table(title: str, rows: Sequence[Row], heads: Row = ()) -> str:
    """The same as HTML, without script or style sheet."""

    def line(row: Row, tag: str) -> str:
        align = ' style="text-align: {}"'
        cells = (
            f"<{tag}{align.format('left' if n == 0 else 'right')}>{html.escape(cell(one))}</{tag}>"
            for n, one in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"

    head = f"<thead>{line(heads, 'th')}</thead>" if heads else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{html.escape(title)}</caption>{head}<tbody>{body}</tbody></table>"


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
