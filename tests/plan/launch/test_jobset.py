"""JobSets, written here and by xpk: what the API says of them, and the whole life of a run on a stand-in."""

import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

from jaxneg import cli
from jaxneg.plan.launch import process
from tests.plan.launch import rehearsals

HERE = pathlib.Path(__file__).parent
WORDS = [
    "gs://b/mine.py",
    "--workdir",
    "/data/runs/mine",
    "--data.store",
    'gs://b/it\'s $(HOME) "s" \\\\ ; #',
]
XPK = "--image i --project p --zone z --cluster c"
TPU = "--topology v4:2x2x2"


def written(kind, tmp_path, options):
    words = ["launch", kind, "--run", shlex.join(WORDS), *shlex.split(options)]
    cli.main([*words, "--out", str(tmp_path / "out")])
    return tmp_path / "out"


def jobset(tmp_path, options=TPU, mount="gs://b/kept=/data"):
    out = written("jobset", tmp_path, f"{options} --image i --mount {mount}")
    return yaml.safe_load((out / "jobset.yaml").read_text())


def job(made):
    (found,) = made["spec"]["replicatedJobs"]
    return found["template"]["spec"]


MADE = [
    (TPU, "gs://b/kept=/data"),
    ("--topology v5e:4x4 --spot --queue team --slices 3 --account me --namespace ml", "claim:c=/data"),
    ("--topology h100:8x2 --spot --env 'A=b c' --grace 5", "/shared=/data"),
    ("--topology gpu:1x1 --restarts 0", "claim:c=/data"),
]


@pytest.mark.parametrize(("options", "mount"), MADE)
def test_objects_pass_their_schemas(options, mount, tmp_path):
    kubernetes = pytest.importorskip("kubernetes_validate")
    import jsonschema

    made = jobset(tmp_path, options, mount)
    jsonschema.Draft202012Validator(json.loads((HERE / "jobset.schema.json").read_text())).validate(made)
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job(made)}
    kubernetes.validate(whole, kubernetes.latest_version(), strict=True)
    whole["spec"]["template"]["spec"]["restartPolic"] = "Never"
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(whole, kubernetes.latest_version(), strict=True)
    assert job(made)["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy demands it


def test_a_slice_asks_for_its_nodes_and_spot_for_spot(tmp_path):
    made = jobset(tmp_path, *MADE[1])
    spec, pod = job(made), job(made)["template"]["spec"]
    assert made["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    assert made["spec"]["replicatedJobs"][0]["replicas"] == 3 and spec["completions"] == 4
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert {"google.com/tpu", "cloud.google.com/gke-spot"} == {one["key"] for one in pod["tolerations"]}
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"][-1] == WORDS[-1].replace("$(", "$$(")  # which Kubernetes takes for $(
    assert (
        pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "c"}
        and "metadata" not in spec["template"]
    )


def test_a_bucket_is_mounted_by_gcsfuse(tmp_path):
    template = job(jobset(tmp_path))["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (volume,) = template["spec"]["volumes"]
    assert volume["csi"]["volumeAttributes"] == {
        "bucketName": "b",
        "mountOptions": "implicit-dirs,only-dir=kept",
    }


def test_processes_of_gpus_are_told_of_each_other(tmp_path):
    made = jobset(tmp_path, *MADE[2])
    (container,) = job(made)["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert told["JAX_NUM_PROCESSES"] == str(job(made)["completions"]) == "2" and told["A"] == "b c"
    host, port = told["JAX_COORDINATOR_ADDRESS"].split(":")
    # The hostname of the first pod, in the headless service that the controller makes.
    assert host == "jaxneg-mine-hosts-0-0.jaxneg-mine" and container["ports"] == [
        {"containerPort": int(port)}
    ]


@pytest.fixture(params=["jobset", "xpk"])
def rehearse(request, tmp_path):
    """Plays states and codes; returns the ending, the place, and what each pod ran."""

    def rehearse(restarts=10, verb=(), **play):
        kept = "" if request.param == "xpk" else "--mount gs://b=/data"
        options = XPK if request.param == "xpk" else "--image i"
        out = written(request.param, tmp_path, f"{TPU} {options} {kept} --restarts {restarts}")
        usual = {"hosts": 2, "states": ["run"], "codes": ["0 0"], "unreached": [], "cut": -1, "denied": 0}
        usual |= {"disruption": "none"}  # xpk has no rule of it
        if request.param == "jobset":
            usual |= as_controllers_read(yaml.safe_load((out / "jobset.yaml").read_text()))
        place = rehearsals.Place(tmp_path / "place", "kubectl xpk python", **usual | play)
        return place.run(str(out / "launch.sh"), *verb), place, place.calls("python")

    rehearse.kind = request.param
    return rehearse


def as_controllers_read(made):
    mend, disrupted = job(made)["podFailurePolicy"]["rules"]
    (rule,) = made["spec"]["failurePolicy"]["rules"]
    assert mend["action"] == "FailJob" and disrupted["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert (
        job(made)["backoffLimit"] == 0
    )  # any other failure of a pod is one of the Job, and has all start again
    (container,) = job(made)["template"]["spec"]["containers"]
    words = [word.replace("$$(", "$(") for word in container["args"]]
    return {
        "pod": [*container["command"], *words],
        "limit": made["spec"]["failurePolicy"]["maxRestarts"],
        "policy": [mend["onExitCodes"]["operator"], *mend["onExitCodes"]["values"]],
        "disruption": disrupted["action"],
    }


def test_a_run_waits_for_room_trains_and_ends(rehearse):
    done, place, runs = rehearse(states=["wait", "wait", "run"])
    assert done.returncode == 0, done.stderr
    assert sorted(runs) == [
        [f"host {host}", "-m", "jaxneg.plan.launch.process", "train", *WORDS] for host in (0, 1)
    ]


def test_a_lost_host_has_all_start_again_with_the_same_command(rehearse):
    done, place, runs = rehearse(codes=["75 137", "134 75", "1 75", "0 0"], restarts=3)
    assert done.returncode == 0, done.stderr
    assert len(runs) == 8 and len({tuple(call) for call in runs}) == 2 and "restarts:  3" in done.stderr


@pytest.mark.parametrize("codes", ["2 2", "75 2", "2 75", "0 2", "134 2"])
def test_what_a_person_has_to_mend_is_never_tried_again(rehearse, codes):
    done, place, runs = rehearse(codes=[codes])
    assert done.returncode == 2 and len(runs) == 2
    assert "a person has to mend" in done.stderr and "the last lines of all pods" in done.stderr


def test_preemption_counts_for_no_restart(rehearse):
    if rehearse.kind == "xpk":
        pytest.skip("xpk's own JobSet counts it")
    done, place, runs = rehearse(
        codes=["143D 137D", "143D 143D", "0 0"], restarts=0, states=["run", "wait", "run"]
    )
    assert done.returncode == 0 and len(runs) == 6 and "restarts:  0" in done.stderr


def test_a_crash_loop_ends(rehearse):
    done, place, runs = rehearse(codes=["75 134"], restarts=2)
    assert done.returncode in (75, 134) and len(runs) == 2 * 3


def test_a_watch_may_end_and_take_up_the_run_and_a_stopped_run_is_gone(rehearse, tmp_path):
    done, place, runs = rehearse(states=["wait"], cut=2)
    assert done.returncode == -signal.SIGTERM and not runs
    with open(place.directory / "play.sh", "a") as file:
        file.write("states=(run) cut=-1 unreached=(3 4 5)\n")
    again = place.run(str(tmp_path / "out" / "launch.sh"))
    assert again.returncode == 0 and len(place.calls("python")) == 2
    assert place.run(str(tmp_path / "out" / "launch.sh"), "stop").returncode == 0
    assert not (place.directory / "set").exists()


def test_a_cluster_that_is_silent_for_long_is_told(rehearse):
    done, *_ = rehearse(unreached=range(40))
    assert done.returncode == 75 and "goes on without this script" in done.stderr


def test_xpk_is_asked_for_what_was_described(tmp_path):
    out = written("xpk", tmp_path, f"--topology v5e:4x4 --slices 2 {XPK} --grace 60 --env A=b")
    place = rehearsals.Place(tmp_path / "place", "kubectl xpk python", unreached=range(40), cut=-1)
    place.run(str(out / "launch.sh"))
    (call,) = place.calls("xpk")
    assert {"--tpu-type=v5litepod-16", "--num-slices=2", "--docker-image=i", "--cluster=c", "--env=A=b"} <= {
        *call
    }
    assert {"--termination-grace-period-seconds=60", "--restart-on-exit-codes=1,75"} <= {*call}


def test_a_cluster_without_jobsets_is_for_a_person_to_mend(tmp_path):
    out = written("jobset", tmp_path, f"{TPU} --image i --mount gs://b=/data")
    place = rehearsals.Place(tmp_path / "place", "kubectl", denied=1)
    done = place.run(str(out / "launch.sh"))
    assert done.returncode == 2 and "no matches for kind" in done.stderr


def ended(code, **how):
    return process.run([sys.executable, "-S", "-c", f"import os, sys; {code}"], **how)


@pytest.mark.parametrize("code", [0, 2, 75, 134])
def test_a_process_ends_as_what_it_runs_and_late_where_a_peer_may_be_to_blame(code):
    began = time.monotonic()
    assert ended(f"sys.exit({code})", wait=0.5) == code
    assert (time.monotonic() - began > 0.5) == (code in (75, 134))
    assert ended("os.kill(os.getpid(), 9)", wait=0.0) == 137


def test_a_process_passes_sigterm_on_once(tmp_path):
    code = (
        "import signal, sys, time; n = []; signal.signal(15, lambda *_: n.append(1)); print('ready', flush=True)\n"
        "while not n: time.sleep(0.01)\n"
        "time.sleep(0.3); print(len(n)); sys.exit(143)"
    )
    run = "import sys; from jaxneg.plan.launch import process\n"
    run += f"sys.exit(process.run([sys.executable, '-S', '-c', {code!r}]))"
    started = subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True)
    assert started.stdout.readline() == "ready\n"
    started.terminate()
    assert started.communicate(timeout=30)[0] == "1\n" and started.returncode == 143


def test_a_scheduler_that_reports_the_highest_code_hears_of_what_is_to_be_mended(capfd):
    assert process.main(["--mended", "254", "--told-all", "train", "no.py", "--workdir", "x"]) == 254
    assert "no.py" in capfd.readouterr().err
