//! Hooks run on the host, in the order of the runtime specification, with the container's state.

use std::path::Path;

use integration_tests::{Bundle, Lab, Root, Runtime};
use serde_json::{Value, json};

/// A hook that appends its name and the state on its stdin to `log`.
fn hook(name: &str, log: &Path) -> Value {
    let script = format!("echo \"{name} $VALUE\" >>{0}; cat >>{0}; echo >>{0}", log.display());
    json!([{
        "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["VALUE=given"], "timeout": 20,
    }])
}

fn bundle_with_hooks(lab: &Lab, log: &Path) -> Bundle {
    let script = "echo ran; exit 3";
    lab.bundle(Root::Shared("busybox")).script(script).edit(|config| {
        for name in ["prestart", "createRuntime", "poststart", "poststop"] {
            config["hooks"][name] = hook(name, log);
        }
    })
}

#[test]
fn hooks_of_the_host_run_in_order_with_the_state() {
    let lab = Lab::enter();
    let mut order = vec![];
    for runtime in [Runtime::Ringfence, Runtime::Crun] {
        let log = lab.scratch().join(format!("{runtime:?}"));
        let bundle = bundle_with_hooks(&lab, &log);
        let outcome = lab.runtime(runtime, &bundle, &[]).run();
        outcome.expect_code(3);
        assert_eq!(outcome.out(), "ran\n");
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let names: Vec<String> = lines
            .iter()
            .filter(|line| line.ends_with(" given"))
            .map(|line| (*line).into())
            .collect();
        order.push(names);
        if runtime == Runtime::Ringfence {
            for line in lines.iter().filter(|line| !line.ends_with(" given")) {
                let state: Value =
                    serde_json::from_str(line).expect("the state is one line of JSON");
                assert!(state["id"].as_str().is_some_and(|id| id.starts_with("test-")), "{state}");
                assert_eq!(
                    state["bundle"].as_str(),
                    bundle.path("").to_str().map(|p| p.trim_end_matches('/'))
                );
                assert!(state["ociVersion"].is_string() && state["status"].is_string(), "{state}");
            }
        }
    }
    assert_eq!(
        order[0],
        ["prestart given", "createRuntime given", "poststart given", "poststop given"]
    );
    assert_eq!(order[0], order[1]);
}

#[test]
fn a_hook_that_fails_stops_the_start() {
    let lab = Lab::enter();
    let log = lab.scratch().join("log");
    let bundle = bundle_with_hooks(&lab, &log).edit(|config| {
        let script = "echo the reason >&2; exit 9";
        config["hooks"]["createRuntime"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    });
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(125).expect_error("createRuntime").expect_error("9");
    assert!(outcome.stdout.is_empty(), "{outcome}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("prestart") && !text.contains("poststart"), "{text}");
    let bundle = bundle_with_hooks(&lab, &log).edit(|config| {
        config["hooks"]["prestart"] = json!([{ "path": "/no/such/hook" }]);
    });
    lab.ringfence(&bundle).run().expect_code(125).expect_error("/no/such/hook");
    let bundle = bundle_with_hooks(&lab, &log).edit(|config| {
        config["hooks"]["prestart"] =
            json!([{ "path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1 }]);
    });
    lab.ringfence(&bundle).run().expect_code(125).expect_error("/bin/sleep");
}
