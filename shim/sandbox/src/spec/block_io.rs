//! `linux.resources.blockIO`: weights and rates for the host's block devices. The VMM reads and
//! writes them for its guest, so they hold in the container's cgroup on the host.

use crate::spec::Notes;
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use crate::spec::resources::Resources;

/// Devices in one list.
const MAX_DEVICES: usize = 256;

/// The file of the BFQ scheduler, whose weights these are, else that of the io controller, whose scale
/// they are written in there.
const WEIGHT_FILES: [&str; 2] = ["io.bfq.weight", "io.weight"];

/// Lists of rates, and the key of each in `io.max`.
const RATES: [(&str, &str); 4] = [
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
];

const NO_LEAVES: &str = "cgroup v2 has no weights of leaves; remove it";

/// Reads `blockIO`.
pub(super) fn read(
    fields: &Fields<'_>,
    resources: &mut Resources,
    notes: &mut Notes,
) -> Result<(), SpecError> {
    let Some(io) = fields.fields("blockIO")? else { return Ok(()) };
    io.refuse_number("leafWeight", NO_LEAVES)?;
    if let Some(node) = io.get("weight")
        && let Some(weight) = read_weight(&node)?
    {
        resources.set_on_host(&WEIGHT_FILES, weight.to_string(), node.path());
    }
    for (node, device, item) in devices(&io, "weightDevice")? {
        item.refuse_number("leafWeight", NO_LEAVES)?;
        let weight = item.require("weight", "the weight of the device, 10 to 1000")?;
        if let Some(weight) = read_weight(&weight)? {
            resources.set_on_host(&WEIGHT_FILES, format!("{device} {weight}"), node.path());
        }
    }
    for (list, key) in RATES {
        for (node, device, item) in devices(&io, list)? {
            let rate = match item.require("rate", "the limit for a second")?.integer::<u64>()? {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            resources.set_on_host(&["io.max"], format!("{device} {key}={rate}"), node.path());
        }
    }
    io.tell_unknown(notes);
    Ok(())
}

/// `None` for 0, which serializers write for "not given".
fn read_weight(node: &Node<'_>) -> Result<Option<u64>, SpecError> {
    match node.integer::<u64>()? {
        0 => Ok(None),
        weight @ 10..=1000 => Ok(Some(weight)),
        _ => Err(node.invalid("a weight is from 10 to 1000")),
    }
}

type Device<'v> = (Node<'v>, String, Fields<'v>);

/// The devices of a list, as `MAJOR:MINOR`.
fn devices<'v>(io: &Fields<'v>, list: &'static str) -> Result<Vec<Device<'v>>, SpecError> {
    let items = io.items(list)?;
    if let Some(node) = items.get(MAX_DEVICES) {
        return Err(node.invalid(format!("a list has at most {MAX_DEVICES} devices")));
    }
    let mut devices = Vec::new();
    for node in items {
        let item = node.fields()?;
        let number = |name, purpose| item.require(name, purpose)?.integer::<u32>();
        let major = number("major", "the major number of a block device")?;
        let minor = number("minor", "the minor number of a block device")?;
        devices.push((node, format!("{major}:{minor}"), item));
    }
    Ok(devices)
}
