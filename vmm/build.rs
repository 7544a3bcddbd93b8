//! Compiles the system call filters, so that no start has to: see `src/jail/seccomp/mod.rs`.

#[path = "src/jail/seccomp/calls.rs"]
mod calls;
#[path = "src/jail/seccomp/filter.rs"]
mod filter;
#[path = "src/jail/seccomp/kind.rs"]
#[expect(dead_code, unreachable_pub, reason = "the program has more use for it")]
mod kind;
#[path = "src/jail/seccomp/tree.rs"]
mod tree;

use kind::Kind;
use seccompiler::{BackendError, BpfProgram};
use std::error::Error;
use std::fmt::Write;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    for file in ["calls", "filter", "kind", "tree"] {
        println!("cargo::rerun-if-changed=src/jail/seccomp/{file}.rs");
    }
    // The numbers of system calls are those of the machine that this program runs on.
    let target = std::env::var("CARGO_CFG_TARGET_ARCH")?;
    if target != std::env::consts::ARCH {
        return Err(format!("the VMM for {target} is built on a machine of that kind").into());
    }
    let mut text = String::new();
    for kind in Kind::ALL {
        let name = format!("{kind:?}").to_uppercase();
        write_one(&mut text, &name, filter::allow(kind.calls()))?;
    }
    let directory = std::env::var("OUT_DIR")?;
    std::fs::write(format!("{directory}/filters.rs"), text)?;
    Ok(())
}

fn write_one(
    text: &mut String,
    name: &str,
    program: Result<BpfProgram, BackendError>,
) -> Result<(), Box<dyn Error>> {
    writeln!(text, "const {name}: Instructions = &[")?;
    for one in program? {
        writeln!(text, "    ({}, {}, {}, {}),", one.code, one.jt, one.jf, one.k)?;
    }
    writeln!(text, "];")?;
    Ok(())
}
