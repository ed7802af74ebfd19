"""What users get wrong: one clear line on standard error, exit code 2, and nothing half-written left."""

# The table reads best with a row a line.
# ruff: noqa: E501

import errno
import gzip
import json
import os
import pathlib
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxneg import cli
from jaxneg.data import stores
from jaxneg.files import documents
from jaxneg.training import runs
from tests.marks import rest_slow

HEADER = "user,time,item,feedback,session\n"
LOG = HEADER + "".join(
    f"u{event % 5},{1_700_000_000 + 60 * event},i{event * 7 % 11},{'skip' if event % 3 else 'play'},s{event // 20}\n"
    for event in range(200)
)


@pytest.fixture
def here(worked, tmp_path, monkeypatch):
    """A copy of what the verbs made, and a log written by hand, as the working directory."""
    shutil.copytree(worked, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    pathlib.Path("log.csv").write_text(LOG)


def listing():
    """Every file below the working directory with its content."""
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in sorted(pathlib.Path().rglob("*"))
    }


def refused(command, capsys):
    """The one line that a command is refused with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split() if isinstance(command, str) else command)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    lines = captured.err.splitlines()
    # progress
    lines = [line for line in lines if not line.startswith(("prepare:", "train ", "evaluate", "simulate "))]
    assert len(lines) == 1 and lines[0].startswith("jaxneg: "), captured.err
    return lines[0]


def write(name, text):
    return lambda: pathlib.Path(name).write_text(text)


def rows(*lines):
    """Writes bad.csv of these events, after some that are in order."""
    return write("bad.csv", HEADER + "\n".join(["u0,1700000000,i0,play,s0", *lines]) + "\n")


def parquet(**columns):
    return lambda: pq.write_table(pa.table(columns), "bad.parquet")


def half(name):
    """Keeps the first half of a file."""

    def cut():
        content = pathlib.Path(name).read_bytes()
        pathlib.Path(name).write_bytes(content[: len(content) // 2])

    return cut


def half_gzip():
    content = gzip.compress(LOG.encode())
    pathlib.Path("bad.csv.gz").write_bytes(content[: len(content) // 2])


def half_parquet():
    pq.write_table(pa.table({"user": ["u"], "item": ["i"], "time": [1], "feedback": ["play"]}), "bad.parquet")
    half("bad.parquet")()


def edit_json(name, **values):
    def edit():
        path = pathlib.Path(name)
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def without(name, outer, inner):
    """Takes a value out of a document and makes its checksum anew, as another program would."""

    def edit():
        path = pathlib.Path(name)
        values = json.loads(path.read_text())
        del values[documents.SEAL], values[outer][inner]
        path.write_text(json.dumps(documents.sealed(values)))

    return edit


def remove(name):
    return lambda: pathlib.Path(name).unlink()


def in_its_place(name, *, folder=True):
    """Puts a directory where a file is, or is to be; or a file where a directory is."""

    def put():
        path = pathlib.Path(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.mkdir() if folder else path.touch()

    return put


def half_checkpoint():
    for path in pathlib.Path("run/checkpoints").rglob("*"):
        if path.is_file():
            half(path)()


def nothing():
    pass


BAD = "prepare table bad.csv --out new"
TRAIN = "train config.py --workdir new"
PREPARE = "prepare table log.csv --out new"

# what is wrong: how it comes about, the command, what the line says
MISTAKES = {
    # the call
    "no such verb": (nothing, "trian", "no verb 'trian': use one of prepare, inspect"),
    "no such reader": (nothing, "prepare tabel log.csv --out new", "no reader 'tabel': use one of table, spotify"),
    "option misspelt": (nothing, f"{PREPARE} --min-user-event 3", "--min-user-event.* perhaps you meant --min-user-events"),
    "option of another verb": (nothing, f"{PREPARE} --epochs 3", "--epochs.*jaxneg prepare table --help lists"),
    "option without value": (nothing, f"{PREPARE} --test-share", "Missing value for argument '--test-share'"),
    "option of the wrong type": (nothing, f"{TRAIN} --data.length ten", "--data.length.*ten"),
    "option that is no choice": (nothing, f"{TRAIN} --model.norm mid", "invalid choice 'mid' for argument '--model.norm'.*pre.*post"),
    "option out of range": (nothing, f"{TRAIN} --data.p-hard 1.5", r"--data.p-hard must be in \[0, 1\], got 1.5"),
    "options that clash": (nothing, f"{TRAIN} --model.heads 3", "--model.heads must be a divisor of the width 8, got 3"),
    "more devices than there are": (nothing, f"{TRAIN} --train.devices 99", "--train.devices 99, but JAX finds"),
    "no --out": (nothing, "prepare table log.csv", "--out.*required|required.*--out"),
    "no such split": (nothing, f"{PREPARE} --split random", r"invalid choice 'random' for argument '--split'. Expected one of \((?!.*None).*leave-last"),
    "a split needs no date": (nothing, f"{PREPARE} --split tail --test-from 2023-11-14", "--test-from needs --split time"),
    "no date": (nothing, f"{PREPARE} --test-from 14/11/2023", "--test-from must be a date such as 2024-02-01"),
    "date after the log": (nothing, f"{PREPARE} --test-from 2031-01-01", "no event is left for the test.*the log runs from"),
    "date before the log": (nothing, f"{PREPARE} --test-from 2001-01-01", "no event is left for training.*later --test-from"),
    "share too large": (nothing, f"{PREPARE} --split tail --test-share 1.2", "--test-share must be above 0 and below 1, got 1.2"),
    "no such polarity": (nothing, f"{PREPARE} --polarity kind", "--polarity kind is unknown: choose one of default"),
    "no such feedback kind": (nothing, f"{PREPARE} --positive liked", "--positive liked is no feedback kind"),
    "no memory limit": (nothing, f"{PREPARE} --memory-limit lots", "--memory-limit must be a size.*got lots"),
    # the log
    "no such log": (nothing, "prepare table none.csv --out new", "no such file or directory: none.csv"),
    "log of an unknown format": (write("log.xlsx", "PK"), "prepare table log.xlsx --out new", "kind of file not known by its name"),
    "log of another reader": (nothing, "prepare spotify log.csv --out new", "log.csv"),
    "directory of another reader": (nothing, "prepare kuairand run --out new", "run/raw_ids/attribute_0.parquet: columns user_id"),
    "column missing": (write("bad.csv", "user,time,feedback\nu,1,play\n"), BAD, "column item missing; it has user, time, feedback"),
    "column renamed wrongly": (nothing, f"{PREPARE} --user listener", "column listener missing; it has user, time, item"),
    "no feedback": (write("bad.csv", "user,time,item\nu,1,i\n"), BAD, "no column feedback and no column played"),
    "time that is no time": (rows("u1,yesterday,i1,play,s1"), BAD, "time.*'yesterday'"),
    "time of the wrong type": (
        parquet(user=["u"], item=["i"], time=pa.array([[1]]), feedback=["play"]),
        "prepare table bad.parquet --out new", "time",
    ),
    "feedback that is no kind": (rows("u1,1700000060,i1,liked,s1"), BAD, "column feedback holds 'liked'.*use thumb_up, play"),
    "feedback map that is none": (nothing, f"{PREPARE} --values 1:play", "--values '1:play'"),
    "user missing": (rows(",1700000060,i1,play,s1"), BAD, "column user has no value in 1 of 2 rows"),
    "row cut off": (write("bad.csv", LOG + "u1,17000"), BAD, "bad.csv, line 202"),
    "log without events": (write("bad.csv", HEADER), BAD, "the log is empty"),
    "file without bytes": (write("bad.csv", ""), BAD, "bad.csv is empty"),
    "users of one event": (
        rows(*(f"u{user},17000{user:05},i1,play,s{user}" for user in range(1, 9))), BAD, "no event is left: of 9, .* lower them",
    ),
    "nothing liked": (write("bad.csv", LOG.replace("play", "skip")), BAD, "no positive event to train on"),
    "no session ids": (nothing, f"{PREPARE} --session-id item --session station", "--session station needs stations"),
    "half a parquet": (half_parquet, "prepare table bad.parquet --out new", "bad.parquet.*half-written"),
    "half a gzip": (half_gzip, "prepare table bad.csv.gz --out new", "bad.csv.gz: its gzip stream is cut off"),
    "not text": (lambda: pathlib.Path("bad.csv").write_bytes(HEADER.encode() + b"u,1,\xff\xfe,play,s\n"), BAD, "bad.csv.*(UTF-8|utf-8)"),
    "encoding of bytes": (nothing, f"{PREPARE} --encoding hex", "--encoding 'hex' is unknown"),
    "encoding of letters": (nothing, f"{PREPARE} --encoding rot13", "--encoding 'rot13' is unknown"),
    "way through what is not there": (nothing, "prepare table log.csv --out none/../new", "--out none/../new leads through none"),
    "out that is no text": (nothing, ["prepare", "table", "log.csv", "--out", "new\udcff"], "must be a path in UTF-8"),
    # the store
    "a store over something else": (nothing, "prepare table log.csv --out run", "run exists and is no jaxneg store, so it stays"),
    "a store over a file": (nothing, "prepare table log.csv --out config.py", "config.py exists and is no jaxneg store"),
    "no such store": (nothing, f"{TRAIN} --data.store none", r"no store at none \(.*none\): config.py or --data.store says so: give its place with --data.store, or write"),
    "a sweep without its store": (nothing, "sweep config.py --workdir new --set data.p-hard=0 --data.store none", "no store at none .*: config.py or --data.store"),
    "a run whose store is gone": (lambda: shutil.rmtree("store"), "evaluate run", r"no store at store \(.*store\): run run was trained on it: give its place with --data.store"),
    "an export of a run whose store is gone": (lambda: shutil.rmtree("store"), "export run --out new", "no store at store .*: run run was trained on it"),
    "no store": (nothing, "inspect run", "run is no jaxneg store"),
    "store of another version": (edit_json("store/metadata.json", version=99), TRAIN, "store store is of format version 99"),
    "store that says too little": (without("store/metadata.json", "settings", "session"), "inspect store --verify", "settings.session is missing"),
    "store cut short": (half("store/event_item.npy"), TRAIN, "store store is damaged: event_item.npy has .* bytes"),
    "store that lacks a file": (remove("store/items.parquet"), "inspect store", "damaged: items.parquet is missing"),
    "half-written metadata": (half("store/metadata.json"), "inspect store", "is no jaxneg store, or a half-written one"),
    # the config and the run
    "no such config": (nothing, "train none.py --workdir new", "no config file none.py"),
    "config that is no Python": (write("bad.py", "def get_config(:"), "train bad.py --workdir new", "bad.py could not be loaded: SyntaxError"),
    "config without get_config": (write("bad.py", "x = 1"), "train bad.py --workdir new", "bad.py could not be loaded: .*get_config"),
    "config that fails": (
        write("bad.py", "from jaxneg.config import *\ndef get_config():\n    return DataConfig(lenght=3)"),
        "train bad.py --workdir new", "bad.py could not be loaded: TypeError: .*lenght",
    ),
    "config of another kind": (write("bad.py", "def get_config():\n    return {}"), "train bad.py --workdir new", "got dict"),
    "config that is a log": (nothing, "train log.csv --workdir new", "log.csv is not a Python file"),
    "a run over something else": (nothing, "train config.py --workdir store", "store exists and is no run directory"),
    "run of another experiment": (nothing, "train config.py --workdir run --model.width 16", "another experiment .model.width: 8 -> 16"),
    "run without config": (nothing, "evaluate store", "store is no run directory"),
    "no such run": (nothing, "export none --out new", "none is no run directory"),
    "run of another jaxneg": (edit_json("run/config.json", model={"depth": 3}), "evaluate run", "not a config that this version saved"),
    "evaluate before training ended": (remove("run/result.json"), "evaluate run", "run run has not ended: continue it"),
    "another model than was trained": (nothing, "evaluate run --model.width 16", "was trained otherwise .model.width: 8 -> 16"),
    "store of another catalogue": (
        lambda: cli.main(PREPARE.split()), "evaluate run --data.store new", "new has another catalogue than run run",
    ),
    "checkpoint gone": (lambda: shutil.rmtree("run/checkpoints"), "export run --out new", "checkpoint .* of run is missing"),
    "checkpoint cut short": (half_checkpoint, "export run --out new", "checkpoint .* of run cannot be read, it is damaged: .*: train again in a new --workdir"),
    # documents of a run
    "result without a step": (write("run/result.json", '{"monitor": "pair_accuracy"}'), "evaluate run", "result.json is damaged: best_score is missing: train again"),
    "result that is a list": (write("run/result.json", "[]"), "evaluate run", "result.json is damaged: .*expected an object"),
    "result of another step": (edit_json("run/result.json", best_step=1), "evaluate run", "result.json is damaged: its checksum differs"),
    "step that is a text": (edit_json("run/result.json", best_step="7"), "export run --out new", "result.json is damaged: best_step: expected a whole number"),
    "result that nests deep": (write("run/result.json", "[" * 100_000), "evaluate run", "result.json is damaged: values nest more than 40 deep"),
    "half a result": (half("run/result.json"), "evaluate run", "result.json is damaged: line .* is no JSON"),
    "store of a run is a list": (write("run/store.json", "[1]"), "evaluate run", "store.json is damaged: .*expected an object"),
    "store of a run by number": (write("run/store.json", '{"catalogue": 3, "store": "store"}'), "evaluate run", "store.json is damaged: catalogue: expected a text"),
    "config of a run edited": (edit_json("run/config.json", extra=1), "evaluate run", "config.json.*not a config that this version saved"),
    "config of a run is a number": (write("run/config.json", "3"), "evaluate run", "config.json is damaged: .*expected an object"),
    "config of a run twice": (write("run/config.json", '{"data": {}, "data": {}}'), "evaluate run", "config.json is damaged: data is there twice"),
    # what will be written stands in its way: said before the work
    "result that is a directory": (in_its_place("run/result.json"), "train config.py --workdir run --train.epochs 3", "run/result.json is a directory where a file is written: move it away"),
    "metrics that are a directory": (in_its_place("run/metrics.jsonl"), "train config.py --workdir run --train.epochs 3", "run/metrics.jsonl is a directory where"),
    "checkpoints that are a file": (in_its_place("run/checkpoints", folder=False), "train config.py --workdir run --train.epochs 3", "run/checkpoints is a file where a directory is written: move it away"),
    "report that is a directory": (in_its_place("run/report.json"), "evaluate run", "run/report.json is a directory where"),
    "plots that are a file": (in_its_place("run/plots", folder=False), "evaluate run", "run/plots is a file where"),
    "log that is a directory": (in_its_place("new.csv"), "simulate --out new.csv --users 60 --items 80 --artists 9 --sessions 300", "new.csv is a directory where"),
    "truth that is a directory": (in_its_place("new.csv.truth.npz"), "simulate --out new.csv --users 60 --items 80 --artists 9 --sessions 300", "new.csv.truth.npz is a directory where"),
    # the export
    "export over something else": (nothing, "export run --out store", "--out store exists: choose a new directory"),
    "no export": (nothing, "recommend run --items i1", "run is no export"),
    "export cut short": (half("export/params.safetensors"), "recommend export --items i1", "params.safetensors is missing or altered"),
    "export of another format": (edit_json("export/manifest.json", format=99), "recommend export --items i1", "export format 99"),
    "half a manifest": (half("export/manifest.json"), "recommend export --items i1", "manifest.json is damaged"),
    "feedback for fewer items": (nothing, "recommend export --items i1 i2 --feedback play", "--feedback has 1 values for 2 --items"),
    "items never seen": (nothing, "recommend export --items i1 --json", "no item of the history is in the catalogue"),
    "no such feedback": (nothing, "recommend export --items i1 --feedback liked", "unknown feedback 'liked'"),
    "no items asked for": (nothing, "recommend export --items i1 --k 0", "k must be at least 1, got 0"),
    # the simulator
    "simulate to another format": (nothing, "simulate --out log.xlsx --users 60 --sessions 300", "--out must end in .parquet or .csv"),
    "simulate nobody": (nothing, "simulate --out new.csv --users 0", "--users|users"),
}  # fmt: skip


# What a quicker test has as well, or another row: slow.
FURTHER = {
    # test_prepare.py has these refusals of its own
    "nothing liked",
    "date before the log",
    "date after the log",
    "users of one event",
    "no session ids",
    "log without events",
    "no such polarity",
    "no such feedback kind",
    "feedback that is no kind",
    "a split needs no date",
    "no date",
    "share too large",
    # test_readers.py has these lines
    "time that is no time",
    "no feedback",
    "user missing",
    "row cut off",
    "feedback map that is none",
    # as the result and the plots of a run
    "metrics that are a directory",
    "checkpoints that are a file",
    "report that is a directory",
    "log that is a directory",
    "truth that is a directory",
    # as other documents
    "store of a run by number",
    "half a result",
    "config of a run is a number",
    # as over something else
    "a store over a file",
}
assert set(MISTAKES) >= FURTHER


@pytest.mark.parametrize("mistake", rest_slow(MISTAKES, set(MISTAKES) - FURTHER))
def test_mistake(mistake, here, capsys):
    come_about, command, says = MISTAKES[mistake]
    come_about()
    before = listing()
    line = refused(command, capsys)
    assert re.search(says, line), line
    assert listing() == before


@pytest.mark.parametrize("boxes", [True, False])
def test_options_are_explained_whatever_the_terminal_can_draw(boxes, here, capsys, monkeypatch):
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", boxes)
    assert refused(f"{PREPARE} --min-user-event 3", capsys) == (
        "jaxneg: no option --min-user-event; perhaps you meant --min-user-events; "
        "jaxneg prepare table --help lists the options"
    )
    assert refused("prepare table log.csv", capsys) == (
        "jaxneg: --out STORE is required; usage: jaxneg prepare table SOURCE --out STORE; "
        "jaxneg prepare table --help lists the options"
    )


@pytest.mark.slow  # test_prepare.py sorts and counts them
def test_times_out_of_order_are_sorted(here):
    """Not a mistake: the same store, whatever the order of rows."""
    header, *lines = LOG.splitlines(keepends=True)
    pathlib.Path("bad.csv").write_text(header + "".join(reversed(lines)))
    cli.main("prepare table log.csv --out one".split())
    cli.main("prepare table bad.csv --out other".split())
    one, other = stores.Store.open("one"), stores.Store.open("other")
    assert one.metadata.counts | {"out_of_order": 0} == other.metadata.counts | {"out_of_order": 0}
    assert (one.item_T == other.item_T).all() and (one.time_T == other.time_T).all()


@pytest.mark.slow
def test_a_loss_that_is_not_finite(here, capsys):
    wild = f"{TRAIN} --optim.learning-rate 1e30 --optim.clip 0 --optim.warmup-steps 0"
    line = refused(wild, capsys)
    assert "the loss is not finite at step" in line and "lower --optim.learning-rate (1e+30)" in line
    assert not pathlib.Path("new/result.json").exists()
    assert "has not ended" in refused("evaluate new", capsys)


# verb: the call that fails, the command
DISK_FULL = {
    "prepare, early": ("jaxneg.data.writer.Column.append", PREPARE),
    "prepare, a table": ("pyarrow.parquet.ParquetWriter.write_table", PREPARE),
    "prepare, at the end": ("jaxneg.files.put", PREPARE),
    "prepare again": ("jaxneg.files.put", "prepare table log.csv --out store"),
    "simulate": ("pyarrow.parquet.ParquetWriter.write_batch", "simulate --out new.parquet --users 60 --items 80 --artists 9 --sessions 300"),
    "export": ("jaxneg.serve.writing.safetensors", "export run --out new"),
    "train, a new run": ("jaxneg.files.write_json", TRAIN),
    "train, a run again": ("jaxneg.files.write_json", "train config.py --workdir run"),
}  # fmt: skip


OFTEN = ("prepare, a table", "prepare again", "export", "train, a run again")


@pytest.mark.parametrize(
    ("verb", "code"),
    [pytest.param(v, "ENOSPC", marks=() if v in OFTEN else pytest.mark.slow) for v in DISK_FULL]
    # What the line says goes by the code alone.
    + [
        pytest.param(v, code, marks=pytest.mark.slow)
        for code in ("EACCES", "EROFS")
        for v in ("prepare, early", "train, a new run")
    ],
)
def test_disk_that_cannot_be_written(verb, code, here, capsys, monkeypatch):
    fails, command = DISK_FULL[verb]
    number = getattr(errno, code)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number), "disk")

    before = listing()
    monkeypatch.setattr(fails, fail)
    line = refused(command, capsys)
    assert os.strerror(number) in line or (code == "ENOSPC" and "disk is full" in line), line
    assert listing() == before


@pytest.mark.slow
def test_disk_that_fills_up_in_training_leaves_a_run_to_continue(here, capsys, monkeypatch):
    """Checkpoints are written by threads of C++, whose errors quote the system's."""
    quoted = 'OUT_OF_RANGE: Error writing "a/0": "/runs/1/d": No space left on device [os_error_code=\'28\']'

    def fail(*_, **__):
        raise ValueError(quoted)

    with monkeypatch.context() as patch:
        patch.setattr("jaxneg.training.checkpoint.Checkpointer.save", fail)
        assert refused(TRAIN, capsys) == "jaxneg: /runs/1/d: No space left on device: free some space"
    assert not pathlib.Path("new/result.json").exists()
    cli.main(TRAIN.split())
    one, other = runs.load(pathlib.Path("new")), runs.load(pathlib.Path("run"))
    assert one.result["best_score"] == other.result["best_score"]
    assert (one.state.tables["item_VD"] == other.state.tables["item_VD"]).all()


def test_a_fault_of_ours_is_no_mistake_of_the_user(here, monkeypatch):
    monkeypatch.setattr("jaxneg.training.loop.train", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(TRAIN.split())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_may_not_be_written(here, capsys):
    pathlib.Path("closed").mkdir(mode=0o500)
    for command in (
        "prepare table log.csv --out closed/new",
        "train config.py --workdir closed/new",
        "export run --out closed/new",
        "simulate --out closed/new.csv",
    ):
        assert "Permission denied" in refused(command, capsys)


def test_place_that_is_no_directory(here, capsys):
    before = listing()
    for command in (
        "prepare table log.csv --out log.csv/new",
        "train config.py --workdir log.csv/new",
        "export run --out log.csv/new",
        "simulate --out log.csv/new.csv --users 60 --items 80 --artists 9 --sessions 300",
    ):
        assert "log.csv" in refused(command, capsys)
    assert listing() == before
