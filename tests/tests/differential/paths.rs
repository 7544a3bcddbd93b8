//! `linux.maskedPaths` and `linux.readonlyPaths`.

use integration_tests::differential::{Group, look, set};
use serde_json::json;

/// What is hidden, and what is frozen.
pub(crate) const PATHS: Group = Group {
    name: "paths",
    bundle: |stage| {
        let bundle = stage.writable();
        for directory in ["srv/secrets", "srv/frozen/below", "srv/target"] {
            std::fs::create_dir_all(bundle.root().join(directory)).unwrap();
        }
        for file in
            ["srv/secret", "srv/secrets/one", "srv/frozen/file", "srv/target/t", "srv/fixed"]
        {
            std::fs::write(bundle.root().join(file), "secret\n").unwrap();
        }
        std::os::unix::fs::symlink("/srv/target", bundle.root().join("srv/link")).unwrap();
        bundle.edit(|config| {
            let masked = config["linux"]["maskedPaths"].as_array_mut().unwrap();
            masked.extend([json!("/srv/secret"), json!("/srv/secrets"), json!("/not/there")]);
            masked.extend([json!("/srv/link"), json!("/srv/secret")]);
            let readonly = config["linux"]["readonlyPaths"].as_array_mut().unwrap();
            readonly.extend([json!("/srv/frozen"), json!("/srv/fixed"), json!("/not/here/either")]);
        })
    },
    stories: &[],
    cases: &[
        look("masked-file", "cat /srv/secret; echo $?; ls -l /srv/secret | cut -c1-10"),
        look("masked-directory", "ls -A /srv/secrets; ls -ld /srv/secrets | cut -c1-10"),
        look("masked-directory-takes-nothing", "(echo x >/srv/secrets/x) 2>&1; echo $?"),
        look("masked-is-missing", "ls -d /not/there /not; echo $?"),
        look("masked-is-a-link", "ls -A /srv/target; readlink /srv/link"),
        look("masked-proc", "wc -c </proc/keys; wc -c </proc/timer_list; ls /proc/scsi | wc -l"),
        look("masked-kcore", "head -c 10 /proc/kcore | wc -c").differs("no-kcore"),
        look("masked-firmware", "ls /sys/firmware | wc -l"),
        look("readonly-directory", "(echo x >/srv/frozen/x) 2>&1; echo $?; cat /srv/frozen/file"),
        look("readonly-directory-below", "(echo x >/srv/frozen/below/x) 2>&1; echo $?"),
        look("readonly-file", "(echo x >/srv/fixed) 2>&1; echo $?; cat /srv/fixed"),
        look("readonly-is-missing", "ls -d /not/here; echo $?"),
        look("readonly-proc-sys", "(echo x >/proc/sys/kernel/hostname) 2>&1; echo $?"),
        look("readonly-sysrq", "(echo h >/proc/sysrq-trigger) 2>&1; echo $?")
            .differs("kernel-files"),
        look("readonly-flags", "grep ' /proc/sys ' /proc/self/mountinfo | awk '{ print $6 }'"),
        look("unmount-is-refused", "umount /srv/secret; echo $?; cat /srv/secret"),
        set(
            "masked-is-relative",
            &[("/linux/maskedPaths/0", "\"srv\"")],
            &["linux.maskedPaths", "srv"],
        )
        .differs("strict-values"),
        set(
            "readonly-is-relative",
            &[("/linux/readonlyPaths/0", "\"srv\"")],
            &["linux.readonlyPaths", "srv"],
        )
        .differs("strict-values"),
        set("masked-is-text", &[("/linux/maskedPaths", "\"/proc/acpi\"")], &["linux.maskedPaths"])
            .differs("strict-values"),
    ],
};
