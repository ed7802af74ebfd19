"""What tests do with each verb of the command line in a process of its own, in a copy of the ``worked`` directory."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from jaxneg import cli

ROOT = pathlib.Path(__file__).parents[1]
LISTENERS = "--users 60 --items 80 --sessions 300 --stations 4 --artists 10"
GRID = "--jobs 1 --train.epochs 1 --set data.p-hard=0 --seeds 1"
# All but the demo, which takes minutes. What is written is called new, or stands in run.
VERBS = {
    "prepare": "prepare table log.csv --out new --attributes artist",
    "inspect": "inspect store --verify",
    "simulate": f"simulate --out new.csv {LISTENERS}",
    "simulate --ab": "simulate --ab export --truth log.csv.truth.npz --store store --out new --listeners 50",
    "plan": "plan config.py --topology v5e:2x2 --items 100",
    "train": "train config.py --workdir new --train.epochs 1",
    "sweep": f"sweep config.py --workdir new {GRID}",
    "evaluate": "evaluate run",
    "runs": "runs",
    "export": "export run --out new",
    "recommend": "recommend export --items {item} --k 3",
    "launch": "launch tpu-vm --topology v5e:2x2 --run 'config.py --workdir gs://bucket/run' --image image --project p "
    "--zone z --out new",
}
CHATTER = re.compile(
    r"(?!jaxneg: )(  |next: |(train|sweep|prepare|evaluate|simulate)\b.* |\S+: (all|[\d,]+|\d.*) |p_hard=|\d/5 )"
)


def environment(**more: str) -> dict[str, str]:
    kept = os.environ | {"XLA_FLAGS": os.environ.get("JAXNEG_TESTS_COMPILER", "")}
    return kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | more


def command(verb: str, here: pathlib.Path) -> str:
    """The command of a verb in a directory."""
    found = VERBS[verb]
    if "{item}" in found:
        found = found.format(item=(here / "log.csv").read_text().splitlines()[1].split(",")[4].strip('"'))
    return found


def start(words: str, here: pathlib.Path, **options) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxneg", *shlex.split(words)],
        cwd=here,
        env=environment(**options.pop("env", {})),
        stdout=options.pop("stdout", subprocess.DEVNULL),
        stderr=options.pop("stderr", subprocess.PIPE),
        **options,
    )


def run(words: str, here: pathlib.Path, *, shell: str = "", first: str = "", env=None, **options):
    """A run of a command; ``shell`` is what a shell would append to it, ``first`` what it does before."""
    line = ["bash", "-o", "pipefail", "-c", f'{first}"$@" {shell}', "bash"]
    line += [sys.executable, "-m", "jaxneg", *shlex.split(words)]
    return subprocess.run(
        line, cwd=here, env=environment(**(env or {})), capture_output=True, timeout=200, **options
    )


def copy(worked: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    shutil.copytree(worked, target)
    return target


def every(*smoke: str, of: Iterable[str] = VERBS):
    """Parameters of a test that starts processes: those of ``smoke`` always, others where ``system`` is asked for.

    Each kind of trouble has its own ``smoke``, and together these are all verbs.
    """
    of = tuple(of)
    assert set(smoke) <= set(of)
    return [verb if verb in smoke else pytest.param(verb, marks=pytest.mark.system) for verb in of]


def inside(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command that runs in this process, from the working directory."""
    capfd.readouterr()
    code = 0
    try:
        cli.main(shlex.split(words))
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capfd.readouterr().err


def leftovers(here: pathlib.Path) -> list[str]:
    """Unfinished files and locks below a directory."""
    names = [path.relative_to(here) for path in here.rglob("*")]
    return [str(name) for name in names if "jaxneg-tmp" in name.name or name.name.endswith(".lock")]


def said(text: bytes | str) -> list[str]:
    """Lines on standard error, without those of progress, of what is done, and warnings."""
    text = text if isinstance(text, str) else text.decode(errors="replace")
    lines = text.splitlines()
    return [line for line in lines if not CHATTER.match(line)]


def wait_until_caught(process: subprocess.Popen[bytes]) -> None:
    """Returns once a process catches SIGTERM: Python itself has begun."""
    path = pathlib.Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        masks = re.findall(r"SigCgt:\s*(\w+)", path.read_text())
        if masks and int(masks[0], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)
