"""TPU VMs: the whole life of a run, with stand-ins for gcloud and for docker on the hosts."""

import shlex
import signal

import pytest

from jaxneg import cli
from tests.plan.launch import rehearsals

WORDS = [
    "gs://b/mine.py",
    "--workdir",
    "/data/runs/mine",
    "--data.store",
    'gs://b/it\'s a $HOME "store" \\ ; #',
]
RUN = shlex.join(WORDS)
CALL = "--image us-docker.pkg.dev/p/r/jaxneg:1 --project p --zone z --mount gs://b/kept=/data"


def written(tmp_path, *more, topology="v4:2x2x2"):
    words = ["launch", "tpu-vm", "--topology", topology, "--run", RUN, *CALL.split(), *more]
    cli.main([*words, "--out", str(tmp_path / "out")])
    return str(tmp_path / "out" / "launch.sh")


@pytest.fixture
def rehearse(tmp_path):
    """Plays states and codes; returns the ending, the place, and what docker ran."""

    def rehearse(*more, verb=(), topology="v4:2x2x2", **play):
        script = written(tmp_path, *more, topology=topology)
        usual = {"nodes": 1, "hosts": 2, "codes": ["0 0"], "cut": -1}
        usual |= dict.fromkeys(("refused", "unreached", "unpulled", "silent", "stuck"), [])
        place = rehearsals.Place(tmp_path / "place", "gcloud sudo docker mountpoint gcsfuse", **usual | play)
        done = place.run(script, *verb)
        return done, place, runs_of(place)

    return rehearse


def runs_of(place):
    return [call for call in place.calls("docker") if call[1] == "run"]


def verbs(place):
    """What gcloud was asked to do with requests, looking aside."""
    calls = [call for call in place.calls("gcloud") if call[2:3] == ["queued-resources"]]
    return [call[3] for call in calls if call[3] != "list"]


def test_a_run_waits_for_capacity_trains_and_gives_the_slice_back(rehearse):
    waiting = ["CREATING", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    done, place, runs = rehearse(states=waiting)
    assert done.returncode == 0, done.stderr
    assert verbs(place) == ["create", "delete"] and len(runs) == 2
    (create,) = [call for call in place.calls("gcloud") if call[3] == "create"]
    assert {"jaxneg-mine", "--node-id=jaxneg-mine", "--type=v4", "--topology=2x2x2"} <= {*create}
    assert {"--project=p", "--zone=z", "--runtime-version=tpu-ubuntu2204-base"} <= {*create}
    assert "--spot" not in create
    for host, call in enumerate(sorted(runs)):
        assert call[0] == f"host {host}" and call[call.index("us-docker.pkg.dev/p/r/jaxneg:1") + 1 :] == [
            "train",
            *WORDS,
        ]
        assert {"--detach", "--privileged", "--volume=/data:/data"} <= {*call}
    # The bucket is mounted before training, on every host.
    assert [call[-3:] for call in place.calls("gcsfuse")] == [["--only-dir=kept", "b", "/data"]] * 2


def test_spot_that_is_taken_away_is_asked_for_again_and_the_same_command_goes_on(rehearse):
    states = ["WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED"]
    states += ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "ACTIVE"]
    done, place, runs = rehearse("--spot", "--restarts", "0", states=states, codes=["- -", "0 0"])
    assert done.returncode == 0, done.stderr
    assert verbs(place) == ["create", "delete", "create", "delete"]
    assert all("--spot" in call for call in place.calls("gcloud") if call[3] == "create")
    assert len(runs) == 4 and len({tuple(call[1:]) for call in runs}) == 1
    assert "taken away" in done.stderr and "restart" not in done.stderr  # it counts for none


@pytest.mark.parametrize("codes", ["2 2", "75 2", "2 -", "0 2", "134 2"])
def test_what_a_person_has_to_mend_is_never_tried_again(rehearse, codes):
    done, place, runs = rehearse(states=["ACTIVE"], codes=[codes])
    assert done.returncode == 2 and len(runs) == 2
    assert "the log of host 1" in done.stderr and "a person has to mend" in done.stderr
    assert verbs(place) == ["create", "delete"]


@pytest.mark.parametrize(("codes", "stopped"), [("75 134", 0), ("137 -", 2)])
def test_a_lost_host_has_all_start_again(rehearse, codes, stopped):
    done, place, runs = rehearse(states=["ACTIVE"], codes=[codes, "0 0"])
    assert done.returncode == 0, done.stderr
    assert len(runs) == 4 and "restart 1 of 10" in done.stderr
    # A host that does not notice is told.
    assert len([call for call in place.calls("docker") if call[1] == "stop"]) == stopped


def test_a_crash_loop_ends(rehearse):
    done, place, runs = rehearse("--restarts", "2", states=["ACTIVE"], codes=["134 75"])
    assert done.returncode in (75, 134) and len(runs) == 2 * 3
    assert "after 2 restarts" in done.stderr and verbs(place) == ["create", "delete"]


def test_a_request_that_fails_and_hosts_that_do_not_start_count_as_restarts(rehearse):
    done, place, runs = rehearse("--restarts", "3", states=["FAILED", "ACTIVE"], unpulled=[0, 1])
    assert done.returncode == 0, done.stderr
    assert verbs(place) == ["create", "delete", "create", "delete"] and "restart 3 of 3" in done.stderr
    assert "restart 1 of 3" in done.stderr and "the request failed" in done.stderr


def test_a_request_that_gcloud_refuses_is_for_a_person_to_mend(rehearse):
    done, place, runs = rehearse(states=["ACTIVE"], refused=[0])
    assert done.returncode == 2 and verbs(place) == ["create"] and not runs
    assert "ERROR: quota" in done.stderr


def test_hosts_that_are_not_reached_for_a_moment_are_waited_for_and_else_replaced(rehearse):
    done, place, runs = rehearse(states=["ACTIVE"], unreached=[0, 1, 2])
    assert done.returncode == 0 and verbs(place) == ["create", "delete"] and len(runs) == 2


def test_hosts_that_are_gone_are_replaced(rehearse):
    done, place, _ = rehearse(states=["ACTIVE"], unreached=range(7))
    assert done.returncode == 0 and verbs(place) == ["create", "delete", "create", "delete"]


def test_a_watch_that_ended_takes_up_the_run_and_a_stopped_one_stays_stopped(rehearse, tmp_path):
    done, place, runs = rehearse(states=["ACTIVE"], codes=["- -"], cut=3)
    assert done.returncode == -signal.SIGTERM and len(runs) == 2  # the watch is ended, training goes on
    script = str(tmp_path / "out" / "launch.sh")
    assert place.run(script, "stop").returncode == 0
    again = place.run(script, LAUNCH_KEEP="1")
    assert again.returncode == 143 and len(runs_of(place)) == 2
    assert verbs(place) == ["create"]  # kept
    assert place.run(script, "delete").returncode == 0 and verbs(place) == ["create", "delete"]


def test_a_gcloud_that_fails_for_a_moment_is_asked_again_and_for_long_told(rehearse):
    done, place, runs = rehearse(states=["ACTIVE"], silent=[0, 1, 3, *range(6, 60)], codes=["- -"])
    assert done.returncode == 75 and len(runs) == 2 and "training goes on without" in done.stderr
    assert verbs(place) == ["create"]  # a slice that trains is not given back


def test_a_slice_that_is_not_given_back_at_once_does_not_end_the_watch_nor_change_its_code(rehearse):
    states = ["ACTIVE", *["SUSPENDED"] * 4, "ACTIVE"]  # giving back looks too
    done, place, runs = rehearse(states=states, codes=["- -", "2 2"], stuck=[0, 2])
    assert done.returncode == 2 and verbs(place) == ["create", "delete", "delete", "create", "delete"]
    assert "launch.sh delete does it" in done.stderr


def test_slices_are_nodes_of_one_request(rehearse):
    done, place, runs = rehearse("--slices", "2", states=["ACTIVE"], nodes=2, codes=["0 0 0 0"])
    assert done.returncode == 0, done.stderr
    (create,) = [call for call in place.calls("gcloud") if call[3] == "create"]
    assert {"--node-count=2", "--node-prefix=jaxneg-mine"} <= {*create} and len(runs) == 4
