//! Input that cannot work gives one clear error, soon, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use integration_tests::{Bundle, Invocation, Lab, Outcome, Root, Runtime, host, set_value};
use serde_json::{Value, json};

/// What ringfence exits with when the container's program was never reached.
const REFUSED: i32 = 125;

/// Checks one refusal: status, time, one message that holds all of `named`, and a clean host.
#[track_caller]
fn expect_refusal(lab: &Lab, outcome: &Outcome, named: &[&str]) {
    outcome.expect_code(REFUSED).expect_no_deadline();
    for name in named {
        outcome.expect_error(name);
    }
    assert!(outcome.stdout.is_empty(), "the container must not have run\n{outcome}");
    assert_eq!(outcome.err().trim_end().lines().count(), 1, "one message\n{outcome}");
    lab.expect_nothing_left();
}

fn shared(lab: &Lab) -> Bundle {
    lab.bundle(Root::Shared("busybox")).args(&["echo", "it ran"])
}

#[test]
fn a_config_that_cannot_be_read() {
    let lab = Lab::enter();
    let bundle = shared(&lab);
    let run = |text: Option<&[u8]>| {
        let invocation = lab.ringfence(&bundle);
        match text {
            Some(text) => bundle.write_raw(text),
            None => std::fs::remove_file(bundle.path("config.json")).unwrap(),
        }
        invocation.run()
    };
    expect_refusal(&lab, &run(None), &["config.json", "No such file"]);
    expect_refusal(&lab, &run(Some(b"")), &["config.json"]);
    expect_refusal(&lab, &run(Some(b"process: yaml")), &["config.json"]);
    expect_refusal(&lab, &run(Some(b"{\"ociVersion\": \"1.0.2\", ")), &["config.json"]);
    expect_refusal(&lab, &run(Some(b"[]")), &["object"]);
    expect_refusal(&lab, &run(Some(&[b'['; 200_000])), &["config.json"]);
    expect_refusal(&lab, &run(Some(b"\xff\xfe{}")), &["config.json"]);
    let missing = Invocation::new("ringfence")
        .args(&["run", "--bundle", "/no/such/bundle", &lab.new_id()])
        .run();
    expect_refusal(&lab, &missing, &["/no/such/bundle"]);
}

/// A change of a configuration, and what the message has to name.
type Case = (&'static str, Value, &'static [&'static str]);

#[track_caller]
fn expect_refusals(lab: &Lab, cases: &[Case]) {
    for (pointer, value, named) in cases {
        let bundle = shared(lab).edit(|config| set_value(config, pointer, value.clone()));
        let outcome = lab.ringfence(&bundle).run();
        eprintln!("{pointer} = {value}: {}", outcome.err().trim_end());
        expect_refusal(lab, &outcome, named);
    }
}

#[test]
fn a_config_with_wrong_values() {
    let lab = Lab::enter();
    expect_refusals(
        &lab,
        &[
            ("/ociVersion", json!("2.0.0"), &["ociVersion", "2.0.0"]),
            ("/ociVersion", json!("latest"), &["latest"]),
            ("/ociVersion", Value::Null, &["ociVersion"]),
            ("/process", Value::Null, &["process"]),
            ("/process/args", json!([]), &["process.args"]),
            ("/process/args", Value::Null, &["process.args"]),
            ("/process/args", json!("true"), &["process.args", "true"]),
            ("/process/args", json!([""]), &["process.args"]),
            ("/process/args", json!(["a\u{0}b"]), &["process.args"]),
            ("/process/env", json!(["NO_EQUALS_SIGN"]), &["NO_EQUALS_SIGN"]),
            ("/process/cwd", json!("relative/path"), &["cwd", "relative/path"]),
            ("/process/cwd", json!("/bin/busybox"), &["/bin/busybox"]),
            ("/process/user/uid", json!("root"), &["process.user.uid", "root"]),
            ("/process/user/uid", json!(-1), &["process.user.uid", "-1"]),
            ("/process/user/username", json!("somebody"), &["somebody"]),
            ("/process/rlimits/0/type", json!("RLIMIT_HOPE"), &["RLIMIT_HOPE"]),
            ("/process/rlimits/0/soft", json!(2000), &["RLIMIT_NOFILE", "2000"]),
            ("/process/terminal", json!(true), &["terminal"]),
            ("/mounts/0/type", json!("nosuchfs"), &["nosuchfs"]),
            ("/mounts/1/options", json!(["size=many"]), &["size=many"]),
            ("/linux/namespaces/0/type", json!("galaxy"), &["galaxy"]),
            ("/linux/rootfsPropagation", json!("sideways"), &["sideways"]),
            ("/linux/sysctl", json!({ "kernel.no.such": "1" }), &["kernel.no.such"]),
            ("/annotations", json!({ "dev.ringfence.colour": "red" }), &["dev.ringfence.colour"]),
            (
                "/annotations",
                json!({ "dev.ringfence.file_cache": "/no/mount=none" }),
                &["dev.ringfence.file_cache", "/no/mount"],
            ),
        ],
    );
}

#[test]
fn a_capability_that_linux_does_not_know_is_told_and_left_out() {
    // The specification forbids to refuse it (config.md, capabilities); so does runc.
    let lab = Lab::enter();
    let bundle = shared(&lab)
        .edit(|config| set_value(config, "/process/capabilities/bounding", json!(["CAP_FLY"])));
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(0).expect_error("CAP_FLY");
    assert_eq!(outcome.out(), "it ran\n");
}

#[test]
fn a_config_for_another_platform() {
    let lab = Lab::enter();
    let bundle = shared(&lab).edit(|config| {
        set_value(config, "/linux", Value::Null);
        set_value(config, "/windows", json!({ "layerFolders": ["C:\\layers"] }));
    });
    expect_refusal(&lab, &lab.ringfence(&bundle).run(), &["windows"]);
    let bundle = shared(&lab).edit(|config| {
        set_value(config, "/linux", Value::Null);
        set_value(config, "/solaris", json!({ "milestone": "x" }));
    });
    expect_refusal(&lab, &lab.ringfence(&bundle).run(), &["solaris"]);
}

#[test]
fn a_root_that_is_none() {
    let lab = Lab::enter();
    let empty = lab.directory("empty");
    let file = lab.scratch().join("file");
    std::fs::write(&file, "").unwrap();
    let path = |path: &Path| json!(path.to_str().unwrap());
    for (pointer, value, named) in [
        ("/root", Value::Null, "root"),
        ("/root/path", json!("no/such/root"), "no/such/root"),
        ("/root/path", path(&empty), empty.to_str().unwrap()),
        ("/root/path", path(&file), file.to_str().unwrap()),
    ] {
        let bundle = shared(&lab).edit(|config| set_value(config, pointer, value));
        expect_refusal(&lab, &lab.ringfence(&bundle).run(), &[named]);
    }
    let bundle = shared(&lab).bind(Path::new("/no/such/source"), "/tmp", &[]);
    expect_refusal(&lab, &lab.ringfence(&bundle).run(), &["/no/such/source"]);
}

#[test]
fn a_machine_that_cannot_be() {
    let lab = Lab::enter();
    let bundle = shared(&lab);
    for (options, named) in [
        (["--memory", "1"], ["--memory is 1", "from 48"]),
        (["--memory", "0"], ["--memory is 0", "from 48"]),
        (["--memory", "many"], ["--memory", "many"]),
        (["--memory", "99999999999"], ["--memory", "99999999999"]),
        (["--vcpus", "0"], ["--vcpus", "0"]),
        (["--vcpus", "33"], ["--vcpus", "33"]),
    ] {
        let outcome = lab.runtime(Runtime::Ringfence, &bundle, &options).run();
        eprintln!("{options:?}: {}", outcome.err().trim_end());
        outcome.expect_code(REFUSED).expect_no_deadline();
        for name in named {
            outcome.expect_error(name);
        }
        lab.expect_nothing_left();
    }
    // What to do is in the message: the least that boots (tests/smp.rs boots it).
    let annotation = json!({ "dev.ringfence.memory_mib": "47" });
    let bundle = bundle.edit(|config| set_value(config, "/annotations", annotation));
    expect_refusal(&lab, &lab.ringfence(&bundle).run(), &["memory_mib", "47", "from 48"]);
}

#[test]
fn an_id_that_is_no_name() {
    let lab = Lab::enter();
    let bundle = shared(&lab);
    let long = "x".repeat(300);
    for id in ["a/b", "..", ".", "/", "two words", &long, "", "ü", "a\nb", "-x"] {
        let outcome = Invocation::new("ringfence")
            .args(&["run", "--bundle"])
            .arg(bundle.write())
            .args(&["--", id])
            .run();
        eprintln!("{id:?}: {}", outcome.err().trim_end());
        outcome.expect_code(REFUSED).expect_no_deadline();
        outcome.expect_error(&id.chars().take(20).collect::<String>().replace('\n', "\\n"));
        assert!(outcome.stdout.is_empty(), "{outcome}");
        lab.expect_nothing_left();
    }
}

#[test]
fn an_id_that_is_in_use() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).script("echo up; cat");
    let run = || Invocation::new("ringfence").args(&["run", "--bundle"]).arg(bundle.write());
    let mut first = run().arg("the-only-one").stdin_held().start();
    first.wait_for_stdout("up\n");
    let second = run().arg("the-only-one").run();
    second.expect_code(REFUSED).expect_no_deadline().expect_error("the-only-one");
    // The first one is not disturbed, and neither is one with another id.
    run().arg("another-one").run().expect_code(0);
    first.write(b"still here");
    first.wait_for_stdout("still here");
    first.close_stdin();
    first.finish().expect_code(0);
    lab.expect_nothing_left();
    run().arg("the-only-one").run().expect_code(0);
}

#[test]
fn options_and_host_configuration_that_do_not_exist() {
    let lab = Lab::enter();
    let bundle = shared(&lab);
    let config = lab.scratch().join("config.toml");
    let run = |arguments: &[&str]| {
        let ringfence = Invocation::new("ringfence").args(arguments);
        ringfence.args(&["run", "--bundle"]).arg(bundle.write()).arg(lab.new_id()).run()
    };
    let path = config.to_str().unwrap();
    expect_refusal(&lab, &run(&["--config", path]), &[path, "No such file"]);
    std::fs::write(&config, "no_such_key = 1\n").unwrap();
    expect_refusal(&lab, &run(&["--config", path]), &[path, "no_such_key"]);
    std::fs::write(&config, "not toml").unwrap();
    expect_refusal(&lab, &run(&["--config", path]), &[path]);
    let outcome = run(&["--no-such-option"]);
    outcome.expect_code(REFUSED).expect_error("--no-such-option");
    let outcome = Invocation::new("ringfence").arg("no-such-verb").run();
    outcome.expect_code(REFUSED).expect_error("no-such-verb");
    // A state root that cannot be made.
    let outcome = run(&["--root", "/proc/ringfence"]);
    expect_refusal(&lab, &outcome, &["/proc/ringfence"]);
}

/// The kernel of this installation.
fn installed_kernel() -> Vec<u8> {
    let path = std::env::var_os("PATH").unwrap();
    let binary = std::env::split_paths(&path)
        .map(|directory| directory.join("ringfence"))
        .find(|file| file.is_file())
        .expect("ringfence is on the PATH");
    let kernel = binary.canonicalize().unwrap().parent().unwrap().join("../lib/ringfence/vmlinux");
    std::fs::read(&kernel).unwrap_or_else(|error| panic!("{}: {error}", kernel.display()))
}

#[test]
fn a_kernel_that_is_none() {
    let lab = Lab::enter();
    let good = installed_kernel();
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = lab.scratch().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    // ELF64 header: e_machine at 18, e_phoff at 32; a program header: p_memsz at 40.
    let mut other = good.clone();
    other[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let mut huge = good.clone();
    let first = usize::try_from(u64::from_le_bytes(good[32..40].try_into().unwrap())).unwrap();
    huge[first + 40..first + 48].copy_from_slice(&(64_u64 << 30).to_le_bytes());
    for (path, named) in [
        (lab.scratch().join("no-kernel"), "No such file"),
        (file("truncated", &good[..good.len() / 2]), "truncated"),
        (file("cut-header", &good[..40]), "cut-header"),
        (file("empty", b""), "empty"),
        (file("text", b"#!/bin/sh\necho I am no kernel\n"), "ELF"),
        (file("other", &other), "architecture"),
        (file("huge", &huge), "memory"),
        (lab.directory("directory"), "directory"),
        ("/dev/null".into(), "/dev/null"),
    ] {
        let path = path.to_str().unwrap();
        let bundle = shared(&lab)
            .edit(|config| set_value(config, "/vm", json!({ "kernel": { "path": path } })));
        let outcome = lab.ringfence(&bundle).run();
        eprintln!("{path}: {}", outcome.err().trim_end());
        expect_refusal(&lab, &outcome, &[path, named]);
    }
    let bundle = shared(&lab).edit(|config| {
        let good = file("good", &good);
        set_value(
            config,
            "/vm",
            json!({ "kernel": { "path": good, "initrd": "/no/such/initrd" } }),
        );
    });
    expect_refusal(&lab, &lab.ringfence(&bundle).run(), &["/no/such/initrd"]);
}

/// Runs a bundle where /dev holds what `kvm` makes of it, in a mount namespace of its own.
fn with_other_kvm(lab: &Lab, bundle: &Bundle, kvm: &str) -> Outcome {
    let device = lab.scratch().join("dev");
    std::fs::create_dir_all(&device).unwrap();
    let script = format!(
        "set -e; cd {}; mount -t tmpfs -o mode=755 tmpfs .; cd \"$PWD\"
         cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx .
         mkdir pts shm; mount --bind /dev/pts pts; mount --bind /dev/shm shm
         {kvm}
         mount --move \"$PWD\" /dev; cd /; exec \"$@\"",
        device.display()
    );
    lab.ringfence(bundle).through(&["unshare", "--mount", "sh", "-c", &script, "sh"]).run()
}

#[test]
fn no_kvm_or_one_that_does_not_work() {
    let lab = Lab::enter();
    let bundle = shared(&lab);
    // That the other /dev is no reason to fail.
    let good = with_other_kvm(&lab, &bundle, "cp -a /dev/kvm .");
    good.expect_code(0);
    assert_eq!(good.out(), "it ran\n");
    for (kvm, named) in [
        ("true", "No such file"),
        ("mknod kvm c 1 3", "KVM"),
        ("echo nothing >kvm", "KVM"),
        // Linux gives minor 240 of the misc devices to nobody.
        ("mknod kvm c 10 240", "No such device"),
    ] {
        let outcome = with_other_kvm(&lab, &bundle, kvm);
        eprintln!("{kvm}: {}", outcome.err().trim_end());
        expect_refusal(&lab, &outcome, &["/dev/kvm", named]);
    }
    // Root without the right to ignore permissions stands for a user that is not in the group.
    let forbidden = "cp -a /dev/kvm .; chown 65534:65534 kvm; chmod 600 kvm
         set -- setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"";
    let outcome = with_other_kvm(&lab, &bundle, forbidden);
    expect_refusal(&lab, &outcome, &["/dev/kvm", "ermission denied"]);
}

#[test]
fn a_user_without_rights_is_told_so() {
    let lab = Lab::enter();
    let bundle = shared(&lab);
    for directory in [lab.scratch(), bundle.write()] {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let outcome = lab.ringfence(&bundle).through(&nobody).run();
    outcome.expect_code(REFUSED).expect_no_deadline().expect_error("ermission denied");
    assert!(outcome.stdout.is_empty(), "{outcome}");
}

#[test]
fn a_refused_start_leaves_no_process_for_a_moment() {
    // The check after each case gives the host two seconds; here there is none.
    let lab = Lab::enter();
    let bundle =
        shared(&lab).edit(|config| set_value(config, "/process/cwd", json!("/bin/busybox")));
    lab.ringfence(&bundle).run().expect_code(REFUSED);
    let left: Vec<String> = host::processes()
        .into_iter()
        .filter(|process| process.name.starts_with("ringfence"))
        .map(|process| process.shown)
        .filter(|shown| !shown.contains(" Z "))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
