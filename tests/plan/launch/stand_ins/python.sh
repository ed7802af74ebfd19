# Training in a pod or a task: it ends with the code that it is given.
if [[ $CODE == 2 && "$*" == *"--mended 254"* ]]; then exit 254; fi
exit "$CODE"
