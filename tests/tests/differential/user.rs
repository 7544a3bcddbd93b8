//! `process.user`.

use integration_tests::differential::{Group, edit, look, set};
use serde_json::json;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

/// What an ordinary user is and may.
pub(crate) const ORDINARY: Group = Group {
    name: "ordinary-user",
    bundle: |stage| {
        stage.writable().edit(|config| {
            config["process"]["user"] = json!({
                "uid": 1234, "gid": 567, "umask": 0o027, "additionalGids": [10, 20, 424_242, 20],
            });
            config["hostname"] = json!("a-name.example");
            config["domainname"] = json!("a-domain");
        })
    },
    stories: &[],
    cases: &[
        look("names-of-the-machine", "hostname; cat /proc/sys/kernel/domainname"),
        look("uid", "id -u; grep ^Uid /proc/1/status"),
        look("gid", "id -g; grep ^Gid /proc/1/status"),
        look("groups", "grep ^Groups /proc/1/status"),
        look("umask", "umask; touch /tmp/f; mkdir /tmp/d; stat -c %a /tmp/f /tmp/d"),
        look("owner-of-files", "touch /tmp/g; stat -c '%u %g' /tmp/g"),
        look("home-of-nobody", "echo $HOME"),
        look("capabilities", "grep ^Cap /proc/1/status"),
        look("root-is-not-writable", "touch /x; echo $?; mkdir /etc/x; echo $?"),
        look("its-streams-are-its-own", "echo x >/proc/self/fd/1; echo $?"),
        look("its-proc", "cat /proc/1/environ >/dev/null; echo $?; stat -c '%u %g' /proc/1"),
        look("mqueue-and-shm", "touch /dev/shm/x; echo $?; ls -ldn /dev/shm | cut -c1-20"),
        look("null-and-zero", "echo x >/dev/null; head -c 2 /dev/zero | wc -c"),
        look("kill-root", "sleep 5 & kill $!; echo $?; kill -0 1; echo $?"),
        look("low-port", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"),
        look("chown", "touch /tmp/h; chown 0 /tmp/h; echo $?"),
    ],
};

/// Which users can be asked for.
pub(crate) const USER: Group = Group {
    name: "user",
    bundle: |stage| stage.shared(),
    stories: &[],
    cases: &[
        edit(
            "home-from-passwd",
            |_, bundle| {
                let bundle = bundle.script("echo ran; echo $HOME; id -un");
                bundle.edit(|config| {
                    config["process"]["user"] = json!({ "uid": 65534, "gid": 65534 });
                })
            },
            &[],
        ),
        edit(
            "missing",
            |_, bundle| {
                bundle.script("echo ran; id").edit(|config| {
                    config["process"].as_object_mut().unwrap().remove("user");
                })
            },
            &[],
        ),
        edit(
            "program-for-root-only-with-the-capability",
            |stage, _| {
                let bundle = stage.writable();
                let program = bundle.root().join("bin/only/echo");
                std::fs::create_dir(bundle.root().join("bin/only")).unwrap();
                std::fs::copy(bundle.root().join("bin/busybox"), &program).unwrap();
                std::fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
                bundle.args(&["/bin/only/echo", "ran"]).edit(|config| {
                    let process = &mut config["process"];
                    process["user"] = json!({ "uid": 5, "gid": 5 });
                    for set in ["bounding", "effective", "permitted"] {
                        process["capabilities"][set] = json!(["CAP_DAC_OVERRIDE"]);
                    }
                })
            },
            &[],
        ),
        edit(
            "uid-largest",
            |_, bundle| {
                bundle.script("echo ran; id -u; id -g").edit(|config| {
                    config["process"]["user"] =
                        json!({ "uid": 4_294_967_294_u32, "gid": 4_294_967_294_u32 });
                })
            },
            &[],
        ),
        edit(
            "uid-that-means-none",
            |_, bundle| {
                bundle.script("echo ran; id -u; id -g").edit(|config| {
                    config["process"]["user"] = json!({ "uid": 4_294_967_295_u32, "gid": 0 });
                })
            },
            &["process.user.uid", "4294967295"],
        )
        .differs("strict-values"),
        edit(
            "gid-that-means-none",
            |_, bundle| {
                bundle.script("echo ran; id -u; id -g").edit(|config| {
                    config["process"]["user"] = json!({ "uid": 0, "gid": 4_294_967_295_u32 });
                })
            },
            &["process.user.gid", "4294967295"],
        )
        .differs("strict-values"),
        set(
            "group-that-means-none",
            &[("/process/user", r#"{ "uid": 0, "gid": 0, "additionalGids": [4294967295] }"#)],
            &["process.user.additionalGids", "4294967295"],
        ),
        set("uid-negative", &[("/process/user/uid", "-1")], &["process.user.uid", "-1"]),
        set(
            "uid-too-large",
            &[("/process/user/uid", "4294967296")],
            &["process.user.uid", "4294967296"],
        ),
        set("uid-is-text", &[("/process/user/uid", "\"root\"")], &["process.user.uid", "root"])
            .differs("strict-values"),
        set("uid-is-a-fraction", &[("/process/user/uid", "1.5")], &["process.user.uid", "1.5"]),
        set("umask-too-large", &[("/process/user/umask", "4096")], &["process.user.umask", "4096"])
            .differs("strict-values"),
        set("username", &[("/process/user/username", "\"root\"")], &["process.user.username"])
            .differs("other-platforms"),
    ],
};
