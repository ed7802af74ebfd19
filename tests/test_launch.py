"""What launch/ starts, with stand-ins for the programs of clusters."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from jaxneg import cli

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
BY_HAND = [path for path in SCRIPTS if path.name != "render.sh"]
NAME = re.compile(r"\$\{?([A-Z][A-Z_]+)\b")
SLURM_SETS = {"SLURM_JOB_ID", "SLURM_RESTART_COUNT"}


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


def settings():
    """Variables that run.env sets."""
    return set(re.findall(r"^([A-Z_]+)=", (LAUNCH / "run.env").read_text(), re.MULTILINE))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", script], check=True, cwd=LAUNCH.parent)


@pytest.mark.parametrize("path", [*BY_HAND, LAUNCH / "jobset.yaml"], ids=lambda path: path.name)
def test_every_setting_is_in_run_env(path):
    assert set(NAME.findall(path.read_text())) - SLURM_SETS <= settings()


def test_every_launcher_is_in_the_readme_and_sets_the_allocator():
    readme = (LAUNCH / "README.md").read_text()
    for path in LAUNCH.iterdir():
        if path.is_file() and path.name not in ("README.md", "run.env"):
            assert f"launch/{path.name}" in readme
            if path.name == "render.sh":
                continue
            starts = LAUNCH.parent / "Dockerfile" if path.name == "image.sh" else path
            assert "glibc.malloc.hugetlb=1" in starts.read_text(), path.name


@pytest.fixture
def place(tmp_path):
    """A directory with settings, and stand-ins for programs that note how they were called."""
    (tmp_path / "bin").mkdir()
    text = (LAUNCH / "run.env").read_text()
    text = re.sub(r"^RESTARTS=\S+", "RESTARTS=2", text, flags=re.MULTILINE)
    text = re.sub(r'^OPTIONS=""', 'OPTIONS="--train.epochs 3"', text, flags=re.MULTILINE)
    (tmp_path / "run.env").write_text(text)

    def stand_in(name, codes):
        """A program that ends with these codes, call by call, the last one for ever."""
        program = tmp_path / "bin" / name
        program.write_text(
            f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> {tmp_path}/{name}.calls\n'
            f"codes=({' '.join(map(str, codes))}); n=$(wc -l < {tmp_path}/{name}.calls)\n"
            "exit ${codes[$((n > ${#codes[@]} ? ${#codes[@]} - 1 : n - 1))]}\n"
        )
        program.chmod(0o755)

    def start(script, **environment):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        command = ["bash", LAUNCH / script, tmp_path / "run.env"]
        return subprocess.run(
            command, env=os.environ | {"PATH": path} | environment, capture_output=True, text=True
        ).returncode

    def calls(name):
        path = tmp_path / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    return stand_in, start, calls


TRAIN = (
    "train configs/ml1m_sasrec.py --workdir /data/runs/mine --data.store /data/stores/mine --train.epochs 3"
)


@pytest.mark.parametrize(
    ("code", "restarts", "ends", "requeued"),
    [(0, 0, 0, False), (2, 0, 2, False), (75, 0, 0, True), (143, 1, 0, True), (134, 2, 134, False)],
)
def test_slurm_goes_back_into_the_queue_unless_a_person_must_mend(place, code, restarts, ends, requeued):
    stand_in, start, calls = place
    stand_in("srun", [code])
    stand_in("scontrol", [0])
    assert start("slurm.sh", SLURM_JOB_ID="17", SLURM_RESTART_COUNT=str(restarts)) == ends
    assert calls("srun") == [f"--kill-on-bad-exit=1 jaxneg {TRAIN}"]
    assert calls("scontrol") == (["requeue 17"] if requeued else [])


def test_slurm_has_a_task_per_gpu():
    wanted = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE))
    assert wanted["ntasks-per-node"] == wanted["gpus-per-node"]
    assert wanted["signal"].startswith("TERM@")  # to the steps, not B: to the shell


def test_xpk_is_called_with_the_settings(place):
    stand_in, start, calls = place
    stand_in("xpk", [0])
    assert start("xpk.sh") == 0
    (call,) = calls("xpk")
    assert "--num-slices=1" in call and "--max-restarts=2" in call and TRAIN in call.replace("'", "")


@pytest.mark.skipif(shutil.which("envsubst") is None, reason="no envsubst")
def test_the_jobset_has_the_fields_that_count():
    made = subprocess.run(
        ["bash", "-c", "set -a; source launch/run.env; set +a; envsubst < launch/jobset.yaml"],
        cwd=LAUNCH.parent,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    jobset = yaml.safe_load(made)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", jobset["metadata"]["name"])
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 10
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4 and job["replicas"] == 1
    assert spec["backoffLimit"] == 0 and spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # Kubernetes demands it beside a podFailurePolicy
    (rule,) = spec["podFailurePolicy"]["rules"]
    (container,) = pod["containers"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    chips = container["resources"]["limits"]["google.com/tpu"]
    topology = [int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    assert spec["parallelism"] * chips == topology[0] * topology[1]
    (argument,) = container["args"]
    assert argument.startswith("exec jaxneg train ")
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_ray_workers_run_what_train_offers():
    """Ray is not installed here: the script compiles, and says what it misses only once it is asked to start."""
    help = subprocess.run([sys.executable, LAUNCH / "ray_train.py", "--help"], capture_output=True, text=True)
    assert help.returncode == 0 and "--topology" in help.stdout
    started = subprocess.run(
        [
            sys.executable,
            "-S",
            LAUNCH / "ray_train.py",
            "c.py",
            "--workdir",
            "w",
            "--gpu",
            "--",
            "--train.epochs",
            "1",
        ],
        capture_output=True,
        text=True,
    )
    assert "No module named 'ray'" in started.stderr


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
