"""What launch/ holds: examples as jaxneg launch writes them, and a launcher of many processes on one machine."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jaxneg import cli
from tests.plan.launch.test_recipes import shellcheck

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def test_the_examples_are_what_jaxneg_launch_writes(tmp_path, monkeypatch):
    noted = tmp_path / "jaxneg"
    noted.write_text(
        f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {tmp_path}/calls; echo >> {tmp_path}/calls\n'
    )
    noted.chmod(0o755)
    script = tmp_path / "launch" / "render.sh"
    script.parent.mkdir()
    shutil.copy(LAUNCH / "render.sh", script)
    subprocess.run([script], env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    monkeypatch.chdir(script.parent)
    for line in (tmp_path / "calls").read_text().splitlines():
        cli.main(shlex.split(line))
    made, kept = (
        {
            path.relative_to(at): path.read_text()
            for path in at.rglob("*")
            if path.parent != at and path.is_file()
        }
        for at in (script.parent, LAUNCH)
    )
    assert made.keys() == kept.keys() and len(made) > 1
    assert made == kept, "run: launch/render.sh"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck(script)


def test_every_launcher_is_in_the_readme():
    readme = (LAUNCH / "README.md").read_text()
    for path in LAUNCH.iterdir():
        if path.name != "README.md":
            assert f"launch/{path.name}" in readme


def local(*options, code, **how):
    """The launcher with processes that run a few lines of Python."""
    launch = [sys.executable, str(LAUNCH / "local.py"), *options, "--", sys.executable, "-S", "-c", code]
    return subprocess.Popen(launch, stderr=subprocess.PIPE, text=True, **how)


WHO = "import os, sys, time, signal; p = int(os.environ['JAX_PROCESS_ID']); n = os.environ['JAX_NUM_PROCESSES']\n"


def test_local_shows_the_first_process_and_tells_all_who_they_are():
    launcher = local("--processes", "3", code=WHO + "print('I am', p, 'of', n)")
    assert launcher.communicate(timeout=60)[1] == "[0] I am 0 of 3\n" and launcher.returncode == 0


def test_local_starts_all_again_when_one_is_lost(tmp_path):
    code = WHO + (
        f"tries = open({str(tmp_path / 'tries')!r} + str(p), 'a'); tries.write('x'); tries.flush()\n"
        "if tries.tell() < 3 and p == 1: print('oh'); sys.exit(75)\n"
        "if tries.tell() < 3: time.sleep(60)\n"
    )
    launcher = local("--restarts", "5", "--patience", "0.2", code=code)
    said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 0
    assert [(tmp_path / f"tries{p}").read_text() for p in (0, 1)] == ["xxx", "xxx"]
    assert said.count("[1] oh") == 2 and said.count("launch/local: exit codes 0: 137, 1: 75") == 2


@pytest.mark.parametrize(("codes", "ends"), [((75, 2), 2), ((0, 75), 75), ((1, 0), 1)])
def test_local_ends_with_what_a_person_must_mend_first(codes, ends):
    launcher = local(code=WHO + f"sys.exit({codes}[p])")
    launcher.communicate(timeout=60)
    assert launcher.returncode == ends


def test_local_passes_sigterm_on_and_does_not_start_again():
    code = (
        WHO
        + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('ready', flush=True); time.sleep(60)"
    )
    launcher = local("--restarts", "5", code=code)
    assert launcher.stderr.readline() == "[0] ready\n"
    time.sleep(0.5)  # the other one is not shown
    launcher.send_signal(signal.SIGTERM)
    assert launcher.communicate(timeout=60)[1] == "launch/local: exit codes 0: 143, 1: 143\n"
    assert launcher.returncode == 143
