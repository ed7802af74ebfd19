# Containers of a host: each start ends with the code that the play has for that start and that host; - goes on.
case $1 in
run)
    [[ ! -e container ]] || fail "started beside another"
    counted "runs-$HOST"
    ! among "$n" "${unpulled[@]}" || exit 125
    counted "starts-$HOST"
    read -ra ends <<<"${codes[n < ${#codes[@]} ? n : ${#codes[@]} - 1]}"
    echo "${ends[HOST]}" >container
    echo 0 >seen
    ;;
rm) rm -f container ;;
inspect)
    [[ -e container ]] || exit 1
    read -r code <container
    read -r seen <seen
    echo $((seen + 1)) >seen
    if [[ $code == - ]] || ((seen < 1)); then echo "running 0"; else echo "exited $code"; fi
    ;;
stop) echo 143 >container && echo 9 >seen ;;
logs) echo "the log of host $HOST" ;;
*) fail "no such call: $*" ;;
esac
