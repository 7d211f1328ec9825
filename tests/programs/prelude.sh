# What every script of this directory begins with: an empty directory, a fixed environment, waiting, free ports.
# Scripts print only what must be the same on the host and in a machine.
set -u
umask 022
LC_ALL=C.UTF-8 TZ=UTC PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
here=$(mktemp -d /tmp/programs.XXXXXXXX)
HOME=$here
export LC_ALL TZ PATH HOME
cd "$here" || exit 99
children=
end() {
    for child in $children; do kill "$child" 2>/dev/null; done
    wait 2>/dev/null
    cd /
    rm -rf "$here"
}
trap end EXIT

# soon COMMAND...: runs it until it succeeds, for at most two minutes.
soon() {
    for _ in $(seq 1200); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    echo "never: $*"
    return 1
}

# A port that others hardly use. A server that finds it taken fails its test by name.
port=$((20000 + RANDOM % 12000))
