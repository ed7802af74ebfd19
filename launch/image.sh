#!/usr/bin/env bash
# Builds the image of the Dockerfile and tries it out: the verbs up to an export, and then a server that answers.
#
#   launch/image.sh jaxneg                                      # CPUs
#   launch/image.sh jaxneg-cuda --build-arg ACCELERATOR=cuda13  # or tpu
#
# Needs docker or podman. Exit code 1 where the trial does not end well; the image keeps its tag all the same.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-jaxneg}
builder=$(command -v docker || command -v podman) || {
    echo "launch/image.sh: neither docker nor podman is here: install one" >&2
    exit 2
}
export BUILDAH_FORMAT=docker # the other format of podman has no health check
"$builder" build --tag "$tag" "${@:2}" .

server=""
home=$("$builder" volume create) # begins as the home of the image's user
trap '[[ -z $server ]] || "$builder" rm --force "$server" >/dev/null || true; "$builder" volume rm "$home" >/dev/null' EXIT

fail() {
    echo "launch/image.sh: $1" >&2
    exit 1
}
inside() {
    "$builder" run --rm --interactive --volume "$home:/home/jaxneg" "$@"
}
inside --entrypoint tee "$tag" config.py <<'PYTHON'
from jaxneg.config import Config, DataConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(data=DataConfig(store="store"), model=ModelConfig(width=16, layers=1), train=TrainConfig(epochs=1))
PYTHON
inside "$tag" simulate --out log.csv --users 60 --items 80 --artists 10 --sessions 300
inside "$tag" prepare table log.csv --out store
inside "$tag" train config.py --workdir run
inside "$tag" export run --out export --formats stablehlo,index
inside "$tag" export --check export

server=$("$builder" run --detach --publish 127.0.0.1::8000 --volume "$home:/home/jaxneg" "$tag" \
    serve --host 0.0.0.0 export)
for _ in $(seq 120); do
    health=$("$builder" inspect --format '{{.State.Health.Status}}' "$server")
    [[ $health == starting ]] || break
    sleep 1
done
if [[ $health != healthy ]]; then
    "$builder" logs "$server" >&2
    fail "the server is $health"
fi
[[ $("$builder" exec "$server" id -u) != 0 ]] || fail "the server runs as root"
address=$("$builder" port "$server" 8000/tcp | head -n 1)
answer=$(curl --fail --silent --show-error --header 'Content-Type: application/json' \
    --data '{"events": [], "k": 3}' "http://$address/recommend")
[[ $answer == *'"recommendations"'* ]] || fail "the server said $answer"
"$builder" stop -t 20 "$server" >/dev/null
code=$("$builder" inspect --format '{{.State.ExitCode}}' "$server")
[[ $code == 0 ]] || fail "told to end, the server ended with $code"
echo "launch/image.sh: $tag trains, exports, serves and ends"
