# xpk, which makes a JobSet that starts again after 42, 127 to 255 and the codes that it is given.
[[ "$1 $2" == "workload create" && ! -e $PLACE/set ]] || fail "no such call, or made twice: $*"
mkdir "$PLACE/set"
echo 0 >"$PLACE/set/restarts"
for word; do
    case $word in
    --max-restarts=*) echo "limit=${word#*=}" ;;
    --restart-on-exit-codes=*) echo "policy=(NotIn 42 $(seq -s ' ' 127 255) $(tr , ' ' <<<"${word#*=}"))" ;;
    --command=*) printf 'pod=(bash -c %q)\n' "${word#*=}" ;;
    esac
done >>"$PLACE/play.sh"
