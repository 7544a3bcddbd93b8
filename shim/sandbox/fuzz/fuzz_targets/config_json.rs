//! A config.json that somebody has edited at random: refused with a sentence, or a plan.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sandbox::config::HostConfig;
use sandbox::spec::{Bundle, HostFacts, Overrides, ResourceUpdate, default_config};
use serde_json::{Map, Value};

/// Names of properties, beside those of the default configuration.
const NAMES: &[&str] = &[
    "absoluteCwd",
    "access",
    "action",
    "additionalGids",
    "allow",
    "ambient",
    "annotations",
    "apparmorProfile",
    "architectures",
    "args",
    "blockIO",
    "burst",
    "capabilities",
    "cgroupsPath",
    "class",
    "consoleSize",
    "cpu",
    "cpus",
    "defaultAction",
    "defaultErrnoRet",
    "destination",
    "devices",
    "env",
    "errnoRet",
    "fileMode",
    "flags",
    "gid",
    "gidMappings",
    "hard",
    "height",
    "hooks",
    "hugepageLimits",
    "idle",
    "index",
    "intelRdt",
    "ioPriority",
    "kernel",
    "leafWeight",
    "limit",
    "linux",
    "listenerPath",
    "major",
    "maskedPaths",
    "mems",
    "memory",
    "minor",
    "mountLabel",
    "mounts",
    "names",
    "namespaces",
    "network",
    "noNewPrivileges",
    "oomScoreAdj",
    "op",
    "options",
    "pageSize",
    "parameters",
    "path",
    "period",
    "personality",
    "pids",
    "poststart",
    "poststop",
    "prestart",
    "priority",
    "process",
    "quota",
    "rate",
    "rdma",
    "readonly",
    "readonlyPaths",
    "reservation",
    "resources",
    "rlimits",
    "root",
    "rootfsPropagation",
    "scheduler",
    "seccomp",
    "shares",
    "soft",
    "source",
    "swap",
    "swappiness",
    "sysctl",
    "syscalls",
    "terminal",
    "throttleReadBpsDevice",
    "timeOffsets",
    "timeout",
    "type",
    "uid",
    "uidMappings",
    "umask",
    "unified",
    "user",
    "value",
    "valueTwo",
    "vm",
    "weight",
    "weightDevice",
    "width",
];
/// Words that mean something somewhere.
const WORDS: &[&str] = &[
    "",
    "/",
    "/a/../b",
    "..",
    "a",
    "bind",
    "rbind,ro",
    "ro",
    "tmpfs",
    "size=1%",
    "mode=1777",
    "idmap",
    "pid",
    "user",
    "c",
    "rwm",
    "CAP_KILL",
    "RLIMIT_CORE",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY",
    "SCMP_ARCH_X86",
    "SCMP_CMP_MASKED_EQ",
    "read",
    "clone3",
    "memory.max",
    "io.max",
    "8:0 rbps=max",
    "kernel.shm_rmid_forced",
    "net.core.somaxconn",
    "0-3,7",
    "4294967295",
    "PATH=/",
    "1.0.2",
    "\u{0}",
    "dev.ringfence.vcpus",
    "SCHED_DEADLINE",
    "LINUX32",
    "2MB",
];
/// Steps of one script, and depth of what it makes.
const MOST: usize = 64;

#[derive(Arbitrary, Debug)]
enum Leaf {
    Null,
    Flag(bool),
    Small(i8),
    Number(u64),
    Negative(i64),
    Fraction(f64),
    Word(u8),
    Text(String),
    EmptyList,
    EmptyObject,
}

/// Goes down from the document's root, by name or by number, and does something there.
#[derive(Arbitrary, Debug)]
struct Step {
    way: [u8; 6],
    depth: u8,
    act: Act,
}

#[derive(Arbitrary, Debug)]
enum Act {
    Set(Leaf),
    Insert(u8, Leaf),
    Push(Leaf),
    Copy(u8),
    Remove(u8),
}

fn name(number: u8) -> &'static str {
    NAMES[usize::from(number) % NAMES.len()]
}

fn value(leaf: &Leaf) -> Value {
    match leaf {
        Leaf::Null => Value::Null,
        Leaf::Flag(flag) => (*flag).into(),
        Leaf::Small(number) => (*number).into(),
        Leaf::Number(number) => (*number).into(),
        Leaf::Negative(number) => (*number).into(),
        Leaf::Fraction(number) => (*number).into(),
        Leaf::Word(number) => WORDS[usize::from(*number) % WORDS.len()].into(),
        Leaf::Text(text) => text.as_str().into(),
        Leaf::EmptyList => Value::Array(Vec::new()),
        Leaf::EmptyObject => Value::Object(Map::new()),
    }
}

/// A child by a number, whatever the value is.
fn child(value: &mut Value, number: u8) -> Option<&mut Value> {
    match value {
        Value::Object(map) => {
            let count = map.len().max(1);
            map.values_mut().nth(usize::from(number) % count)
        }
        Value::Array(list) => {
            let count = list.len().max(1);
            list.get_mut(usize::from(number) % count)
        }
        _ => None,
    }
}

fn perform(document: &mut Value, step: &Step) {
    let mut place = document;
    for number in step.way.iter().take(usize::from(step.depth % 7)) {
        let is_inner = matches!(place, Value::Object(map) if !map.is_empty())
            || matches!(place, Value::Array(list) if !list.is_empty());
        if !is_inner {
            break;
        }
        place = child(place, *number).expect("it has children");
    }
    match (&step.act, place) {
        (Act::Insert(key, leaf), Value::Object(map)) => {
            map.insert(name(*key).to_owned(), value(leaf));
        }
        (Act::Push(leaf), Value::Array(list)) => list.push(value(leaf)),
        (Act::Copy(number), Value::Array(list)) if !list.is_empty() => {
            let copy = list[usize::from(*number) % list.len()].clone();
            list.push(copy);
        }
        (Act::Remove(number), Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(usize::from(*number) % map.len()).cloned();
            map.remove(&key.expect("there are keys"));
        }
        (Act::Set(leaf), place) => *place = value(leaf),
        _ => {}
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut document = default_config();
    for step in steps.iter().take(MOST) {
        perform(&mut document, step);
    }
    if let Some(resources) = document.pointer("/linux/resources") {
        let _ = ResourceUpdate::from_value(resources).map_err(|error| error.to_string());
    }
    let facts = HostFacts { cpus: 4, memory_mib: 8192, selinux: false };
    let bundle = Bundle::from_document("/no/such/bundle".into(), document);
    match bundle.plan("c1", &Overrides::default(), &HostConfig::default(), facts) {
        // The sentence is made, too.
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(plan) => {
            if let Some(seccomp) = plan.container.seccomp() {
                let _ = seccomp.compile().map_err(|error| error.to_string());
            }
        }
    }
});
