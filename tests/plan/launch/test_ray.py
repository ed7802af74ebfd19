"""Ray: a job on a stand-in for a cluster, and what the job does on a stand-in for Ray Train."""

import json
import re
import shlex
import signal
import types

import pytest

from jaxneg import cli
from jaxneg.config import Config
from jaxneg.errors import UserError
from jaxneg.plan.launch import on_ray
from jaxneg.training import loop
from tests.plan.launch import rehearsals

WORDS = ["gs://b/mine.py", "--workdir", "/data/runs/mine", "--data.store", 'it\'s $HOME "s" \\ ; #']


def written(tmp_path, *more, topology="v6e:4x4"):
    words = ["launch", "ray", "--topology", topology, "--run", shlex.join(WORDS), "--name", "mine", *more]
    cli.main([*words, "--out", str(tmp_path / "out")])
    return str(tmp_path / "out" / "launch.sh")


@pytest.fixture
def rehearse(tmp_path):
    """Plays states of the job; returns the ending, the place, and the submissions."""

    def rehearse(*more, verb=(), topology="v6e:4x4", **play):
        script = written(tmp_path, *more, topology=topology)
        usual = {"unreached": [], "cut": -1, "denied": 0}
        place = rehearsals.Place(tmp_path / "place", "ray", **usual | play)
        done = place.run(script, *verb)
        return done, place, [call for call in place.calls("ray") if call[1] == "submit"]

    return rehearse


def test_a_job_waits_for_resources_trains_and_ends(rehearse):
    done, place, submitted = rehearse(
        "--address", "http://head:8265", states=["PENDING", "RUNNING", "RUNNING", 0]
    )
    assert done.returncode == 0 and "the job is PENDING" in done.stderr
    (call,) = submitted
    at = call.index("--")
    assert call[:3] == ["job", "submit", "--address=http://head:8265"] and "--no-wait" in call[:at]
    assert [word for word in call[:at] if re.fullmatch(r"--submission-id=mine-\d+-0", word)]
    (environment,) = [word for word in call if word.startswith("--runtime-env-json=")]
    told = json.loads(environment.partition("=")[2])["env_vars"]
    assert json.loads(told["JAXNEG_RUN"]) == WORDS and "hugetlb" in told["GLIBC_TUNABLES"]
    assert call[at + 1 :] == [
        *("python", "-m", "jaxneg.plan.launch.on_ray", "--workers=4", "--tpu=TPU-V6E", "--topology=4x4"),
        "--restarts=10",
    ]


def test_a_worker_is_a_gpu(rehearse):
    _, _, ((*_, workers, kind, _),) = rehearse(topology="h100:8x2", states=[0])
    assert (workers, kind) == ("--workers=16", "--gpu=H100")


@pytest.mark.parametrize(("state", "code"), [(2, 2), (75, 75), (1, 1), ("stopped", 143)])
def test_a_job_that_ended_is_not_submitted_again(rehearse, state, code):
    done, place, submitted = rehearse(states=["RUNNING", state])
    assert done.returncode == code and len(submitted) == 1
    assert ("a person has to mend" in done.stderr) == (code == 2)


def test_a_job_whose_machine_is_lost_is_submitted_again_and_not_for_ever(rehearse):
    done, place, submitted = rehearse("--restarts", "2", states=["RUNNING", "lost"])
    assert done.returncode == 75 and len(submitted) == 3 and "restart 2 of 2" in done.stderr


def test_a_watch_may_end_and_take_up_the_job(rehearse, tmp_path):
    done, place, submitted = rehearse(states=["RUNNING", "RUNNING", 0], cut=2)
    assert done.returncode == -signal.SIGTERM and len(submitted) == 1
    assert place.run(str(tmp_path / "out" / "launch.sh")).returncode == 0
    assert len([call for call in place.calls("ray") if call[1] == "submit"]) == 1


@pytest.mark.parametrize(
    ("play", "code", "said"),
    [({"denied": 1}, 2, "no resources"), ({"unreached": range(60)}, 75, "goes on without this script")],
)
def test_a_cluster_that_refuses_or_is_silent_is_told(rehearse, play, code, said):
    done, *_ = rehearse(states=["RUNNING"], **play)
    assert done.returncode == code and said in done.stderr


def test_a_job_that_the_cluster_has_lost_or_that_is_deleted_is_submitted_anew(rehearse, tmp_path):
    done, place, submitted = rehearse(states=["RUNNING", 75, "RUNNING", 0])
    assert done.returncode == 75 and len(submitted) == 1
    script = str(tmp_path / "out" / "launch.sh")
    assert place.run(script, "delete").returncode == 0 and not (tmp_path / "out" / "job").exists()
    (place.directory / "job").unlink()
    assert place.run(script).returncode == 0
    (place.directory / "job").unlink()  # with the head of the cluster
    assert place.run(script).returncode == 0
    assert len([call for call in place.calls("ray") if call[1] == "submit"]) == 3


class Failed(Exception):
    """As Ray Train raises it."""

    def __init__(self, worker_failures):
        super().__init__("Training failed due to worker errors")
        self.worker_failures = worker_failures


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Runs the job where each start of two workers does what the play says: it ends, or raises an error."""

    def train(*starts, words=("--gpu", "H100")):
        asked, left = [], list(starts)

        class Trainer:
            def __init__(self, work, *, train_loop_config, scaling_config, run_config):
                asked.append(scaling_config | {"max_failures": run_config})
                self.work, self.settings = work, train_loop_config

            def fit(self):
                play, failures = left.pop(0) if len(left) > 1 else left[0], {}
                for rank, does in enumerate(play):
                    monkeypatch.setattr(loop, "train", does)
                    try:
                        self.work(self.settings)
                    except Exception as error:
                        failures[rank] = error
                if failures:
                    raise Failed(failures)

        made = types.SimpleNamespace(
            ScalingConfig=dict,
            RunConfig=lambda failure_config: failure_config,
            FailureConfig=lambda max_failures: max_failures,
            TrainingFailedError=Failed,
        )
        modules = {"ray.train": made, "ray.train.v2.jax": types.SimpleNamespace(JaxTrainer=Trainer)}
        monkeypatch.setattr(on_ray.importlib, "import_module", modules.__getitem__)
        config = tmp_path / "mine.py"
        config.write_text("from jaxneg.config import Config as get_config\n")
        run = [str(config), "--model.width", "8", "--workdir", "/data/x"]
        monkeypatch.setenv("JAXNEG_RUN", json.dumps(run))
        return on_ray.main(["--workers", "2", "--restarts", "2", *words]), asked

    return train


def done(config, workdir):
    assert isinstance(config, Config) and config.model.width == 8 and str(workdir) == "/data/x"
    return {"stopped": "epochs done", "steps": 3}


def mend(*_):
    raise UserError("no store at s: prepare it")


def full(*_):
    raise OSError(28, "No space left on device", "/data/x")


def lost(*_):
    raise RuntimeError("Gloo all-reduce failed: connection closed by peer")


def test_lost_workers_start_again_and_the_run_goes_on(train, capfd):
    code, asked = train((done, lost), (lost, lost), (done, done))
    assert code == 0 and len(asked) == 3
    assert asked[0] == {"use_gpu": True, "num_workers": 2, "accelerator_type": "H100", "max_failures": 0}


@pytest.mark.parametrize("start", [(mend, mend), (lost, mend), (mend, lost), (done, full)])
def test_what_a_person_has_to_mend_ends_the_job_at_once(train, start, capfd):
    code, asked = train(start)
    said = capfd.readouterr().err
    assert code == 2 and len(asked) == 1
    assert ("no store at s" in said or "free some space" in said) and said.count("\n") == 1


def test_a_crash_loop_of_workers_ends(train):
    code, asked = train((lost, lost), words=("--tpu", "TPU-V6E", "--topology", "4x4"))
    assert code == 75 and len(asked) == 3
    assert asked[0]["topology"] == "4x4" and asked[0]["use_tpu"] and asked[0]["accelerator_type"] == "TPU-V6E"
