# shellcheck shell=bash
# Debian packages by purpose. Sourced by the scripts that need them; sets arrays only.
# shellcheck disable=SC2034

# Compiling the workspace, and packing the agent.
RUST_PACKAGES=(gcc libc6-dev binutils pkg-config libseccomp-dev python3)
# scripts/build-kernel, which only names what is missing.
KERNEL_PACKAGES=(linux-source-6.12 gcc binutils make flex bison bc perl xz-utils patch libelf-dev)
# Making the lab's image and starting a lab from it.
LAB_PACKAGES=(e2fsprogs kmod python3 psmisc xz-utils mmdebstrap debian-archive-keyring patch
    binutils)
# Making the test roots on this machine.
ROOTS_PACKAGES=(xz-utils mmdebstrap debian-archive-keyring)
# Running the end-to-end tests on this machine.
E2E_PACKAGES=(crun runc gcc libc6-dev strace util-linux procps git rsync python3 iproute2)
# The unit tests: busybox for the root of the agent's containers, ip and tc for network namespaces.
UNIT_PACKAGES=(busybox-static iproute2 util-linux)
CHECK_PACKAGES=(shellcheck git)
