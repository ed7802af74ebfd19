"""SLURM: the whole life of a job, with a stand-in for its controller."""

import re
import shlex

import pytest

from jaxneg import cli
from tests.plan.launch import rehearsals

WORDS = ["gs://b/mine.py", "--workdir", "/data/runs/mine", "--data.store", 'it\'s $HOME "s" \\ ; #']
PYXIS = "--image reg.example:5000/p/i:1 --mount /shared=/data --mount /scratch"


def written(tmp_path, *more, options=PYXIS, topology="h100:2x1"):
    words = [
        "launch",
        "slurm",
        "--topology",
        topology,
        "--run",
        shlex.join(WORDS),
        *shlex.split(options),
        *more,
    ]
    cli.main([*words, "--out", str(tmp_path / "out")])
    return tmp_path / "out" / "job.sh"


@pytest.fixture
def rehearse(tmp_path):
    """Plays exit codes of two tasks, start by start; returns the ending, the place, and what each task ran."""

    def rehearse(*more, **play):
        script = written(tmp_path, *more)
        place = rehearsals.Place(tmp_path / "place", "sbatch srun scontrol python", **play)
        done = place.run("sbatch", str(script))
        assert not list(place.directory.glob("*.lost"))  # nothing is left to count wrongly later
        return done, place, place.calls("python")

    return rehearse


def test_a_job_asks_for_what_was_described(tmp_path):
    more = ["--hours", "5", "--partition", "gpus", "--account", "team", "--grace", "300", "--name", "mine"]
    text = written(tmp_path, *more, topology="h100:8x4").read_text()
    head, _, body = text.partition("set -euo pipefail")
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", head, re.MULTILINE))
    assert asked["nodes"] == "4" and asked["ntasks-per-node"] == asked["gpus-per-node"] == "8"
    assert (asked["time"], asked["signal"], asked["job-name"]) == ("5:00:00", "TERM@300", "mine")
    assert (asked["partition"], asked["account"]) == ("gpus", "team")
    assert "#SBATCH" not in body  # which SLURM would not read


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            PYXIS,
            [
                "--container-image=reg.example:5000#p/i:1",
                "--container-mounts=/shared:/data,/scratch:/scratch",
            ],
        ),
        (
            f"{PYXIS} --container apptainer",
            "apptainer exec --nv --bind=/shared:/data,/scratch:/scratch docker://reg.example:5000/p/i:1".split(),
        ),
        (
            "--image /images/i.sif --mount /data --container apptainer",
            "apptainer exec --nv --bind=/data:/data /images/i.sif".split(),
        ),
        ("--container none", []),
    ],
)
def test_tasks_run_in_their_container(options, words, tmp_path):
    script = written(tmp_path, options=options)
    place = rehearsals.Place(tmp_path / "place", "sbatch srun scontrol python", codes=["0 0"])
    assert place.run("sbatch", str(script)).returncode == 0
    ((first, *rest),) = place.calls("srun")
    assert first == "--kill-on-bad-exit=1" and rest[: rest.index("python")] == words
    assert place.calls("python")[1] == [
        *("host 1", "-m", "jaxneg.plan.launch.process", "--told-all", "--mended", "254", "train"),
        *WORDS,
    ]


@pytest.mark.parametrize("codes", ["2 2", "143 2", "2 137", "0 2", "134 2"])
def test_what_a_person_has_to_mend_is_never_tried_again(rehearse, codes):
    done, place, runs = rehearse(codes=[codes])
    assert done.returncode == 2 and len(runs) == 2 and not place.calls("scontrol")
    assert "a person has to mend" in done.stderr


def test_a_lost_task_has_all_start_again_with_the_same_command(rehearse):
    done, place, runs = rehearse("--restarts", "2", codes=["75 134", "137 75", "0 0"])
    assert done.returncode == 0 and len(runs) == 6 and len({tuple(call[1:]) for call in runs}) == 1
    assert "restart 2 of 2" in done.stderr


def test_time_limits_and_preemption_count_for_no_restart(rehearse):
    done, place, runs = rehearse("--restarts", "0", codes=["143 143", "preempted", "143 143", "0 0"])
    assert done.returncode == 0 and len(runs) == 8
    assert len(place.calls("scontrol")) == 2  # what is preempted SLURM puts back itself


def test_a_crash_loop_ends(rehearse):
    done, place, runs = rehearse("--restarts", "2", codes=["75 134", "143 143", "75 134"])
    assert done.returncode == 134 and len(runs) == 2 * 4 and "after 2 restarts" in done.stderr


@pytest.mark.parametrize(("codes", "code"), [("cancelled", 143), ("130 130", 130)])
def test_what_a_person_ends_stays_ended(rehearse, codes, code):
    done, place, runs = rehearse(codes=[codes])
    assert done.returncode == code and len(runs) == 2 and not place.calls("scontrol")
