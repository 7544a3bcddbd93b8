# shellcheck shell=bash
# Where the lab's image and the test roots are, and making them when they are not there.
# Sourced after common.sh and packages.sh.

# lab_image_directory: where the image of this recipe is or will be: disk, vmlinuz, initramfs.
lab_image_directory() {
    local here=$RINGFENCE_CHECKOUT/scripts/lib
    printf '%s/lab-%s\n' "$RINGFENCE_CACHE" "$(content_key "$here/make-lab-image" \
        "$here/make-roots" "$here/debian.sh" "$here/cpio.py" "$here/lab-guest/modules.sh")"
}

# lab_qemu_directory: where the QEMU of this recipe is or will be: the program, lib, share.
lab_qemu_directory() {
    local here=$RINGFENCE_CHECKOUT/scripts/lib
    printf '%s/qemu-%s\n' "$RINGFENCE_CACHE" \
        "$(content_key "$here/make-lab-qemu" "$here/debian.sh" "$here"/lab-qemu/*)"
}

# ensure_lab_image: makes the image, and the QEMU that runs it, unless they are there.
ensure_lab_image() {
    require_packages "the lab (a host with KVM, emulated by QEMU)" "${LAB_PACKAGES[@]}"
    local directory
    directory=$(lab_image_directory)
    # A process of its own: errexit would not hold in a function whose status is looked at.
    [[ -e $directory/complete ]] ||
        bash "$RINGFENCE_CHECKOUT/scripts/lib/make-lab-image" "$directory" </dev/null >&2 ||
        die "the lab's image could not be made (see above)"
    directory=$(lab_qemu_directory)
    [[ -e $directory/complete ]] ||
        bash "$RINGFENCE_CHECKOUT/scripts/lib/make-lab-qemu" "$directory" </dev/null >&2 ||
        die "the lab's QEMU could not be built (see above)"
}

# roots_directory: where the test roots of this recipe are or will be on a machine with a good KVM.
roots_directory() {
    local here=$RINGFENCE_CHECKOUT/scripts/lib
    printf '%s/roots-%s\n' "$RINGFENCE_CACHE" \
        "$(content_key "$here/make-roots" "$here/debian.sh")"
}

# ensure_roots: makes the test roots on this machine unless they are there.
ensure_roots() {
    local directory
    directory=$(roots_directory)
    [[ ! -e $directory/complete ]] || return 0
    require_packages "the test roots (Debian file systems)" "${ROOTS_PACKAGES[@]}"
    is_root || die "the test roots are made with mmdebstrap as root; run this once as root"
    say "making the test roots, once, about 1 minute (log: $directory.log)"
    (
        hold_lock "$directory.lock"
        [[ ! -e $directory/complete ]] || exit 0
        rm -rf --one-file-system -- "$directory.new" "$directory"
        bash "$RINGFENCE_CHECKOUT/scripts/lib/make-roots" "$directory.new" </dev/null \
            >"$directory.log" 2>&1 || exit 1
        touch "$directory.new/complete" && mv "$directory.new" "$directory"
    ) || {
        tail -n 20 "$directory.log" >&2
        die "the test roots could not be made (whole log: $directory.log)"
    }
}
