//! The root file system of a container when it is on disks: images with a file system each, and what of them is
//! the root, in the words of containerd's mount manager (`format/`, `mkdir/`), whose part the guest does.
//!
//! A file system on a disk is parsed by the kernel that mounts it: a stranger's image must not be by the
//! host's.

use crate::mount_options::{Sorted, is_directory, sort};
use crate::shim_error::ShimError;
use containerd_shim_protos::api::Mount;
use rustix::mount::MountFlags;
use sandbox::pod::{
    DiskDirectory, DiskRoot, DiskRootPlan, ImageFileSystem, NewDirectory, OverlayPlan,
    WritableLayer,
};
use std::path::PathBuf;

/// Before a type: templates are to be filled in, and directories to be made.
const FORMAT: &str = "format/";
const MKDIR: &str = "mkdir/";
/// An option with a directory to be made: `PATH[:MODE[:UID:GID]]`.
const MKDIR_PATH: &str = "X-containerd.mkdir.path=";
const DEFAULT_MODE: u32 = 0o700;
/// Bytes of a text whose templates are filled in: the names of as many layers as overlayfs takes, and more.
const MAX_TEXT: usize = 64 << 10;
/// Stands for a mount in a text whose templates are filled in; no text of a mount has this character.
const MARK: char = '\0';
/// The flags that an overlay can have.
const OVERLAY_FLAGS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The disks of a root; `None` if it is none of disks.
pub(crate) fn find(mounts: &[Mount]) -> Result<Option<DiskRoot>, ShimError> {
    if mounts.iter().all(is_directory) {
        return Ok(None);
    }
    let Some((top, before)) = mounts.split_last() else { return Ok(None) };
    read(top, before).map(Some).map_err(|(each, problem)| ShimError::Mount {
        kind: each.type_.clone(),
        path: PathBuf::from(&each.source),
        problem,
    })
}

/// The error is the mount and what is wrong with it.
fn read<'m>(top: &'m Mount, before: &'m [Mount]) -> Result<DiskRoot, (&'m Mount, String)> {
    let mut all = before.iter().chain([top]);
    if let Some(each) = all.find(|each| !each.target.trim_matches('/').is_empty()) {
        return Err((each, "a disk is the whole of a root, and no part of one".to_owned()));
    }
    let file_system = |each| file_system(each).map_err(|problem| (each, problem));
    if before.is_empty() {
        return file_system(top).map(DiskRoot::whole);
    }
    let file_systems = before.iter().map(file_system).collect::<Result<Vec<_>, _>>()?;
    let reader = Reader { count: file_systems.len() };
    let (directories, root) = reader.top(top).map_err(|problem| (top, problem))?;
    Ok(DiskRoot { file_systems, directories, root })
}

fn file_system(each: &Mount) -> Result<ImageFileSystem, String> {
    if is_directory(each) {
        return Err("a directory of the host cannot be a layer beside disks".to_owned());
    }
    let texts = each.options.iter().chain([&each.source]);
    if each.type_.contains('/') || texts.clone().any(|text| text.contains("{{")) {
        return Err("a disk is given as it is: nothing can be filled in or made for it".to_owned());
    }
    let Mount { type_, source, options, .. } = each;
    Ok(ImageFileSystem { path: source.into(), kind: type_.clone(), options: options.clone() })
}

/// Reads what is over the file systems.
struct Reader {
    /// How many there are.
    count: usize,
}

impl Reader {
    fn top(&self, each: &Mount) -> Result<(Vec<NewDirectory>, DiskRootPlan), String> {
        let formatted = each.type_.strip_prefix(FORMAT);
        let kind = formatted.unwrap_or(&each.type_);
        let kind = kind.strip_prefix(MKDIR).unwrap_or(kind);
        let fill = |text: &String| match formatted {
            Some(_) => self.fill(text),
            None if text.contains(MARK) => Err("it has a zero byte".to_owned()),
            None => Ok(text.clone()),
        };
        let options = each.options.iter().map(fill).collect::<Result<Vec<_>, _>>()?;
        let (made, options): (Vec<String>, Vec<String>) =
            options.into_iter().partition(|option| option.starts_with(MKDIR_PATH));
        let directories = made
            .iter()
            .filter_map(|option| option.strip_prefix(MKDIR_PATH))
            .map(|option| self.new_directory(option))
            .collect::<Result<_, _>>()?;
        let root = match kind {
            "overlay" => DiskRootPlan::Overlay(self.overlay(&options)?),
            "bind" => self.bind(&fill(&each.source)?, &options)?,
            _ => return Err("behind disks there can be an overlay or a bind of them".to_owned()),
        };
        Ok((directories, root))
    }

    /// `{{ mount N }}` and `{{ overlay M N }}`, which are file systems; others have no meaning in a guest.
    fn fill(&self, text: &str) -> Result<String, String> {
        if text.contains(MARK) {
            return Err("it has a zero byte".to_owned());
        }
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let Some((template, behind)) = behind.split_once("}}") else {
                return Err(format!("the template in {text:?} has no end"));
            };
            let words: Vec<&str> = template.split_whitespace().collect();
            let mounts = match words.as_slice() {
                ["mount", number] => vec![self.number(number)?],
                ["overlay", first, last] => {
                    let (first, last) = (self.number(first)?, self.number(last)?);
                    if first > last {
                        (last..=first).rev().collect()
                    } else {
                        (first..=last).collect()
                    }
                }
                _ => {
                    return Err(format!(
                        "the template {template:?} is not known: mount and overlay are"
                    ));
                }
            };
            let mounts: Vec<String> =
                mounts.into_iter().map(|number| format!("{MARK}{number}")).collect();
            filled = filled + before + &mounts.join(":");
            if filled.len() > MAX_TEXT {
                return Err(format!("filled in, it has more than {MAX_TEXT} bytes"));
            }
            rest = behind;
        }
        Ok(filled + rest)
    }

    fn number(&self, text: &str) -> Result<u16, String> {
        let number = text.parse::<u16>().ok().filter(|number| usize::from(*number) < self.count);
        number.ok_or_else(|| format!("there is no mount {text:?} before it, but {}", self.count))
    }

    /// A path that begins with a mount.
    fn directory(&self, text: &str) -> Result<DiskDirectory, String> {
        let shown = || text.replace(MARK, "mount ");
        let Some(place) = text.strip_prefix(MARK) else {
            return Err(format!("{:?} is not in a mount before it", shown()));
        };
        let (number, path) = place.split_once('/').unwrap_or((place, ""));
        let path = path.trim_matches('/');
        let is_plain = path.is_empty()
            || path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(MARK));
        if !is_plain {
            return Err(format!("{:?} leads elsewhere", shown()));
        }
        Ok(DiskDirectory { file_system: self.number(number)?, path: path.to_owned() })
    }

    fn new_directory(&self, option: &str) -> Result<NewDirectory, String> {
        let parts: Vec<&str> = option.split(':').collect();
        let (path, mode) = match parts.as_slice() {
            [path] => (path, DEFAULT_MODE),
            // All that containerd's own can do.
            [path, mode] | [path, mode, "0", "0"] => {
                let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
                (path, mode.ok_or_else(|| "a directory's mode is up to 0777".to_owned())?)
            }
            _ => {
                return Err("a directory to be made is PATH, PATH:MODE or PATH:MODE:0:0".to_owned());
            }
        };
        let directory = self.directory(path)?;
        if directory.path.is_empty() {
            return Err("a directory to be made has a name".to_owned());
        }
        Ok(NewDirectory { directory, mode })
    }

    fn overlay(&self, options: &[String]) -> Result<OverlayPlan, String> {
        let Sorted { flags, bind, data } = sort(options);
        // What a mount has anyhow.
        let flags = flags - MountFlags::RELATIME;
        if bind.is_some() || !OVERLAY_FLAGS.contains(flags) {
            return Err("an overlay's flags are ro, nosuid, nodev and noexec".to_owned());
        }
        let (mut lower, mut upper, mut work, mut further) = (Vec::new(), None, None, Vec::new());
        for option in data {
            match option.split_once('=') {
                Some(("lowerdir", layers)) => {
                    for layer in layers.split(':') {
                        lower.push(self.directory(layer)?);
                    }
                }
                Some(("upperdir", directory)) => upper = Some(self.directory(directory)?),
                Some(("workdir", directory)) => work = Some(self.directory(directory)?),
                Some((name, value)) => further.push((name.to_owned(), Some(value.to_owned()))),
                None => further.push((option.to_owned(), None)),
            }
        }
        let upper = match (upper, work) {
            (Some(upper), Some(work)) => Some(WritableLayer { upper, work }),
            (None, None) => None,
            _ => return Err("an overlay has both an upperdir and a workdir, or none".to_owned()),
        };
        if lower.is_empty() {
            return Err("an overlay has a lowerdir".to_owned());
        }
        Ok(OverlayPlan { lower, upper, flags: flags.bits().into(), options: further })
    }

    fn bind(&self, source: &str, options: &[String]) -> Result<DiskRootPlan, String> {
        let Sorted { flags, bind: _, data } = sort(options);
        if !flags.is_empty() || !data.is_empty() {
            return Err("a bind of a disk has no options but rw, bind and rbind".to_owned());
        }
        self.directory(source).map(DiskRootPlan::Directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            type_: kind.into(),
            source: source.into(),
            options: options.iter().map(|option| (*option).into()).collect(),
            ..Mount::default()
        }
    }

    fn place(file_system: u16, path: &str) -> DiskDirectory {
        DiskDirectory { file_system, path: path.into() }
    }

    /// Disks, and this over them.
    fn over(kind: &str, source: &str, options: &[&str]) -> Result<DiskRoot, String> {
        let mounts = [
            mount("ext4", "/rw.img", &["rw", "loop"]),
            mount("erofs", "/top.erofs", &["ro", "loop"]),
            mount("erofs", "/base.erofs", &["ro", "loop"]),
            mount(kind, source, options),
        ];
        find(&mounts).map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn layers_are_read() {
        let root = over(
            "format/mkdir/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                "X-containerd.mkdir.path={{mount 0}}/work",
                "workdir={{ mount 0 }}/work",
                "upperdir={{ mount 0 }}/upper",
                "lowerdir={{ mount 1 }}:{{ mount 2 }}",
                "index=off",
                "nodev",
            ],
        );
        let root = root.unwrap();
        let kinds: Vec<_> = root.file_systems.iter().map(|each| each.kind.as_str()).collect();
        assert_eq!(kinds, ["ext4", "erofs", "erofs"]);
        let made = |path, mode| NewDirectory { directory: place(0, path), mode };
        assert_eq!(root.directories, [made("upper", 0o755), made("work", 0o700)]);
        let overlay = OverlayPlan {
            lower: vec![place(1, ""), place(2, "")],
            upper: Some(WritableLayer { upper: place(0, "upper"), work: place(0, "work") }),
            flags: 4,
            options: vec![("index".into(), Some("off".into()))],
        };
        assert_eq!(root.root, DiskRootPlan::Overlay(overlay));

        for (template, order) in [("{{ overlay 1 2 }}", [1, 2]), ("{{ overlay 2 1 }}", [2, 1])] {
            let option = format!("lowerdir={template}");
            let root = over("format/overlay", "overlay", &[&option]).unwrap();
            let DiskRootPlan::Overlay(overlay) = root.root else { panic!("{template}") };
            assert_eq!(overlay.lower, order.map(|number| place(number, "")));
        }
        let root = over("format/mkdir/bind", "{{ mount 0 }}/upper", &["rw", "rbind"]).unwrap();
        assert_eq!(root.root, DiskRootPlan::Directory(place(0, "upper")));
    }

    #[test]
    fn a_disk_alone_is_the_root() {
        let disk = mount("ext4", "/dev/sda", &["ro"]);
        let root = find(std::slice::from_ref(&disk)).unwrap().unwrap();
        assert_eq!(root, DiskRoot::whole(file_system(&disk).unwrap()));
        assert_eq!(find(&[]).unwrap(), None);
        assert_eq!(find(&[mount("bind", "/a", &["rbind"])]).unwrap(), None);
        let beneath = Mount { target: "/data".into(), ..disk };
        assert!(find(&[beneath]).unwrap_err().to_string().contains("whole"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (kind, source, options, named) in [
            ("overlay", "overlay", &["lowerdir=/etc"][..], "/etc"),
            ("format/overlay", "overlay", &["lowerdir={{ mount 3 }}"], "3"),
            ("format/overlay", "overlay", &["lowerdir={{ mount -1 }}"], "-1"),
            ("format/overlay", "overlay", &["lowerdir={{ target 0 }}"], "target"),
            ("format/overlay", "overlay", &["lowerdir={{ mount 0 "], "end"),
            ("format/overlay", "overlay", &[&"{{ overlay 0 2 }}".repeat(1 << 20)], "bytes"),
            ("format/overlay", "overlay", &["lowerdir={{ mount 0 }}/../x"], "elsewhere"),
            ("format/overlay", "overlay", &["lowerdir=\x000"], "zero"),
            ("overlay", "overlay", &["lowerdir=\x000"], "zero"),
            ("format/overlay", "overlay", &["lowerdir=x{{ mount 0 }}"], "not in a mount"),
            ("format/overlay", "overlay", &["upperdir={{ mount 0 }}/u"], "workdir"),
            ("format/overlay", "overlay", &["index=off"], "lowerdir"),
            ("format/overlay", "overlay", &["lowerdir={{ mount 1 }}", "noatime"], "flags"),
            ("format/mkdir/bind", "{{ mount 0 }}/upper", &["ro", "rbind"], "options"),
            ("format/mkdir/bind", "/etc", &["rbind"], "/etc"),
            ("format/mkdir/xfs", "/x", &[], "overlay or a bind"),
            ("format/mkdir/bind", "{{ mount 0 }}", &[&*format!("{MKDIR_PATH}/x")], "not in"),
            ("mkdir/bind", "x", &["X-containerd.mkdir.path=\x000/a:1777"], "zero"),
            (
                "format/mkdir/bind",
                "{{ mount 0 }}",
                &["X-containerd.mkdir.path={{ mount 0 }}/a:1777"],
                "0777",
            ),
            (
                "format/mkdir/bind",
                "{{ mount 0 }}",
                &["X-containerd.mkdir.path={{ mount 0 }}/a:755:1:1"],
                "PATH:MODE",
            ),
            (
                "format/mkdir/bind",
                "{{ mount 0 }}",
                &["X-containerd.mkdir.path={{ mount 0 }}"],
                "name",
            ),
        ] {
            let error = over(kind, source, options).unwrap_err();
            assert!(error.contains(named), "{options:?}: {error}");
        }
        let layer = mount("bind", "/layer", &["rbind"]);
        let disk = mount("erofs", "/x", &[]);
        for mounts in [
            [layer, disk.clone()],
            [mount("mkfs/ext4", "/rw", &[]), disk.clone()],
            [disk.clone(), disk],
        ] {
            find(&mounts).unwrap_err();
        }
    }
}
