"""Reports as pages: tables of Markdown, and the same page as one HTML file with its pictures inside."""

import base64
import html as escaping
import pathlib
from collections.abc import Mapping, Sequence

NO_PLOTS = "no plots: matplotlib is not installed (pip install 'jaxneg[plots]')"

STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --head: #f3f5f7; --text: #1f2328; --page: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --line: #3d444d; --head: #1c2128; --text: #e6e6e6; --page: #101418; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif;
       color: var(--text); background: var(--page); }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .65rem; border: 1px solid var(--line); white-space: nowrap; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { background: var(--head); } img { max-width: 100%; height: auto; background: #ffffff; }
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table of Markdown, its first column to the left, the others to the right if they are of numbers."""
    lines = [["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(_cell(one) for one in line) + " |" for line in [head, *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def image(title: str, path: str) -> str:
    """A picture beside the page."""
    return f"![{title.replace('[', '(').replace(']', ')')}]({path})"


def html(text: str, title: str, pictures: Mapping[str, pathlib.Path]) -> str:
    """A page of Markdown as one HTML file that needs no other.

    Args:
      text: the page.
      title: of the window.
      pictures: where each picture is that the page shows, by the path that it shows it by.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    for path, file in pictures.items():
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        body = body.replace(f'src="{path}"', f'src="data:image/png;base64,{data}"')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaping.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
