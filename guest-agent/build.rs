//! Decides how the agent is linked.
//!
//! In the profile `agent` with a static C runtime (`+crt-static`) it is linked
//! without any library and with its own entry point, `cfg(freestanding)`: its size is memory in
//! every guest. In every other build, those of tests above all, it is an ordinary program.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(freestanding)");
    let target = |name: &str| std::env::var(name).unwrap_or_default();
    let features = target("CARGO_CFG_TARGET_FEATURE");
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    // A build script is not told the name of its profile; only that one has this level.
    if is_static && target("OPT_LEVEL") == "z" {
        println!("cargo::rustc-cfg=freestanding");
        println!("cargo::rustc-link-arg-bins=-nostartfiles");
        println!("cargo::rustc-link-arg-bins=-nostdlib");
        println!(
            "cargo::rustc-link-arg-bins=-Wl,--gc-sections,-z,norelro,-z,noseparate-code,--build-id=none"
        );
    }
}
