//! `mounts` and `linux.rootfsPropagation`.

use std::path::{Path, PathBuf};

use integration_tests::Bundle;
use integration_tests::differential::{Group, Stage, edit, look, set};
use serde_json::json;

/// The file systems of an ordinary bundle.
pub(crate) const DEFAULT: Group = Group {
    name: "default-mounts",
    bundle: |stage| stage.writable(),
    stories: &[],
    cases: &[
        look("order", "awk '{ print $5 }' /proc/self/mountinfo | grep -v -e ^/proc/ -e ^/sys/firm"),
        look(
            "proc",
            "grep ' /proc ' /proc/self/mountinfo | awk '{ print $6 }'; stat -f -c %T /proc",
        ),
        look(
            "dev",
            "grep ' /dev ' /proc/self/mountinfo | awk '{ print $6 }'; stat -c '%a %u %g' /dev",
        ),
        look("dev-size", "df -k /dev | awk 'NR > 1 { print $2 }'"),
        look("devpts", "grep ' /dev/pts ' /proc/self/mountinfo | awk '{ print $6 }'; ls /dev/pts"),
        look("devpts-options", "grep ' /dev/pts ' /proc/self/mountinfo | sed 's/.* - //'"),
        look("shm", "grep ' /dev/shm ' /proc/self/mountinfo | awk '{ print $6 }'"),
        look("shm-size", "df -k /dev/shm | awk 'NR > 1 { print $2 }'; stat -c %a /dev/shm"),
        look(
            "shm-is-full",
            "head -c 80000000 /dev/zero >/dev/shm/x; echo $?; stat -c %s /dev/shm/x",
        ),
        look("mqueue", "grep ' /dev/mqueue ' /proc/self/mountinfo | awk '{ print $6 }'"),
        look(
            "mqueue-file-system",
            "grep ' /dev/mqueue ' /proc/self/mountinfo | sed 's/.* - \\([a-z]*\\).*/\\1/'",
        ),
        look(
            "sysfs",
            "grep ' /sys ' /proc/self/mountinfo | awk '{ print $6 }'; touch /sys/x; echo $?",
        ),
        look("cgroup", "grep ' /sys/fs/cgroup ' /proc/self/mountinfo | awk '{ print $6 }'"),
        look("cgroup-is-readonly", "mkdir /sys/fs/cgroup/x; echo $?"),
        look("cgroup-root", "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs"),
        look(
            "root-propagation",
            "grep ' / / ' /proc/self/mountinfo | grep -c -e shared: -e master:",
        ),
        look(
            "nothing-of-the-host",
            "awk '{ print $5 }' /proc/self/mountinfo | grep -c -e /var/tmp -e /run/",
        ),
    ],
};

/// A directory of the host with files, and its path.
fn tree(stage: &Stage) -> PathBuf {
    let path = stage.file("tree");
    std::fs::create_dir_all(path.join("below")).unwrap();
    std::fs::write(path.join("one"), "one\n").unwrap();
    std::fs::write(path.join("below/two"), "two\n").unwrap();
    std::fs::write(path.join("run"), "#!/bin/sh\necho it ran\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(path.join("run"), mode).unwrap();
    path
}

fn file(stage: &Stage) -> PathBuf {
    let path = stage.file("file");
    std::fs::write(&path, "of the host\n").unwrap();
    path
}

fn bind(bundle: Bundle, source: &Path, destination: &str, options: &[&str]) -> Bundle {
    bundle.mount(json!({
        "destination": destination, "type": "bind", "source": source, "options": options,
    }))
}

/// Shares of the host.
pub(crate) const BINDS: Group = Group {
    name: "bind",
    bundle: |stage| {
        let (tree, file) = (tree(stage), file(stage));
        let bundle = stage.writable();
        std::fs::create_dir(bundle.root().join("taken")).unwrap();
        std::fs::write(bundle.root().join("taken/hidden"), "").unwrap();
        std::os::unix::fs::symlink("/var/tmp", bundle.root().join("link")).unwrap();
        std::os::unix::fs::symlink("/../../..", bundle.root().join("up")).unwrap();
        std::fs::create_dir(bundle.path("relative")).unwrap();
        std::fs::write(bundle.path("relative/r"), "relative\n").unwrap();
        let bundle = bind(bundle, &tree, "/rw", &["bind"]);
        let bundle = bind(bundle, &tree, "/ro", &["bind", "ro"]);
        let bundle = bind(bundle, &tree, "/noexec", &["bind", "noexec", "nosuid", "nodev"]);
        let bundle = bind(bundle, &tree, "/taken", &["rbind"]);
        let bundle = bind(bundle, &file, "/etc/file", &["bind"]);
        let bundle = bind(bundle, &file, "/new/place/file", &["bind", "ro"]);
        let bundle = bind(bundle, &file, "/etc/passwd", &["bind", "ro"]);
        let bundle = bind(bundle, &tree, "/link/inside", &["bind"]);
        let bundle = bind(bundle, &tree, "/up/escaped", &["bind"]);
        let bundle = bind(bundle, &tree, "relative-destination", &["bind"]);
        let bundle = bind(bundle, Path::new("relative"), "/of-the-bundle", &["bind"]);
        let bundle = bind(bundle, &tree, "/rro", &["rbind", "rro"]);
        let bundle = bind(bundle, &tree, "/noatime", &["bind", "noatime"]);
        let bundle = bind(bundle, &file, "/rw/below/two", &["bind"]);
        let bundle = bind(bundle, &tree, "/shared", &["rbind", "rshared"]);
        let bundle = bind(bundle, &tree, "/slave", &["rbind", "rslave"]);
        let bundle = bind(bundle, &tree, "/private", &["rbind", "rprivate"]);
        let bundle = bind(bundle, &tree, "/unbindable", &["rbind", "unbindable"]);
        bundle.mount(json!({ "destination": "/untyped", "source": tree, "options": ["rbind"] }))
    },
    stories: &[],
    cases: &[
        look("directory", "cat /rw/one; ls /rw/below"),
        look("source", "awk '$5 == \"/rw\" { print $4 }' /proc/self/mountinfo | sed 's,.*/,,'")
            .differs("mount-sources"),
        look("is-written", "echo x >/rw/new; echo $?; cat /ro/new; rm /rw/new"),
        look("readonly", "(echo x >/ro/x) 2>&1; echo $?; (rm /ro/one) 2>&1; echo $?"),
        look("readonly-file", "(echo x >/new/place/file) 2>&1; echo $?; cat /new/place/file"),
        look("noexec", "/noexec/run; echo $?; sh /noexec/run"),
        look("exec", "/rw/run"),
        look(
            "nosuid-nodev",
            "grep ' /noexec ' /proc/self/mountinfo | awk '{ print $6 }' | sed s/,[a-z]*atime//",
        ),
        look("hides-what-was-there", "ls -A /taken"),
        look(
            "single-file",
            "cat /etc/file; echo y >/etc/file; cat /etc/file; echo 'of the host' >/etc/file",
        ),
        look(
            "file-is-replaced",
            "(mv /etc/file /etc/other) 2>&1; echo $?; (rm /etc/file) 2>&1; echo $?",
        ),
        look("over-a-file", "cat /etc/passwd; head -c 5 /etc/group"),
        look("made-directories", "stat -c '%a %u %g %F' /new /new/place /ro"),
        look("made-file", "stat -c '%F' /new/place/file; ls -A /new/place"),
        look("destination-is-below-a-link", "cat /var/tmp/inside/one"),
        look("destination-leads-up", "cat /escaped/one; ls -d /up/escaped/below"),
        look("destination-is-relative", "cat /relative-destination/one"),
        look("source-is-relative", "cat /of-the-bundle/r"),
        look("recursively-readonly", "(echo x >/rro/x) 2>&1; echo $?"),
        look("noatime", "grep ' /noatime ' /proc/self/mountinfo | awk '{ print $6 }'"),
        look("over-another", "cat /rw/below/two; cat /ro/below/two"),
        look("without-type", "cat /untyped/one"),
        look("shared", "grep ' /shared ' /proc/self/mountinfo | grep -c shared:"),
        look("slave", "grep ' /slave ' /proc/self/mountinfo | grep -c shared:"),
        look("slave-has-a-master", "grep ' /slave ' /proc/self/mountinfo | grep -c master:"),
        look("private", "grep ' /private ' /proc/self/mountinfo | grep -c -e shared: -e master:"),
        look("unbindable", "grep ' /unbindable ' /proc/self/mountinfo | grep -c unbindable"),
        look("one-file-many-places", "stat -c %i /rw/one /ro/one /noexec/one | sort -u | wc -l"),
        look("hard-link-across", "(ln /rw/one /taken/linked) 2>&1; echo $?"),
        look(
            "rename-across",
            "mv /rw/run /tmp/moved; echo $?; ls /rw/run /tmp/moved; mv /tmp/moved /rw/run",
        ),
        look("set-id-bits", "stat -c %a /rw/run"),
    ],
};

/// File systems that the kernel makes.
pub(crate) const FILE_SYSTEMS: Group = Group {
    name: "file-system",
    bundle: |stage| {
        let bundle = stage.writable();
        std::fs::create_dir(bundle.root().join("copied")).unwrap();
        std::fs::write(bundle.root().join("copied/x"), "copied\n").unwrap();
        std::fs::set_permissions(
            bundle.root().join("copied"),
            std::os::unix::fs::PermissionsExt::from_mode(0o1750),
        )
        .unwrap();
        let mut bundle = bundle;
        for (destination, kind, options) in [
            ("/size", "tmpfs", &["size=2m", "mode=1750", "uid=5", "gid=6"][..]),
            ("/inodes", "tmpfs", &["nr_inodes=10", "mode=700"]),
            ("/flags", "tmpfs", &["nosuid", "nodev", "noexec", "noatime", "size=64k"]),
            ("/readonly", "tmpfs", &["ro"]),
            ("/copied", "tmpfs", &["tmpcopyup", "size=1m"]),
            ("/sync", "tmpfs", &["sync", "dirsync", "strictatime"]),
            ("/defaults", "tmpfs", &["defaults"]),
            ("/later-wins", "tmpfs", &["ro", "rw", "noexec", "exec"]),
            ("/pts", "devpts", &["newinstance", "ptmxmode=0620", "mode=0600"]),
            ("/proc2", "proc", &["ro", "hidepid=2"]),
            ("/sys2", "sysfs", &["ro", "nosuid"]),
            ("/cgroup2", "cgroup2", &["ro"]),
            ("/queue", "mqueue", &[]),
            ("/ram", "ramfs", &[]),
        ] {
            bundle = bundle.mount(json!({
                "destination": destination, "type": kind, "source": kind, "options": options,
            }));
        }
        bundle
    },
    stories: &[],
    cases: &[
        look("tmpfs-size", "df -k /size | awk 'NR > 1 { print $2 }'; stat -c '%a %u %g' /size"),
        look("tmpfs-is-full", "head -c 3000000 /dev/zero >/size/x; echo $?; stat -c %s /size/x"),
        look("tmpfs-inodes", "df -i /inodes | awk 'NR > 1 { print $2 }'; stat -c %a /inodes"),
        look("tmpfs-flags", "grep ' /flags ' /proc/self/mountinfo | awk '{ print $6 }'"),
        look("tmpfs-readonly", "(echo x >/readonly/x) 2>&1; echo $?"),
        look("tmpfs-default-mode", "stat -c '%a %u %g' /defaults /readonly"),
        look("tmpfs-is-its-own", "echo x >/defaults/x; ls -A /defaults /sync"),
        look(
            "tmpcopyup",
            "cat /copied/x; stat -c '%a' /copied; df /copied | awk 'NR > 1 { print $2 }'",
        ),
        look("tmpcopyup-is-a-copy", "echo y >/copied/x; cat /copied/x"),
        look(
            "sync-and-times",
            "grep ' /sync ' /proc/self/mountinfo | awk '{ print $6, $NF }' | sed 's/,inode64//'",
        ),
        look("later-option-wins", "grep ' /later-wins ' /proc/self/mountinfo | awk '{ print $6 }'")
            .differs("later-option"),
        look("devpts", "ls -A /pts; stat -c %a /pts/ptmx"),
        look("proc", "ls -d /proc2/1; (echo x >/proc2/self/comm) 2>&1; echo $?"),
        look("proc-hidepid", "grep ' /proc2 ' /proc/self/mountinfo | grep -c hidepid"),
        look(
            "sysfs",
            "ls -d /sys2/kernel; grep ' /sys2 ' /proc/self/mountinfo | awk '{ print $6 }'",
        ),
        look("cgroup2", "ls /cgroup2/cgroup.procs; stat -f -c %T /cgroup2"),
        look("mqueue", "ls -ld /queue | cut -c1-10"),
        look("ramfs", "echo x >/ram/x; cat /ram/x; stat -f -c %T /ram"),
    ],
};

const PROPAGATION: &str = "echo ran; awk '$5 == \"/\" { print ($0 ~ /shared:/), ($0 ~ /unbindable/) }' /proc/self/mountinfo";

/// Which mounts can be asked for.
pub(crate) const MOUNTS: Group = Group {
    name: "mounts",
    bundle: |stage| stage.writable(),
    stories: &[],
    cases: &[
        edit(
            "source-missing",
            |_, bundle| bind(bundle, Path::new("/no/such/source"), "/tmp", &["bind"]),
            &["/no/such/source"],
        ),
        edit(
            "directory-over-a-file",
            |stage, bundle| bind(bundle, &tree(stage), "/etc/passwd", &["bind"]),
            &["/etc/passwd"],
        ),
        edit(
            "made-in-a-readonly-root",
            |stage, bundle| {
                let bundle = bind(bundle, &tree(stage), "/made", &["bind"]);
                bundle.script("echo ran; ls /made").edit(|config| {
                    config["root"]["readonly"] = json!(true);
                })
            },
            &[],
        ),
        edit(
            "id-mapped",
            |stage, bundle| {
                bundle.script("echo ran; stat -c '%u %g' /x/one").mount(json!({
                    "destination": "/x", "type": "bind", "source": tree(stage),
                    "options": ["bind", "idmap"],
                    "uidMappings": [{ "containerID": 0, "hostID": 1000, "size": 10 }],
                    "gidMappings": [{ "containerID": 0, "hostID": 1000, "size": 10 }],
                }))
            },
            &["mounts", "idmap"],
        )
        .differs("id-mapped-mounts"),
        set(
            "type-of-a-device",
            &[(
                "/mounts/-",
                r#"{ "destination": "/x", "type": "ext4", "source": "/no/such/disk" }"#,
            )],
            &["ext4"],
        ),
        set(
            "type-unknown",
            &[("/mounts/-", r#"{ "destination": "/x", "type": "nothing", "source": "none" }"#)],
            &["nothing"],
        ),
        set(
            "option-unknown",
            &[("/mounts/-", r#"{ "destination": "/x", "type": "tmpfs", "options": ["frob=1"] }"#)],
            &["/x", "frob=1"],
        ),
        set(
            "without-destination",
            &[("/mounts/-", r#"{ "type": "tmpfs", "source": "tmpfs" }"#)],
            &["destination"],
        ),
        set(
            "without-type-and-bind",
            &[("/mounts/-", r#"{ "destination": "/x", "source": "tmpfs" }"#)],
            &["type"],
        ),
        set("without-source", &[("/mounts/-", r#"{ "destination": "/x", "type": "tmpfs" }"#)], &[]),
        set(
            "bind-without-source",
            &[("/mounts/-", r#"{ "destination": "/x", "type": "bind", "options": ["bind"] }"#)],
            &["source"],
        ),
        set(
            "links-are-not-followed",
            &[(
                "/mounts/-",
                r#"{ "destination": "/x", "type": "tmpfs", "options": ["nosymfollow"] }"#,
            )],
            &["/x"],
        )
        .differs("nosymfollow"),
        set("are-none", &[("/mounts", "[]")], &[]),
        edit(
            "root-is-shared",
            |_, bundle| {
                bundle
                    .script(PROPAGATION)
                    .edit(|config| config["linux"]["rootfsPropagation"] = json!("shared"))
            },
            &[],
        ),
        edit(
            "root-is-rslave",
            |_, bundle| {
                bundle
                    .script(PROPAGATION)
                    .edit(|config| config["linux"]["rootfsPropagation"] = json!("rslave"))
            },
            &[],
        ),
        set(
            "root-propagation-unknown",
            &[("/linux/rootfsPropagation", "\"sometimes\"")],
            &["linux.rootfsPropagation", "sometimes"],
        )
        .differs("strict-values"),
    ],
};
