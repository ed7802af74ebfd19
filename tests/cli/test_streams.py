"""Standard streams that are closed or narrow, low limits, signals in the first seconds, addresses for paths."""

import builtins
import errno
import gc
import io
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import orbax.checkpoint as ocp
import pytest

from jaxneg import cli
from jaxneg.serve import manifest
from tests import verbs
from tests.marks import rest_slow

ROOT = pathlib.Path(__file__).parents[2]
ADDRESSES = [
    "prepare table hdfs://bucket/log.csv --out new",
    "prepare table log.csv --out http://bucket/store",
    "inspect abfss://box/store",
    "simulate --out ftp://host/log.csv",
    "simulate --ab hdfs://host/export --truth log.csv.truth.npz --store store --out new",
    "simulate --ab export --truth hdfs://b/t.npz --store store --out new",
    "simulate --ab export --truth log.csv.truth.npz --store hdfs://b/s --out new",
    "train hdfs://bucket/config.py --workdir new",
    "train config.py --workdir hdfs://bucket/run",
    "train --workdir hdfs://bucket/run config.py",
    "train config.py --workdir new --data.store http://bucket/store",
    "plan http://host/config.py --topology v5e:2x2",
    "evaluate hdfs://bucket/run",
    "evaluate run --compare hdfs://bucket/run",
    "sweep config.py --workdir hdfs://bucket/sweep",
    "export run --out hdfs://bucket/export",
    "export run --out new --data.store hdfs://bucket/store",
    "recommend hdfs://bucket/export --items a",
    "demo --out abfss://box/demo",
]


@pytest.fixture
def here(worked, monkeypatch):
    monkeypatch.chdir(worked)
    return worked


@pytest.mark.parametrize("command", ADDRESSES)
def test_addresses_are_refused_before_anything_is_made(command, here, capsys):
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert (
        "only paths of file systems and buckets at s3://, gs:// and az:// can be read and written" in line
    ), line
    assert any(word in line for word in command.split() if "://" in word)
    assert sorted(here.rglob("*")) == before


def test_ids_that_look_like_addresses_are_ids(here, capsys):
    with pytest.raises(SystemExit):
        cli.main("recommend export --items http://songs/1 --k 1".split())
    assert "no item of the history is in the catalogue" in capsys.readouterr().err


def jaxneg(command, here, *, shell=None, first="", **options):
    """A run of the command line; ``shell`` is what a shell would append to it, ``first`` what it does before."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | options.pop("env", {})
    environment.pop("XLA_FLAGS", None)
    words = [sys.executable, "-m", "jaxneg", *command.split()]
    if shell is not None:
        words = ["bash", "-o", "pipefail", "-c", f'{first}"$@" {shell}', "bash", *words]
    return subprocess.run(
        words, cwd=here, env=environment, capture_output=True, timeout=120, check=False, **options
    )


system = pytest.mark.system


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell", [pytest.param(">&-", marks=system), pytest.param("2>&-", marks=system), ">&- 2>&- <&-"]
)
def test_closed_streams_do_not_matter(here, tmp_path, shell):
    ended = jaxneg(f"prepare table log.csv --out {tmp_path / 'store'}", here, shell=shell)
    assert ended.returncode == 0, ended.stderr
    # What libraries write to standard error did not go to a file of the store.
    assert jaxneg(f"inspect {tmp_path / 'store'} --verify", here).returncode == 0


NO_CACHE = {"JAX_COMPILATION_CACHE_DIR": ""}
NARROW = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [
        NARROW,
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=system),
        pytest.param({"PYTHONIOENCODING": "latin-1:strict"}, marks=system),
    ],
)
def test_narrow_encodings_are_written_through(here, tmp_path, env):
    name = "lög-歌"
    (tmp_path / f"{name}.csv").write_bytes((here / "log.csv").read_bytes())
    out = tmp_path / f"{name}-store"
    ended = jaxneg(f"prepare table {tmp_path / name}.csv --out {out} --attributes artist", here, env=env)
    assert ended.returncode == 0 and out.is_dir(), ended.stderr
    assert jaxneg(f"inspect {out}", here, env=env).returncode == 0
    assert jaxneg("inspect --help", here, env=env).returncode == 0


def test_a_reader_that_goes_away_ends_it_in_silence(here):
    ended = jaxneg("prepare table --help", here, shell="| head -1")
    assert ended.returncode in (0, 141) and b"Error" not in ended.stderr and b"Exception" not in ended.stderr


def test_a_full_output_is_told(here):
    ended = jaxneg("inspect store", here, shell="> /dev/full")
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines() == ["jaxneg: No space left on device: free some space"]


def test_too_many_open_files_are_called_so(here):
    ended = jaxneg("inspect store", here, shell="", first="ulimit -n 12; ")
    said = ended.stderr.decode()
    assert ended.returncode == 2 and len(said.splitlines()) == 1, said
    assert "Too many open files: raise the limit, as ulimit -n 4096 does" in said and "damaged" not in said


@pytest.mark.parametrize("verb", ["evaluate run", "export run --out new"])
def test_what_orbax_leaves_undone_is_not_told_beside(verb, here, monkeypatch, capfd):
    _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    real = ocp.CheckpointManager

    def without_files(*args, **options):
        free = min(set(range(1000)) - set(map(int, os.listdir("/proc/self/fd"))))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        try:
            return real(*args, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    monkeypatch.setattr(ocp, "CheckpointManager", without_files)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # of the loop, see jaxneg/__main__.py
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        code, said = verbs.inside(verb, capfd)
        gc.collect()
    assert code == 2 and "Too many open files: raise the limit" in said and len(said.splitlines()) == 1, said
    assert not [one for one in told if issubclass(one.category, RuntimeWarning)]


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("store/event_item.npy", "inspect store"),
        ("store/metadata.json", "inspect store"),
        ("export/params.safetensors", "recommend export --items 1"),
        ("export/manifest.json", "recommend export --items 1"),
        ("log.csv.truth.npz", "simulate --ab export --truth log.csv.truth.npz --store store --out new"),
    ],
)
def test_what_may_not_be_read_is_not_called_damaged(here, capsys, monkeypatch, path, command):
    denied, open_, os_open = str(path), builtins.open, os.open

    def refuse(real):
        def opened(file, *args, **kwargs):
            if str(file).endswith(denied):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return real(file, *args, **kwargs)

        return opened

    # Root may read all, so that permissions of files show nothing here.
    monkeypatch.setattr(builtins, "open", refuse(open_))
    monkeypatch.setattr(io, "open", refuse(open_))
    monkeypatch.setattr(os, "open", refuse(os_open))
    monkeypatch.setattr("jaxneg.serve.manifest.safe_open", refuse(manifest.safe_open))
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "damaged" not in line
    assert line.endswith("Permission denied: choose another place, or change its permissions"), line


def caught(pid, number):
    """Whether a process has put a handler in place."""
    (mask,) = re.findall(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text())
    return int(mask, 16) >> (number - 1) & 1


@pytest.mark.parametrize(
    ("number", "code", "after"),
    [
        pytest.param(signal.SIGINT, 130, 0.0, marks=system),
        (signal.SIGINT, 130, 0.3),
        pytest.param(signal.SIGINT, 130, 1.0, marks=system),
        pytest.param(signal.SIGTERM, 143, 0.0, marks=system),
        pytest.param(signal.SIGTERM, 143, 0.3, marks=system),
        (signal.SIGTERM, 143, 1.0),
    ],
)
def test_signals_in_the_first_seconds_end_it_in_one_line(here, tmp_path, number, code, after):
    command = f"train config.py --workdir {tmp_path / 'run'} --train.epochs 1000".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxneg", *command],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    while not caught(process.pid, signal.SIGTERM):  # Python itself has begun
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == code and "Traceback" not in said, said
    assert len(said.splitlines()) == 1 and "the same command" in said, said
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*/.*"))


@system  # test_stops.py fills the disk of a run in this process
def test_a_checkpoint_that_finds_no_room_is_one_line(here, tmp_path):
    ended = jaxneg(
        f"train config.py --workdir {tmp_path / 'run'}", here, shell="", first="ulimit -f 4; ", env=NO_CACHE
    )
    lines = [line for line in ended.stderr.decode().splitlines() if not line.startswith("train ")]
    assert ended.returncode == 2 and len(lines) == 1, ended.stderr
    assert lines[0].endswith("File too large: free some space") and "checkpoints" in lines[0]


ENDING = """
import os, signal, time
from jaxneg import cli, errors, files
files.abandon = lambda: time.sleep(1.0)  # what is unfinished takes some time to remove

def verb(args):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
    {then}

cli._run = verb
cli.main(["prepare"])
"""


@pytest.mark.parametrize(
    "then",
    rest_slow(
        [
            "raise errors.UserError('its file is gone')",
            "raise KeyError('gone')",
            "raise SystemExit(0)",
            "return",
        ],
        ["raise KeyError('gone')"],
    ),
)
def test_what_fails_as_a_signal_ends_it_is_not_told_beside(then, tmp_path):
    """The verb still runs while what it has not finished is removed, and may fail of that."""
    line = [sys.executable, "-c", ENDING.format(then=then)]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, timeout=60)
    assert ended.returncode == 143
    assert ended.stderr.decode() == "jaxneg: stopped by SIGTERM: nothing was written: start it again\n"


STREAMS = [("evaluate", "2>&-"), ("export", ">&- 2>&- <&-"), ("recommend", "2> /dev/full")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "shell"),
    [
        pytest.param(verb, shell, marks=() if (verb, shell) in STREAMS else system)
        for verb in verbs.VERBS
        for shell in ("2>&-", ">&- 2>&- <&-", "2> /dev/full")
    ],
)
def test_every_verb_works_without_streams(verb, shell, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    ended = verbs.run(verbs.command(verb, here), here, shell=shell)
    assert ended.returncode == 0 or (verb == "plan" and ended.returncode == 2), ended.stderr
    assert b"Traceback" not in ended.stderr and verbs.leftovers(here) == []
    if verb == "prepare":
        assert verbs.run("inspect new --verify", here).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb",
    verbs.every(
        "plan",
        "runs",
        "inspect --json store",
        of=[*verbs.VERBS, "--help", "train --help", "prepare --help", "inspect --json store"],
    ),
)
def test_every_verb_bears_a_reader_that_goes_away(verb, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    words = verbs.command(verb, here) if verb in verbs.VERBS else verb
    ended = verbs.run(words, here, shell="| head -1" if "help" in verb else "| true")
    assert ended.returncode in (0, 141) or (verb == "plan" and ended.returncode == 2), ended.stderr
    assert not re.search(b"Traceback|Error|Exception", ended.stderr) and verbs.leftovers(here) == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", verbs.every("simulate"))
def test_every_verb_works_in_a_narrow_locale(verb, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "höre-聴く")
    words = verbs.command(verb, here).replace(" new", " nëw-歌")
    ended = verbs.run(words, here, env=NARROW)
    assert ended.returncode == 0 or (verb == "plan" and ended.returncode == 2), ended.stderr
    assert b"Error" not in ended.stderr and verbs.leftovers(here) == []
    if " new" in verbs.VERBS[verb]:
        assert list(here.glob("nëw-歌*")) and not list(here.glob("n?w*.jaxneg*"))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [20, pytest.param(28, marks=system)])
@pytest.mark.parametrize("verb", verbs.every("train"))
def test_every_verb_says_that_too_few_files_may_be_open(verb, limit, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    ended = verbs.run(verbs.command(verb, here), here, first=f"ulimit -n {limit}; ")
    said = verbs.said(ended.stderr)
    assert b"Traceback" not in ended.stderr and b"damaged" not in ended.stderr and verbs.leftovers(here) == []
    if verb == "plan":
        return
    assert ended.returncode in (0, 2), ended.stderr
    if ended.returncode:
        assert len(said) == 1 and "Too many open files: raise the limit" in said[0], ended.stderr


def closed():
    """What to start a command with so that permissions hold for root as well."""
    if os.geteuid():
        return ""
    if shutil.which("setpriv") is None:
        pytest.skip("root may do all, and setpriv (of util-linux) is not there to take that away")
    return "setpriv --bounding-set=-dac_override,-dac_read_search "


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", verbs.every("simulate --ab", of=[verb for verb in verbs.VERBS if verb not in ("plan", "runs")])
)
def test_every_verb_tells_what_is_closed(verb, worked, tmp_path):
    here = verbs.copy(worked, tmp_path / "here")
    words = verbs.command(verb, here)
    reads = verb in ("inspect", "recommend")
    shut = (
        [here / "store/event_item.npy", here / "export/params.safetensors"] if reads else [here, here / "run"]
    )
    for path in shut:
        path.chmod(0o000 if reads else 0o500)
    ended = verbs.run(words, here, first=closed())
    for path in shut:
        path.chmod(0o700)
    said = verbs.said(ended.stderr)
    assert ended.returncode == 2 and len(said) == 1, ended.stderr
    assert "Permission denied: choose another place, or change its permissions" in said[0], said
    assert "damaged" not in said[0] and verbs.leftovers(here) == []
