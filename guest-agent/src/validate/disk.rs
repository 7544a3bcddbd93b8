//! The part of a plan that is about disks.

use super::{MAX_PATH, name};
use crate::failure::{Outcome, invalid};
use agent_protocol::{
    DiskDirectory, DiskFileSystem, DiskImage, DiskPlan, DiskRootPlan, MAX_DISK_IMAGES,
    NewDirectory, OverlayPlan, WritableLayer,
};

/// Serial numbers of virtio-blk devices (VIRTIO 1.2, 5.2.6).
const MAX_SERIAL: usize = 20;
/// The unit of partitions.
const SECTOR: u64 = 512;
/// Layers of an overlay (OVL_MAX_STACK).
const MAX_LAYERS: usize = 500;
/// Directories to be made, and options of an overlay.
const MAX_FURTHER: usize = 64;
/// MS_RDONLY, MS_NOSUID, MS_NODEV and MS_NOEXEC, which are attributes of any mount.
const MOUNT_FLAGS: u64 = 15;
/// Options of an overlay that name its layers.
const LAYERS: [&str; 4] = ["lowerdir", "upperdir", "workdir", "datadir"];
/// Permissions, and nothing else.
const MODES: u32 = 0o777;

/// A root on a disk.
pub(super) fn plan(plan: &DiskPlan) -> Outcome<()> {
    let DiskPlan { serial, images, file_systems, directories, root } = plan;
    name("disk", serial)?;
    if serial.len() > MAX_SERIAL {
        return Err(invalid(format_args!("the serial number {serial:?} is too long")));
    }
    count("images", images.len(), MAX_DISK_IMAGES)?;
    count("file systems", file_systems.len(), MAX_DISK_IMAGES)?;
    count("directories", directories.len(), MAX_FURTHER)?;
    images.iter().try_for_each(image)?;
    let images = images.len().max(1);
    file_systems.iter().try_for_each(|each| file_system(each, images))?;
    let count = file_systems.len();
    directories.iter().try_for_each(|each| new_directory(each, count))?;
    match root {
        DiskRootPlan::Directory(one) => directory(one, count),
        DiskRootPlan::Overlay(layers) => overlay(layers, count),
    }
}

fn count(what: &str, count: usize, most: usize) -> Outcome<()> {
    if count > most {
        return Err(invalid(format_args!("a disk with {count} {what}, {most} at most")));
    }
    Ok(())
}

fn image(image: &DiskImage) -> Outcome<()> {
    let DiskImage { start, bytes } = *image;
    let are_sectors = start.is_multiple_of(SECTOR) && bytes.is_multiple_of(SECTOR);
    if !are_sectors || bytes == 0 || start.checked_add(bytes).is_none() {
        return Err(invalid(format_args!("an image of {bytes} bytes at {start} of a disk")));
    }
    Ok(())
}

fn file_system(file_system: &DiskFileSystem, images: usize) -> Outcome<()> {
    let DiskFileSystem { image, devices, kind, flags: _, data } = file_system;
    name("file system", kind)?;
    count("devices of one file system", devices.len(), MAX_DISK_IMAGES)?;
    for number in devices.iter().chain([image]) {
        if usize::from(*number) >= images {
            return Err(invalid(format_args!("image {number} of a disk with {images}")));
        }
    }
    if data.len() > MAX_PATH || data.contains('\0') {
        return Err(invalid(format_args!("the options {data:?} of a {kind} are too long")));
    }
    Ok(())
}

fn new_directory(new: &NewDirectory, file_systems: usize) -> Outcome<()> {
    let NewDirectory { directory: place, mode } = new;
    directory(place, file_systems)?;
    if place.path.is_empty() || mode & !MODES != 0 {
        let path = &place.path;
        return Err(invalid(format_args!("a directory {path:?} of mode {mode:o} to be made")));
    }
    Ok(())
}

fn directory(directory: &DiskDirectory, file_systems: usize) -> Outcome<()> {
    let DiskDirectory { file_system, path } = directory;
    if usize::from(*file_system) >= file_systems {
        return Err(invalid(format_args!(
            "file system {file_system} of a disk with {file_systems}"
        )));
    }
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    let is_bad = !path.is_empty() && path.split('/').any(bad);
    if is_bad || path.len() > MAX_PATH || path.contains('\0') {
        return Err(invalid(format_args!("the path {path:?} on a disk")));
    }
    Ok(())
}

fn overlay(plan: &OverlayPlan, file_systems: usize) -> Outcome<()> {
    let OverlayPlan { lower, upper, flags, options } = plan;
    if lower.is_empty() {
        return Err(invalid(format_args!("an overlay without a lower layer")));
    }
    count("layers", lower.len(), MAX_LAYERS)?;
    count("options of its overlay", options.len(), MAX_FURTHER)?;
    lower.iter().try_for_each(|layer| directory(layer, file_systems))?;
    if let Some(WritableLayer { upper, work }) = upper {
        directory(upper, file_systems)?;
        directory(work, file_systems)?;
    }
    if flags & !MOUNT_FLAGS != 0 {
        return Err(invalid(format_args!("the flags {flags:#x} of an overlay")));
    }
    for (option, value) in options {
        let is_layer = LAYERS.iter().any(|layer| option.starts_with(layer));
        let bad = |text: &str| text.len() > MAX_PATH || text.contains('\0');
        if name("option", option).is_err() || is_layer || value.as_deref().is_some_and(bad) {
            return Err(invalid(format_args!("the option {option:?} of an overlay")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::prelude::v1::*;
    use std::vec;

    fn place(file_system: u16, path: &str) -> DiskDirectory {
        DiskDirectory { file_system, path: path.into() }
    }

    fn good() -> DiskPlan {
        let file_system = |image, devices: &[u16]| DiskFileSystem {
            image,
            devices: devices.to_vec(),
            kind: "erofs".into(),
            flags: 1,
            data: String::new(),
        };
        DiskPlan {
            serial: "disk0".into(),
            images: vec![
                DiskImage { start: 0, bytes: 4096 },
                DiskImage { start: 4096, bytes: 512 },
                DiskImage { start: 8192, bytes: 512 },
            ],
            file_systems: vec![file_system(0, &[]), file_system(1, &[2])],
            directories: vec![NewDirectory { directory: place(0, "upper"), mode: 0o755 }],
            root: DiskRootPlan::Overlay(OverlayPlan {
                lower: vec![place(1, "")],
                upper: Some(WritableLayer { upper: place(0, "upper"), work: place(0, "work") }),
                flags: 1,
                options: vec![("index".into(), Some("off".into()))],
            }),
        }
    }

    fn refuses(change: impl FnOnce(&mut DiskPlan)) {
        let mut disk = good();
        plan(&disk).unwrap();
        change(&mut disk);
        plan(&disk).unwrap_err();
    }

    fn layers(plan: &mut DiskPlan) -> &mut OverlayPlan {
        match &mut plan.root {
            DiskRootPlan::Overlay(overlay) => overlay,
            DiskRootPlan::Directory(_) => unreachable!("it is an overlay"),
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        for bad in ["", ".", "..", "a/b", "a\0"] {
            refuses(|plan| plan.serial = bad.into());
            refuses(|plan| plan.file_systems[1].kind = bad.into());
        }
        refuses(|plan| plan.serial = "x".repeat(21));
        for bad in ["/upper", "..", "a/../b", "a//b", "a/", ".", "a\0"] {
            refuses(|plan| plan.directories[0].directory.path = bad.into());
            refuses(|plan| plan.root = DiskRootPlan::Directory(place(0, bad)));
            refuses(|plan| layers(plan).lower.push(place(0, bad)));
            refuses(|plan| layers(plan).upper.as_mut().unwrap().work.path = bad.into());
        }
        refuses(|plan| plan.directories[0].directory.path.clear());
        refuses(|plan| plan.directories[0].mode = 0o4755);
    }

    #[test]
    fn numbers_are_those_of_something() {
        refuses(|plan| plan.file_systems[0].image = 3);
        refuses(|plan| plan.file_systems[1].devices.push(3));
        refuses(|plan| plan.images.clear());
        refuses(|plan| plan.directories[0].directory.file_system = 2);
        refuses(|plan| plan.root = DiskRootPlan::Directory(place(2, "")));
        refuses(|plan| layers(plan).lower.clear());
        refuses(|plan| layers(plan).lower.push(place(2, "")));
        refuses(|plan| layers(plan).upper.as_mut().unwrap().upper.file_system = 2);
        for (start, bytes) in [(1, 512), (512, 0), (512, 513), (u64::MAX - 511, 512)] {
            refuses(|plan| plan.images[2] = DiskImage { start, bytes });
        }
        refuses(|plan| plan.images = vec![plan.images[0]; MAX_DISK_IMAGES + 1]);
    }

    #[test]
    fn options_are_no_layers() {
        for bad in ["lowerdir", "lowerdir+", "upperdir", "datadir+", "", "a\0"] {
            refuses(|plan| layers(plan).options.push((bad.into(), None)));
        }
        refuses(|plan| layers(plan).flags = 16);
        refuses(|plan| plan.file_systems[0].data = "x".repeat(4096));
    }
}
