"""The documentation says what the code does: generated pages, tables, links of the navigation, code, doctests."""

import doctest
import pathlib
import re
import tomllib

import pytest

from jaxneg.data import readers
from jaxneg.metrics import exposure, intervals, ranking, separation
from jaxneg.training import losses

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("module", "least"), [(losses, 11), (separation, 5), (ranking, 9), (exposure, 3), (intervals, 2)]
)
def test_examples_in_docstrings_hold(module, least):
    found = doctest.testmod(module)
    assert found.attempted >= least
    assert found.failed == 0


def test_the_page_of_options_is_what_the_script_gives(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import options_page

    page = (DOCS / "reference" / "options.md").read_text()
    assert page == options_page.page(), "run: make options"
    # A sample that does not come from the same parser.
    assert re.search(r"\| `--data\.p-hard` \| `FLOAT` \| `0\.5` \| share of negatives", page)
    assert re.search(r"\| `SOURCE` \|  \| required \|", page)
    assert not [line for line in page.splitlines() if line.endswith("|  |")], "an option without a help"


def test_every_page_is_in_the_navigation_and_every_entry_has_a_page():
    def pages(entry):
        if isinstance(entry, str):
            return {entry}
        parts = entry.values() if isinstance(entry, dict) else entry
        return set().union(*map(pages, parts))

    named = pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "measured" not in path.parts}
    assert named == there


def test_the_table_of_readers_has_each_with_its_defaults():
    lines = (DOCS / "data" / "readers.md").read_text().splitlines()
    rows = {cells[0]: cells for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines)}
    for name, reader in readers.READERS.items():
        *_, polarity, session, split = _first_row(lines, name)
        assert polarity == f"`{reader.preset}`"
        assert session == (f"`{reader.session}`" if reader.session else "by the log")
        assert split == f"`{reader.split}`"
    assert {f"`{name}`" for name in readers.READERS} <= set(rows)


def _first_row(lines, name):
    line = next(line for line in lines if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def blocks(page):
    return re.findall(r"^```python[^\n]*\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_code_of_the_pages_compiles():
    found = [(page, code) for page in DOCS.rglob("*.md") for code in blocks(page.relative_to(DOCS))]
    assert len(found) > 5
    for page, code in found:
        compile(code, str(page), "exec")


def test_the_experiments_of_the_pages_are_configs():
    from jaxneg import config as configs

    for page in ("guide/researcher.md", "data/own_log.md"):
        [code] = [code for code in blocks(page) if "get_config" in code]
        space = {}
        exec(code, space)
        configs.check(space["get_config"]())


def test_paths_that_pages_name_are_there():
    for page in DOCS.rglob("*.md"):
        if "measured" not in page.parts:
            for path in re.findall(
                r"`((?:jaxneg|configs|benchmarks|launch|tests|tools)/[\w/.]*)[`\s]", page.read_text()
            ):
                assert (ROOT / path).exists(), f"{page.name} names {path}"
