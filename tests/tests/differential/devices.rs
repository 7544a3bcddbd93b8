//! `linux.devices` and `linux.resources.devices`.

use integration_tests::differential::{Group, edit, look, set};
use serde_json::{Value, json};

fn may_make_nodes(config: &mut Value) {
    for set in ["bounding", "permitted", "effective"] {
        let capabilities = &mut config["process"]["capabilities"][set];
        capabilities.as_array_mut().expect("a list").push(json!("CAP_MKNOD"));
    }
}

/// Devices that are there, and those that are not.
pub(crate) const DEVICES: Group = Group {
    name: "devices",
    bundle: |stage| {
        stage.writable().edit(|config| {
            may_make_nodes(config);
            config["linux"]["devices"] = json!([
                { "path": "/dev/extra", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640,
                  "uid": 7, "gid": 8 },
                { "path": "/dev/plain", "type": "u", "major": 1, "minor": 5 },
                { "path": "/dev/pipe", "type": "p", "fileMode": 0o600 },
                { "path": "/dev/disk", "type": "b", "major": 7, "minor": 0, "fileMode": 0o660 },
                { "path": "/dev/whole", "type": "c", "major": 1, "minor": 3, "fileMode": 0o020_646 },
                { "path": "/dev/deep/er", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 },
            ]);
            config["linux"]["resources"]["devices"] = json!([
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 7, "access": "rw" },
                { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" },
                { "allow": true, "type": "c", "major": 10, "minor": 200, "access": "m" },
            ]);
        })
    },
    stories: &[],
    cases: &[
        look(
            "default",
            "cd /dev; ls -ln null zero full random urandom tty | awk '{ print $1, $3, $4, $5, $6, $NF }'",
        ),
        look("links", "for link in fd stdin stdout stderr ptmx; do readlink /dev/$link; done"),
        look("all-names", "ls -A /dev | grep -v -e core -e console"),
        look("core", "readlink /dev/core").differs("no-kcore"),
        look("console", "ls /dev/console"),
        look("extra", "ls -ln /dev/extra | awk '{ print $1, $3, $4, $5, $6 }'"),
        look("without-mode", "stat -c '%a %t:%T %u %g' /dev/plain"),
        look("mode-with-type", "stat -c '%a %F' /dev/whole"),
        look("fifo", "ls -ln /dev/pipe | awk '{ print $1 }'"),
        look("block", "ls -ln /dev/disk | awk '{ print $1, $5, $6 }'"),
        look("in-a-directory", "stat -c '%a %F' /dev/deep; echo x >/dev/deep/er; echo $?"),
        look("allowed", "(echo x >/dev/extra) 2>&1; echo $?"),
        look(
            "default-ones-work",
            "echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; (echo x >/dev/full) 2>&1; echo $?",
        ),
        look("read-only-rule", "mknod /dev/log c 1 11; echo $?"),
        look("refused-block", "cat /dev/disk; echo $?"),
        look("refused-node", "mknod /dev/memory c 1 1; echo $?"),
        look(
            "every-node-may-be-made",
            "mknod /dev/other c 200 1; echo $?; mknod /dev/b b 8 0; echo $?",
        ),
        look("allowed-node", "mknod /dev/tun c 10 200; echo $?; cat /dev/tun; echo $?")
            .differs("tun"),
        look("node-on-the-root", "mknod /tmp/null c 1 3; echo $?")
            .differs("device-nodes-on-shares"),
        look("fifo-may-be-made", "mkfifo /tmp/pipe; echo $?"),
        look("tty-of-nobody", "(exec </dev/tty) 2>&1; echo $?"),
        set(
            "path-is-relative",
            &[("/linux/devices/0/path", "\"dev/extra\"")],
            &["linux.devices[0].path", "dev/extra"],
        ),
        set("type-unknown", &[("/linux/devices/0/type", "\"x\"")], &["linux.devices[0].type"])
            .differs("strict-values"),
        set("twice", &[("/linux/devices/1/path", "\"/dev/extra\"")], &["linux.devices[1]"])
            .differs("strict-values"),
        set("minor-missing", &[("/linux/devices/0/minor", "null")], &["linux.devices[0].minor"])
            .differs("strict-values"),
        set(
            "replaces-a-default-one",
            &[("/linux/devices/0/path", "\"/dev/null\""), ("/linux/devices/0/minor", "3")],
            &[],
        ),
        set(
            "rule-type-unknown",
            &[("/linux/resources/devices/1/type", "\"x\"")],
            &["devices[1].type"],
        )
        .differs("strict-values"),
        set(
            "rule-access-unknown",
            &[("/linux/resources/devices/1/access", "\"q\"")],
            &["devices[1].access"],
        )
        .differs("strict-values"),
        edit(
            "everything-is-allowed",
            |_, bundle| {
                let bundle = bundle
                    .script("echo ran; mknod /dev/log c 1 11; (echo x >/dev/log) 2>&1; echo $?");
                bundle.edit(|config| {
                    config["linux"]["resources"]["devices"] =
                        json!([{ "allow": true, "access": "rwm" }]);
                })
            },
            &[],
        ),
    ],
};
