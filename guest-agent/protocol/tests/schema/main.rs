//! The contract is frozen: what the types say and how they are encoded is kept in `schema/`, and a
//! difference fails here.
//!
//! A wanted change of the contract raises `VERSION` and gets new files beside the old ones:
//! `RINGFENCE_WRITE_SCHEMA=1 cargo test -p agent-protocol --test schema` writes those of the
//! current version. Nothing may ever change in the files of a version that was released.

mod samples;
mod trace;

use agent_protocol::{GuestMessage, HostMessage, VERSION};
use std::fmt::Write;
use std::path::PathBuf;

fn compare(extension: &str, current: &str) {
    let name = format!("schema/v{VERSION}.{extension}");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(&name);
    if std::env::var_os("RINGFENCE_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, current).unwrap();
    }
    let frozen = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((frozen, current)) =
        frozen.lines().zip(current.lines()).find(|(frozen, current)| frozen != current)
    {
        panic!("the protocol differs from {name}:\n  frozen:  {frozen}\n  current: {current}");
    }
    assert_eq!(frozen.lines().count(), current.lines().count(), "lines of {name}");
}

#[test]
fn the_types_are_those_of_the_schema() {
    let mut registry = trace::Registry::default();
    registry.add::<HostMessage>();
    registry.add::<GuestMessage>();
    compare("types", &registry.text());
}

#[test]
fn the_encoding_is_that_of_the_schema() {
    let mut text = String::new();
    for (name, frame) in samples::frames() {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{name} {hex}").unwrap();
    }
    compare("frames", &text);
}

#[test]
fn every_variant_has_a_sample() {
    let names: Vec<String> = samples::frames().into_iter().map(|(name, _)| name).collect();
    let mut registry = trace::Registry::default();
    registry.add::<HostMessage>();
    registry.add::<GuestMessage>();
    for variant in ["Request", "Reply", "Event", "GuestMessage"]
        .iter()
        .flat_map(|name| registry.variants(name))
        // These stand for what they hold.
        .filter(|variant| variant != "Reply" && variant != "Event")
    {
        assert!(names.iter().any(|name| name.contains(&variant)), "no sample of {variant}");
    }
}
