#!/usr/bin/env bash
# Trains jaxneg-mine on v5e:4x4: written by jaxneg launch tpu-vm, to be written anew by it.
#
# What launch.sh has every host do.
set -euo pipefail

name=jaxneg-mine
image=us-docker.pkg.dev/my-project/jaxneg/tpu
registry=us-docker.pkg.dev
grace=120
run=(train gs://music/mine.py --workdir /data/runs/mine --data.store gs://music/stores/mine)
options=(--volume=/data:/data)
buckets=(music)
only=('')
places=(/data)

case ${1:?start, state, log, stop or end} in
start)
    sudo docker rm --force "$name" >/dev/null 2>&1 || true
    rm -f "$name.stopped"
    for n in "${!buckets[@]}"; do
        mountpoint --quiet "${places[n]}" && continue
        if ! command -v gcsfuse >/dev/null; then
            release=$(lsb_release --codename --short)
            curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg |
                sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
            echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt" \
                "gcsfuse-$release main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
            sudo apt-get --quiet update
            sudo apt-get --quiet --yes install gcsfuse
        fi
        sudo mkdir -p "${places[n]}"
        # shellcheck disable=SC2086 # none, or one option
        sudo gcsfuse --implicit-dirs -o allow_other ${only[n]} "${buckets[n]}" "${places[n]}"
    done
    [[ -z $registry ]] || sudo gcloud auth configure-docker "$registry" --quiet
    # Devices of TPUs are root's on some of the VMs. What follows --stop-timeout is for a VM that is shut down.
    sudo docker run --detach --name "$name" --privileged --network host --user root \
        --stop-timeout "$grace" "${options[@]}" "$image" "${run[@]}"
    ;;
state)
    if [[ -e $name.stopped ]]; then
        echo "host stopped 143"
    elif said=$(sudo docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$name" 2>/dev/null); then
        echo "host $said"
    else
        echo "host absent 0"
    fi
    ;;
log)
    sudo docker logs --tail 40 "$name"
    ;;
stop) # of a person: launch.sh does not start it again
    touch "$name.stopped"
    sudo docker stop --time "$grace" "$name"
    ;;
end)
    sudo docker stop --time "$grace" "$name" || true
    ;;
*)
    echo "no $1: start, state, log, stop or end" >&2
    exit 2
    ;;
esac
