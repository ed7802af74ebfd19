"""The verbs end to end, as a person or a script calls them."""

import csv
import dataclasses
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import jaxneg
from jaxneg import cli
from jaxneg.config import Config
from jaxneg.data import engine, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.data.readers import READERS
from jaxneg.training import logs, loop

RUN = pathlib.Path("run")
FIGURES = {
    "pair_accuracy",
    "pair_accuracy_low",
    "pair_accuracy_high",
    "auc",
    "ndcg@10",
    "hit_rate@10",
    "mrr_positive",
    "mrr_negative",
    "gini@10",
}


@pytest.fixture
def work(worked, monkeypatch):
    """What the verbs made, as the working directory."""
    monkeypatch.chdir(worked)
    return worked


def strict(text):
    """The one JSON object of a text that holds nothing else. NaN is no JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_prepare_makes_the_store_of_the_log(work, capsys):
    with open("log.csv") as file:
        rows = list(csv.DictReader(file))
    capsys.readouterr()
    cli.main(["inspect", "store", "--json"])
    captured = capsys.readouterr()
    found = strict(captured.out)
    assert captured.err == ""
    metadata = stores.Store.open("store").metadata
    assert metadata.settings["session"] == "given" and metadata.reader == "table"
    assert metadata.counts["users"] == len({row["user"] for row in rows})
    assert metadata.counts["events"] + metadata.dropped["events_of_unseen_items"] == len(rows)
    assert found["counts"] == metadata.counts
    cli.main(["inspect", "store"])
    assert f"{metadata.counts['events']:,}" in capsys.readouterr().out


def test_the_verbs_leave_what_they_were_asked_for(work):
    assert sorted(path.name for path in work.iterdir()) == [
        "config.py",
        "export",
        "log.csv",
        "log.csv.truth.npz",
        "run",
        "store",
    ]


def test_prepare_spills_where_the_store_is_written(work, tmp_path, monkeypatch):
    connect, asked = engine.connect, []
    monkeypatch.setattr(
        engine, "connect", lambda *args, temp_dir, engine: asked.append(temp_dir) or connect(*args)
    )
    cli.main(["prepare", "table", "log.csv", "--out", str(tmp_path / "store"), "--memory-limit", "500MB"])
    [spill] = asked
    assert spill.is_relative_to(tmp_path) and [path.name for path in tmp_path.iterdir()] == ["store"]


def test_training_takes_the_config_and_its_options(work):
    config = json.loads((RUN / "config.json").read_text())
    assert config["model"]["width"] == 8 and config["train"]["log_every"] == 7
    result = json.loads((RUN / "result.json").read_text())
    assert result["stopped"] == "epochs done" and len(result["history"]) == 3
    assert [line["step"] for line in logs.read(RUN) if "loss" in line][:2] == [7, 14]


def test_the_config_may_stand_after_the_options(work, monkeypatch):
    result = json.loads((RUN / "result.json").read_text())
    asked = []
    monkeypatch.setattr(loop, "train", lambda config, workdir, *_: asked.append((config, workdir)) or result)
    cli.main(["train", "--workdir", "new", "--train.epochs", "1", "config.py"])
    cli.main(["train", "config.py", "--train.epochs", "1", "--workdir", "new"])
    [(config, workdir), same] = asked
    assert same == (config, workdir) and workdir == pathlib.Path("new")
    assert config.model.width == 8 and config.train.epochs == 1


@pytest.mark.parametrize(("share", "said"), [(0.8125, True), (0.0, False), (None, False)])
def test_training_tells_of_hard_negatives_that_their_listener_likes(work, monkeypatch, capsys, share, said):
    result = json.loads((RUN / "result.json").read_text()) | {"hard_also_liked": share}
    monkeypatch.setattr(loop, "train", lambda *_: result)
    cli.main(["train", "config.py", "--workdir", "new"])
    assert (
        "81.2% of the hard negatives are songs that their listener likes" in capsys.readouterr().err
    ) == said


def test_training_again_continues(work, capsys):
    before = (RUN / "result.json").read_bytes()
    cli.main("train config.py --workdir run --train.log-every 7".split())
    assert (RUN / "result.json").read_bytes() == before
    said = capsys.readouterr().err
    assert "epochs done after 2 epochs" in said and "not converged: it stopped at its limit" in said
    assert re.search(r"^  of \d+ pairs in \d+ examples of \d+ users$", said, re.MULTILINE)


@pytest.mark.slow
def test_evaluate_prints_one_json_object_and_nothing_else(work, capsys):
    capsys.readouterr()
    cli.main(["evaluate", "run", "--json"])
    captured = capsys.readouterr()
    found = strict(captured.out)
    assert captured.out.count("\n") == 1
    assert FIGURES <= set(found)
    assert all(math.isfinite(found[name]) for name in FIGURES)
    assert found["pair_accuracy_low"] <= found["pair_accuracy"] <= found["pair_accuracy_high"]
    assert found["baselines"] and all(FIGURES <= set(one) for one in found["baselines"].values())
    result = json.loads((RUN / "result.json").read_text())
    # it stopped at its limit
    assert found["epochs_to_convergence"] is result["epochs_to_convergence"] is None
    assert strict((RUN / "report.json").read_text()) == found
    assert (RUN / "report.md").read_text().startswith("#")


@pytest.mark.slow
def test_evaluate_shows_the_report_and_where_it_is(work, capsys):
    cli.main(["evaluate", "--split", "validation", "run"])
    captured = capsys.readouterr()
    assert captured.out.strip() == (RUN / "report.md").read_text().strip()
    assert "run/report.html: all figures" in captured.err and "next: jaxneg export run" in captured.err
    best = json.loads((RUN / "result.json").read_text())["best_score"]
    shown = json.loads((RUN / "report.json").read_text())
    # The same examples as during training; scores of two nearly equal items may round to another order.
    assert shown["split"] == "validation" and abs(shown["pair_accuracy"] - best) < 0.05


@pytest.mark.slow
def test_evaluate_compares_runs_on_the_same_examples(work, tmp_path, capsys):
    for copy in ("a/twin", "a/other", "b/other"):
        shutil.copytree(RUN, tmp_path / copy)
    others = [str(tmp_path / copy) for copy in ("a/twin", "a/other", "b/other")]
    capsys.readouterr()
    cli.main(["evaluate", "run", "--json", "--compare", *others])
    found = strict(capsys.readouterr().out)
    assert list(found["runs"]) == ["twin", *others[1:]]  # by path where the names are the same
    for one in found["runs"].values():
        assert one["pair_accuracy"] == found["pair_accuracy"] and one["difference_auc"] == 0.0
    assert "| run twin |" in (RUN / "report.md").read_text()


def test_recommend_prints_json_or_a_list(work, capsys):
    names = stores.Store.open("store").vocabulary().ids.to_pylist()
    command = ["recommend", "export", "--items", names[3], "none such", names[7]]
    capsys.readouterr()
    cli.main([*command, "--feedback", "play", "skip", "thumb_down", "--k", "5", "--exclude-seen", "--json"])
    captured = capsys.readouterr()
    found = strict(captured.out)
    assert found["unknown"] == ["none such"]
    assert captured.err == "jaxneg: left out of the history, not in the catalogue: none such\n"
    items = [one["item"] for one in found["recommendations"]]
    assert len(items) == 5 and set(items) <= set(names) - {names[3], names[7]}
    assert list(np.argsort([-one["score"] for one in found["recommendations"]], kind="stable")) == list(
        range(5)
    )
    cli.main([*command[:-2], "--k", "3", "--station", "none such"])
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == ["1", "2", "3"]
    assert "station none such was not there in training" in captured.err


def options(*kinds):
    return ["--" + part.name.replace("_", "-") for kind in kinds for part in dataclasses.fields(kind)]


PARTS = [
    f"--{part.name}.{field.name.replace('_', '-')}"
    for part in dataclasses.fields(Config)
    for field in dataclasses.fields(part.default_factory)
]
HELP = {
    "inspect": ["STORE", "--json"],
    "simulate": ["--out FILE", "--users", "--skip-rate", "--seed"],
    "train": ["CONFIG", "--workdir RUN", *PARTS],
    "evaluate": ["RUN", "--split", "--compare OTHER [OTHER ...]", "--json", *PARTS],
    "export": ["RUN", "--out DIR", "--data.store STORE"],
    "recommend": ["DIR", "--items", "--feedback", "--station", "--k INT", "--exclude-seen", "--json"],
    "demo": ["--out DIR"],
} | {
    f"prepare {name}": ["SOURCE", "--out STORE", *options(reader.Options, PrepareConfig)]
    for name, reader in READERS.items()
}


def helped(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    captured = capsys.readouterr()
    assert ended.value.code == 0 and captured.err == ""
    assert not re.search(r"default:[\s│]*None", captured.out)  # it says nothing
    return captured.out


@pytest.mark.parametrize("verb", HELP)
def test_the_long_help_of_a_verb_names_its_options(verb, capsys):
    text = helped(f"{verb} --help-all", capsys)
    assert f"usage: jaxneg {verb} [-h]" in text
    assert [option for option in HELP[verb] if option not in text] == []


@pytest.mark.parametrize("verb", [*HELP, "plan", "sweep", "simulate --ab", "launch"])
def test_help_of_a_verb_fits_a_screen_and_a_half(verb, capsys):
    text = helped(f"{verb} --help", capsys)
    lines = text.splitlines()
    assert lines[0].startswith(f"usage: jaxneg {verb.removesuffix(' --ab')} [-h]")
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    needed = [option for option in HELP.get(verb, ()) if not option.startswith("--")]
    assert all(re.search(rf"^  {option} ", text, re.M) for option in needed)


def test_help_says_how_many_options_it_leaves_to_the_long_one(capsys):
    text, whole = (helped(f"train --help{end}", capsys) for end in ("", "-all"))
    [left] = re.findall(r"jaxneg train --help-all lists (\d+) more options\.", text)
    there = len(re.findall(r"^  (?:--|CONFIG)", text, re.M))
    assert there + int(left) == len(PARTS) + len(
        "CONFIG workdir log cluster coordinator processes process".split()
    )
    assert "--train.log-every" in whole and "--train.log-every" not in text


def test_export_knows_the_options_that_change_what_it_does(capsys):
    assert "--data.store" in helped("export --help-all", capsys)
    assert "--model.width" not in helped("export --help-all", capsys)


def test_help_of_prepare_lists_the_readers(capsys):
    for args in (["prepare"], ["prepare", "--help"]):
        cli.main(args)
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in READERS)


def test_help_names_every_verb(capsys):
    for args in ([], ["--help"], ["help"]):
        cli.main(args)
        text = capsys.readouterr().out
        assert all(f"\n  {verb} " in text for verb in cli.VERBS)
    cli.main(["--version"])
    assert capsys.readouterr().out == f"{jaxneg.__version__}\n"


def test_help_of_a_run_shows_its_values(work, capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "run", "--help-all"])
    assert "(default: 7)" in capsys.readouterr().out  # --train.log-every


def test_the_shell_sees_the_exit_codes():
    def code(*args):
        done = subprocess.run(
            [sys.executable, "-m", "jaxneg", *args], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    assert code("--version") == (0, "")
    number, said = code("trian")
    assert number == 2 and said.startswith("jaxneg: no verb 'trian': use one of prepare, ")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("train", "usage: jaxneg train CONFIG --workdir RUN"),
        ("evaluate", "usage: jaxneg evaluate RUN"),
        ("prepare table", "usage: jaxneg prepare table SOURCE --out STORE"),
        ("recommend", "usage: jaxneg recommend DIR --items ID [ID ...] | --users LOG"),
        ("recommend here", "recommend needs either --items, a history, or --users, a log"),
        ("train --workdr new c.py", "no option --workdr; perhaps you meant --workdir"),
        ("export run --dat.store x", "no option --dat.store; perhaps you meant --data.store"),
        ("inspect store extra", "nothing takes extra"),
    ],
)
def test_what_a_call_lacks_is_said_as_usage_and_what_is_misspelt_with_what_was_meant(call, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(call.split())
    verb = " ".join(call.split()[: 2 if call.startswith("prepare") else 1])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"jaxneg: {said}; jaxneg {verb} --help lists the options\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("trian", "perhaps you meant train"),
        ("swep", "perhaps you meant sweep"),
        ("prepare tabel", "perhaps you meant table"),
    ],
)
def test_a_verb_or_a_reader_is_guessed(call, said, capsys):
    with pytest.raises(SystemExit):
        cli.main(call.split())
    assert capsys.readouterr().err.endswith(f"; {said}\n")


def test_unknown_options_leave_out_their_values(capsys):
    with pytest.raises(SystemExit):
        cli.main("train configs/x.py --workdir new --data.phard 0.3 --model.wdth=4".split())
    assert capsys.readouterr().err.startswith("jaxneg: no config file configs/x.py")
    with pytest.raises(SystemExit):
        cli.main("train --workdir new --data.phard 0.3 --model.wdth=4 c.py".split())
    assert "no option --data.phard, --model.wdth; perhaps you meant" in capsys.readouterr().err
