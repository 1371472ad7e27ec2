#!/bin/sh
# The first job that a newcomer sees: colour, a progress bar, a folded group.
printf '\033[1;32mWelcome to gaffer.\033[0m This runs on \033[36m%s\033[0m as job %s.\n' "$GAFFER_WORKER" "$GAFFER_JOB_ID"
echo '::group::What a job knows about itself'
env | grep '^GAFFER_' | sort
echo "its scratch directory is $(pwd)"
echo '::endgroup::'
step=0
while [ "$step" -le 40 ]; do
    printf '\r\033[33m%3d%%\033[0m [%-40s]' "$((step * 100 / 40))" "$(printf '%*s' "$step" '' | tr ' ' '#')"
    sleep 0.5
    step=$((step + 1))
done
printf '\n'
# Two pipes have no common order; what is written at the same moment may be read either way round.
sleep 0.2
echo 'Standard error is told apart.' >&2
sleep 0.2
printf '\033[1mYour turn:\033[0m gaffer run -- uname -a\n'
