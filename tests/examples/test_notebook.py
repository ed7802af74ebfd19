"""The notebook runs from its first cell to its last, and its plot says what its runs did."""

import ast
import json
import pathlib

import pytest

from jaxneg.config import parts
from jaxneg.embeddings import sharding

NOTEBOOK = pathlib.Path(__file__).parents[2] / "examples" / "frame_to_plot.ipynb"


def cells(kind):
    notebook = json.loads(NOTEBOOK.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def run(source, space):
    """What a cell shows: the value of its last line, where that is an expression."""
    *lines, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        exec(compile(source, "cell", "exec"), space)
        return None
    exec(compile(ast.Module(lines, []), "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space)


def test_no_outputs_are_committed():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells("code"))


@pytest.mark.slow
def test_true_negatives_reach_the_target_first(monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(
        sharding, "make_mesh", lambda devices=0, shards=1: make_mesh(1)
    )  # as who reads it has
    space, shown = {"__name__": "__notebook__"}, []
    *sources, last = ["".join(cell["source"]) for cell in cells("code")]
    try:
        for source in sources:
            shown.append(run(source, space))
        histories = {p: found.result["history"] for p, found in space["runs"].items()}
        target = max(line["auc"] for line in histories[0.0])
        first = {
            p: min(li["epoch"] for li in history if li["auc"] >= target) for p, history in histories.items()
        }
        assert space["reached"] == first and first[1.0] < first[0.0]
        [axes] = space["figure"].axes
        assert (
            f"epoch {first[1.0]:g} with true negatives, at epoch {first[0.0]:g} with random"
            in axes.get_title()
        )
        assert {text.get_text() for text in axes.get_legend().get_texts()} == {"p_hard 0", "p_hard 1"}
        tables = [text for value in shown if (text := getattr(value, "_repr_html_", str)())]
        assert len(tables) >= 3 and all("<table>" in text for text in tables)
    finally:
        run(last, space)
        parts.LOSSES.pop("focal", None)
