//! `linux.devices`. The devices that every container has are the agent's to make.

use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use agent_protocol::DevicePlan;

const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// Permissions of a device that names none.
const DEFAULT_MODE: u32 = 0o666;

/// Reads `linux.devices`.
pub(super) fn read(linux: &Fields<'_>) -> Result<Vec<DevicePlan>, SpecError> {
    let mut devices: Vec<DevicePlan> = Vec::new();
    for node in linux.items("devices")? {
        let device = read_device(&node)?;
        // config-linux.md: the same path twice must be an error.
        if devices.iter().any(|other| other.path == device.path) {
            return Err(node.invalid("a device with this path is given twice"));
        }
        devices.push(device);
    }
    Ok(devices)
}

fn read_device(node: &Node<'_>) -> Result<DevicePlan, SpecError> {
    let fields = node.fields()?;
    let path = fields.require("path", "where the device is in the container")?;
    if !path.text()?.starts_with('/') {
        return Err(path.invalid("the path of a device must be absolute"));
    }
    let kind = fields.require("type", "c, u, b or p (mknod(1))")?;
    let file_type = match kind.text()? {
        "c" | "u" => S_IFCHR,
        "b" => S_IFBLK,
        "p" => S_IFIFO,
        _ => return Err(kind.invalid("the type of a device is c, u, b or p")),
    };
    let mode = match fields.get("fileMode") {
        None => DEFAULT_MODE,
        // Engines write a whole st_mode here.
        Some(node) => node.integer::<u32>()? & 0o7777,
    };
    let number = |name| match fields.integer::<i64>(name)? {
        // Engines write 0 or -1 for a fifo, which has none.
        _ if file_type == S_IFIFO => Ok(0),
        None => Err(SpecError::Missing {
            path: format!("{}.{name}", node.path()),
            purpose: "a number of the device",
        }),
        Some(value) => u32::try_from(value)
            .map_err(|_| node.invalid("major and minor must fit in 32 bits without a sign")),
    };
    Ok(DevicePlan {
        path: path.text()?.to_owned(),
        mode: file_type | mode,
        major: number("major")?,
        minor: number("minor")?,
        uid: fields.integer("uid")?.unwrap_or(0),
        gid: fields.integer("gid")?.unwrap_or(0),
    })
}
