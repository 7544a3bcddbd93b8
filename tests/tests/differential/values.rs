//! config.json as a document: what is missing, wrong, or from elsewhere.

use integration_tests::Bundle;
use integration_tests::differential::{Group, Stage, scene, set};

fn raw(stage: &mut Stage, text: Option<&[u8]>) {
    let bundle: Bundle = stage.shared().script("echo ran");
    let invocation = stage.lab().runtime(stage.runtime(), &bundle, stage.small());
    match text {
        Some(text) => bundle.write_raw(text),
        None => std::fs::remove_file(bundle.path("config.json")).unwrap(),
    }
    let outcome = invocation.run();
    stage.note_run(&outcome);
}

/// What is told apart from a configuration.
pub(crate) const VALUES: Group = Group {
    name: "config",
    bundle: |stage| stage.shared(),
    stories: &[],
    cases: &[
        scene("missing", |stage| raw(stage, None)),
        scene("empty", |stage| raw(stage, Some(b""))),
        scene("text", |stage| raw(stage, Some(b"process: yaml"))),
        scene("cut-off", |stage| raw(stage, Some(b"{\"ociVersion\": \"1.0.2\", "))),
        scene("array", |stage| raw(stage, Some(b"[]"))),
        scene("object-of-nothing", |stage| raw(stage, Some(b"{}"))),
        scene("deep", |stage| raw(stage, Some(&[b'['; 100_000]))),
        scene("no-utf-8", |stage| raw(stage, Some(b"\xff\xfe{}"))),
        scene("bundle-missing", |stage| {
            let id = stage.new_id();
            let outcome = stage.invocation(&["run", "--bundle", "/no/such/bundle", &id]).run();
            stage.note_run(&outcome);
        }),
        set(
            "without-a-meaning",
            &[
                ("/ociVersion", "\"1.2.0\""),
                ("/frobnicate", "{ \"x\": 1 }"),
                ("/process/frob", "1"),
                ("/process/consoleSize", r#"{ "height": 1, "width": 2 }"#),
                ("/annotations", r#"{ "org.example.key": "value" }"#),
                ("/hooks", "{}"),
                ("/linux/maskedPaths", "[]"),
                ("/linux/readonlyPaths", "null"),
            ],
            &[],
        ),
        set("version-missing", &[("/ociVersion", "null")], &["ociVersion"]),
        set("version-of-the-future", &[("/ociVersion", "\"2.0.0\"")], &["ociVersion", "2.0.0"])
            .differs("strict-values"),
        set("version-is-none", &[("/ociVersion", "\"latest\"")], &["ociVersion", "latest"])
            .differs("strict-values"),
        set("root-missing", &[("/root", "null")], &["root"]),
        set("root-path-missing", &[("/root/path", "\"no/such/root\"")], &["no/such/root"]),
        set("root-is-a-file", &[("/root/path", "\"/etc/passwd\"")], &["/etc/passwd"]),
        set("root-path-empty", &[("/root/path", "\"\"")], &["root.path"]),
        set("process-missing", &[("/process", "null")], &["process"]),
        // The specification has it missing until the start; nothing could be started then.
        scene("process-missing-at-create", |stage| {
            let bundle = stage.shared().edit(|config| {
                config.as_object_mut().expect("an object").remove("process");
            });
            // What was created goes with its value.
            let (_container, outcome) = stage.try_leave(&bundle, &["create"]);
            stage.note(format!("created: {}", outcome.code() == 0));
        })
        .as_runc(),
        set("args-missing", &[("/process/args", "null")], &["process.args"]),
        set("args-empty", &[("/process/args", "[]")], &["process.args"]),
        set("args-of-nothing", &[("/process/args", "[\"\"]")], &["process.args"]),
        set("args-are-text", &[("/process/args", "\"/bin/sh\"")], &["process.args", "/bin/sh"]),
        set("args-hold-a-number", &[("/process/args/-", "7")], &["process.args[3]", "7"])
            .differs("strict-values"),
        set("args-hold-nul", &[("/process/args/-", "\"a\\u0000b\"")], &["process.args[3]"])
            .differs("strict-values"),
        set("env-without-value", &[("/process/env/-", "\"NAME\"")], &["process.env[1]", "NAME"])
            .differs("strict-values"),
        set("env-without-name", &[("/process/env/-", "\"=value\"")], &["process.env[1]", "=value"])
            .differs("strict-values"),
        set("env-is-an-object", &[("/process/env", "{ \"A\": \"b\" }")], &["process.env"])
            .differs("strict-values"),
        set("cwd-missing", &[("/process/cwd", "null")], &["process.cwd"]),
        set("cwd-empty", &[("/process/cwd", "\"\"")], &["process.cwd"]),
        set("cwd-relative", &[("/process/cwd", "\"bin\"")], &["process.cwd", "bin"])
            .differs("strict-values"),
        set("terminal-is-text", &[("/process/terminal", "\"no\"")], &["process.terminal", "no"])
            .differs("strict-values"),
        set("linux-missing", &[("/linux", "null")], &["linux"]),
        set("linux-is-an-array", &[("/linux", "[]")], &["linux"]),
        set("mounts-are-an-object", &[("/mounts", "{}")], &["mounts"]),
        set(
            "annotation-is-a-number",
            &[("/annotations", r#"{ "org.example.key": 1 }"#)],
            &["org.example.key"],
        ),
        set("windows", &[("/windows", r#"{ "layerFolders": ["x"] }"#)], &["windows"])
            .differs("other-platforms"),
        set("solaris", &[("/solaris", r#"{ "milestone": "x" }"#)], &["solaris"])
            .differs("other-platforms"),
        set(
            "apparmor",
            &[("/process/apparmorProfile", "\"a-profile\"")],
            &["process.apparmorProfile", "a-profile"],
        ),
        set(
            "selinux",
            &[("/process/selinuxLabel", "\"u:r:t:s0\"")],
            &["process.selinuxLabel", "u:r:t:s0"],
        ),
        set("mount-label", &[("/linux/mountLabel", "\"u:r:t:s0\"")], &["linux.mountLabel"])
            .differs("labels"),
        set(
            "cpu-affinity",
            &[("/process/execCPUAffinity", r#"{ "initial": "0" }"#)],
            &["process.execCPUAffinity"],
        )
        .differs("cpu-affinity"),
        set(
            "virtual-machine",
            &[("/vm", r#"{ "hypervisor": { "path": "/bin/true" } }"#)],
            &["vm.hypervisor"],
        ),
    ],
};
