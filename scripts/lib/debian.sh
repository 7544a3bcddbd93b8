# shellcheck shell=bash
# Debian roots by mmdebstrap. Sourced after common.sh, by the scripts that make roots and images;
# part of their recipes.

DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
DEBIAN_SUITE=trixie

# make_debian DIRECTORY [PACKAGE…]: a minimal Debian root with the given packages added.
make_debian() {
    local directory=$1 include
    shift
    include=$(
        IFS=,
        echo "$*"
    )
    mmdebstrap --quiet --mode=root --variant=minbase ${include:+--include="$include"} \
        --aptopt='Acquire::Retries "3"' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$DEBIAN_SUITE" "$directory" "$DEBIAN_MIRROR"
}
