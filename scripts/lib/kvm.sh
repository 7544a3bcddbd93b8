# shellcheck shell=bash
# Whether this machine's own /dev/kvm will do. Sourced after common.sh.

# Where running labs and short-lived verdicts live: private to this user, gone after a reboot.
RINGFENCE_RUN=${XDG_RUNTIME_DIR:-/tmp}/ringfence-lab-$(id -u)

# make_run_directory: creates it, and refuses one that somebody else prepared.
make_run_directory() {
    [[ -d $RINGFENCE_RUN ]] || mkdir -m 0700 "$RINGFENCE_RUN" 2>/dev/null || true
    [[ -O $RINGFENCE_RUN && ! -L $RINGFENCE_RUN ]] ||
        die "$RINGFENCE_RUN belongs to somebody else; remove it or set XDG_RUNTIME_DIR"
}

# kvm_verdict: "good: WHY" or "bad: WHY". Asked once a boot and device, since the question takes a
# second where the answer is no. RINGFENCE_LAB=1 forces the lab.
kvm_verdict() {
    if [[ ${RINGFENCE_LAB:-} == 1 ]]; then
        echo "bad: RINGFENCE_LAB=1 asks for the lab"
        return
    fi
    make_run_directory
    local question file why
    question=$(cat /proc/sys/kernel/random/boot_id "$RINGFENCE_CHECKOUT/scripts/lib/kvm-check.py"
        stat -c '%t:%T:%a:%u:%g' /dev/kvm 2>&1 || true)
    file=$RINGFENCE_RUN/kvm-$(sha256sum <<<"$question" | cut -c1-16)
    if [[ ! -s $file ]]; then
        command -v python3 >/dev/null || require_packages "the check of /dev/kvm" python3
        if why=$(timeout -k 1 5 python3 "$RINGFENCE_CHECKOUT/scripts/lib/kvm-check.py" 2>&1); then
            echo "good: $why" >"$file.$$"
        else
            echo "bad: ${why:-the check did not end within 5 s}" >"$file.$$"
        fi
        mv "$file.$$" "$file"
    fi
    cat "$file"
}

# kvm_is_good: whether a VM can run here without the lab.
kvm_is_good() {
    [[ $(kvm_verdict) == good:* ]]
}
