"""``jaxneg runs`` on a terminal, and where it is piped."""

import io
import json

import pytest
from rich.console import Console

from jaxneg import cli
from jaxneg.cli import runs
from jaxneg.training import records


def summary(name, score, **settings):
    base = {"train.monitor": "auc", "data.p_hard": 0.5, "data.seed": 0}
    line = {"epoch": 3.0, "auc": score, "pair_accuracy": 1 - score, "pairs": 1234, "examples": 2000}
    return records.Summary(
        records.pathlib.Path(name), "ended", settings=base | settings, epochs=4.0, history=(line,)
    )


FEW = [
    summary("runs/[red]a", 0.75, **{"data.p_hard": 1.0}),
    summary("runs/" + "long" * 30, 0.7125, **{"data.seed": 1}),
]
MANY = [
    summary(f"runs/{n}", 0.7, **{f"model.setting_{k}": 10**n for k in range(8)}, **{"loss.name": f"loss{n}"})
    for n in range(3)
]


@pytest.mark.parametrize("width", [200, 80, 60, 40])
@pytest.mark.parametrize("found", [FEW, MANY])
def test_no_line_is_wider_than_the_terminal_and_every_figure_stays_whole(found, width, capsys):
    out = io.StringIO()
    runs.show(found, "", Console(file=out, width=width, force_terminal=False))
    text = out.getvalue() + capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    for one in found:
        assert f"{one.best['auc']:.4g}" in text
    rows = [line for line in text.splitlines() if line.split()[-1] == "ended"]
    assert len(rows) == len(found)


def test_a_name_is_no_markup(capsys):
    out = io.StringIO()
    runs.show(FEW, "", Console(file=out, width=100))
    assert "[red]a" in out.getvalue()


def test_piped_it_is_a_table_for_programs(worked, monkeypatch, capsys):
    monkeypatch.chdir(worked)
    cli.main(["runs", ".", "--figure", "auc"])
    head, row = capsys.readouterr().out.splitlines()
    values = dict(zip(head.split("\t"), row.split("\t"), strict=True))
    result = json.loads((worked / "run" / "result.json").read_text())
    best = next(line for line in result["history"] if line["step"] == result["best_step"])
    assert int(values["at epoch"]) == best["epoch"] and int(values["epochs"]) == 2
    assert values["run"] == "run" and float(values["best"]) == best["auc"] and values["figure"] == "auc"
    assert float(values["last"]) == result["history"][-1]["auc"] and int(values["n"]) == best["pairs"]
    cli.main(["runs", "--json"])
    [one] = json.loads(capsys.readouterr().out)
    assert one["state"] == "ended" and one["settings"]["model.width"] == 8
    assert one["best"]["pair_accuracy"] == result["best_score"]


def test_a_figure_that_no_validation_has_is_named_with_those_there_are(worked, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["runs", str(worked), "--figure", "acu"])
    assert caught.value.code == 2
    assert "choose among auc, pair_accuracy, user_pair_accuracy" in capsys.readouterr().err
