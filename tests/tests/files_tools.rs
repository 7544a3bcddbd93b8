//! What people use every day, on a share and beside crun: git, rsync, tar, SQLite.
//!
//! The tools are the host's: its `/usr` is the container's, where a Debian has all programs and
//! libraries.

use std::path::Path;

use integration_tests::both::{both_the_same, bundle_on};
use integration_tests::{Bundle, Invocation, Lab, repository};

const SQLITE: &str = include_str!("../guest/sqlite.py");

/// A container with the host's programs, that works in a share.
fn with_tools(lab: &Lab, share: &Path) -> Bundle {
    bundle_on(lab, "debian", share).bind(Path::new("/usr"), "/usr", &["ro"])
}

fn copy(from: &Path, to: &Path) {
    Invocation::new("cp").arg("-a").arg(from).arg(to).run().expect_code(0);
}

#[test]
fn a_repository_is_cloned_changed_and_collected() {
    let lab = Lab::enter();
    // Nothing in it that differs from one run to the next: not the time, not the order of threads,
    // and not the indexes, which hold inode numbers.
    let script = "set -e
        export HOME=/mnt GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000'
        git config --global user.name x; git config --global user.email x@example.org
        git config --global pack.threads 1; git config --global gc.auto 0
        git config --global safe.directory '*'; git config --global advice.detachedHead false
        # A guest that is emulated takes its time for each file.
        echo == make; cd source; rm -rf contrib doc msdos old os400 test win32
        git init -q -b main; git add .; git commit -q -m one
        echo two >>README; git mv FAQ QAF; git commit -q -a -m two; cd ..
        echo == clone; git clone -q file:///mnt/source packed; cd packed; git log --format=%h%s
        echo == change; git checkout -q -b side HEAD~1; git rm -q -r examples; echo more >>README
        git commit -q -a -m side; git merge -q -m merged -X ours main; git push -q origin side
        echo == collect; git gc -q --prune=now; git fsck --full 2>&1; git count-objects -v
        git status --porcelain; cd ../source; git reset -q --hard side; git rev-parse HEAD
        rm -f ../*/.git/index ../*/.git/ORIG_HEAD; rm -f ../*/.git/objects/info/commit-graph";
    let fill = |share: &Path| copy(&lab.source("zlib"), &share.join("source"));
    both_the_same(&lab, fill, |share| with_tools(&lab, share).script(script));
}

#[test]
fn a_system_is_copied_by_rsync_and_tar() {
    let lab = Lab::enter();
    // The container's own files, its root's, are what is copied; what is mounted there is not.
    let script = "set -e
        parts='/etc /root'
        echo == tar; mkdir tar; tar -c -f - --one-file-system -C / $(echo $parts | tr -d /) | tar -x -p -C tar
        tar -c -f all.tar -C tar .; tar -d -f all.tar -C tar; echo $?; rm all.tar
        echo == rsync; rsync -aHAX --numeric-ids --one-file-system $parts rsync
        touch -d @1000000000 tar rsync; rsync -aHAXn --delete --itemize-changes tar/ rsync; echo $?
        echo == change; echo new >rsync/etc/new; rm rsync/etc/passwd; chmod 700 rsync/etc/skel
        ln rsync/etc/group rsync/etc/hard; touch -d @1000000000 rsync/etc/issue
        rsync -aHAX --delete --itemize-changes tar/ rsync | LC_ALL=C sort
        echo == equal; diff -r --no-dereference tar rsync; echo $?; find rsync | wc -l";
    both_the_same(&lab, |_| (), |share| with_tools(&lab, share).script(script));
}

#[test]
fn a_database_has_several_writers_at_once() {
    let lab = Lab::enter();
    let run = |share: &Path| {
        std::fs::write(share.join("sqlite.py"), SQLITE).unwrap();
        with_tools(&lab, share).args(&["/usr/bin/python3", "sqlite.py", "base"])
    };
    both_the_same(&lab, |_| (), run);
}

/// A linker and make, which a minimal Debian does not have.
const FEW: &[&str] = &[
    "binutils",
    "binutils-common",
    "binutils-x86-64-linux-gnu",
    "libbinutils",
    "libctf-nobfd0",
    "libctf0",
    "libgprofng0",
    "libjansson4",
    "libsframe1",
    "make",
];

/// With them, the headers of C: two thousand files more.
const MANY: &[&str] =
    &["libc-dev-bin", "libc6-dev", "libcrypt-dev", "linux-libc-dev", "rpcsvc-proto"];

/// Installs `names` with what they need from a repository of `packages`, uses them, and removes them.
fn install(packages: &[&str], names: &str) {
    let lab = Lab::enter();
    let directory = lab.directory("repository");
    repository::make(&lab, "gcc", &directory, packages);
    let script = "set -e
        export DEBIAN_FRONTEND=noninteractive LC_ALL=C
        rm -rf /etc/apt/sources.list.d; echo 'deb [trusted=yes] file:/repository ./' >/etc/apt/sources.list
        apt='apt-get -q -y -o APT::Sandbox::User=root --no-install-recommends'
        echo == update; $apt update >/dev/null
        echo == install; $apt install $NAMES >log 2>&1 || { cat log; exit 1; }
        grep -c '^Unpacking' log; grep '^Setting up' log; rm log; dpkg --audit; apt-get -q check
        echo == use; printf '.globl _start\\n_start: mov $60, %%eax\\nmov $7, %%edi\\nsyscall\\n' >a.s
        printf 'a: a.o\\n\\tld -o a a.o\\n' >Makefile; make -s; ./a && exit 1; echo $?; rm a* Makefile
        echo == installed; cd /
        find etc usr var/lib/dpkg \\( -type f -o -type l \\) -printf '%p %m %U %G %s %l\\n' |
            LC_ALL=C sort | sha256sum
        find usr/bin usr/include -type f | LC_ALL=C sort | xargs cat | sha256sum
        echo == remove; $apt purge $NAMES >/dev/null
        $apt autoremove --purge | grep -c '^Removing'; test ! -e /usr/bin/make";
    let run = |share: &Path| {
        let bundle = bundle_on(&lab, "debian", share).bind(&directory, "/repository", &["ro"]);
        std::fs::create_dir(bundle.root().join("repository")).unwrap();
        bundle.script(script).env(&format!("NAMES={names}"))
    };
    both_the_same(&lab, |_| (), run);
}

#[test]
fn packages_are_installed_from_a_repository() {
    install(FEW, "binutils make");
}

#[test]
#[ignore = "minutes in a lab; before a release: files_tools -- --ignored"]
fn packages_with_thousands_of_files_are_installed() {
    install(&[FEW, MANY].concat(), "binutils libc6-dev make");
}
