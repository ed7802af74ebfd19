# What stand-ins share; it stands before each of them. play.sh sets what they are to play.
set -euo pipefail
source "$PLACE/play.sh"
printf '%q ' ${HOST+"host $HOST"} "$@" >>"$PLACE/${0##*/}.calls"
echo >>"$PLACE/${0##*/}.calls"

counted() { # sets n: how often this was called before
    n=0
    [[ ! -e $PLACE/$1.count ]] || read -r n <"$PLACE/$1.count"
    echo $((n + 1)) >"$PLACE/$1.count"
}
among() { # whether the first is one of the others
    [[ " ${*:2} " == *" $1 "* ]]
}
fail() { # of the rehearsal itself
    echo "stand-in ${0##*/}: $1" >&2
    exit 99
}
