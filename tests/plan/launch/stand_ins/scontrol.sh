[[ $* == "requeue 17" ]] || fail "no such call: $*"
touch "$PLACE/requeued"
