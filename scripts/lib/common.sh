# shellcheck shell=bash
# What every script here starts from: where the checkout and the cache are, how to speak to the
# person at the terminal, how to get Debian packages, how to hold a lock.
#
# Sourced, never run. Messages go to stderr: stdout belongs to the command's result.

# A failure inside $(…) must end it, too.
shopt -s inherit_errexit

# The checkout that this script belongs to, whatever the caller's directory is.
RINGFENCE_CHECKOUT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Things that are slow to make and do not belong to one checkout: kernels, lab images, roots.
RINGFENCE_CACHE=${RINGFENCE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ringfence}
export RINGFENCE_CHECKOUT RINGFENCE_CACHE

# One line of progress.
say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&"${RINGFENCE_SAY_FD:-2}"
}

# Ends the script. The exit status is the lab's own (125, as podman and docker use it) so that a
# caller can tell "the machinery failed" from "the command failed".
die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit "${RINGFENCE_DIE_STATUS:-125}"
}

is_root() {
    [[ $(id -u) == 0 ]]
}

# missing_packages PACKAGE…: those that are not installed, one a line.
missing_packages() {
    local installed package
    # "installed" alone: a removed package whose configuration is still there is known, too.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for package in "$@"; do
        grep -qxF "installed $package" <<<"$installed" || echo "$package"
    done | LC_ALL=C sort -u
}

# require_packages PURPOSE PACKAGE…: installs those Debian packages that are not there yet.
require_packages() {
    local purpose=$1 missing
    shift
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null 2>&1 ||
        die "$purpose needs these Debian packages and there is no apt-get here: ${missing[*]}"
    is_root ||
        die "$purpose needs packages that are not installed; as root run: apt-get install ${missing[*]}"
    [[ -z ${RINGFENCE_NO_INSTALL:-} ]] ||
        die "$purpose needs packages that are not installed and installing is switched off; run: apt-get install ${missing[*]}"
    say "installing ${#missing[@]} Debian packages for $purpose (1 to 3 minutes): ${missing[*]}"
    mkdir -p "$RINGFENCE_CACHE"
    local log=$RINGFENCE_CACHE/apt.log
    # Another script of this checkout, or the machine's own timers, may hold dpkg's lock.
    if ! {
        DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update &&
            DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
                --no-install-recommends install "${missing[@]}"
    } >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        die "apt-get could not install: ${missing[*]} (whole log: $log)"
    fi
}

# hold_lock FILE: holds FILE until this process ends; says so when it has to wait.
hold_lock() {
    local descriptor
    mkdir -p "$(dirname "$1")"
    exec {descriptor}>"$1"
    if ! flock -n "$descriptor"; then
        say "waiting for another run that is working on the same thing ($1)"
        flock "$descriptor"
    fi
}

# content_key FILE…: a short hash over the files' contents; the name of what is made from them.
content_key() {
    cat -- "$@" | sha256sum | cut -c1-16
}
