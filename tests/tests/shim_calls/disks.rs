//! Roots on disks, as snapshotters for block devices and EROFS hand them over.

use std::path::{Path, PathBuf};

use integration_tests::{Bundle, Invocation, Lab, Root};

use crate::shim::{New, Shim, enter, member, mount, sandbox};

/// What a file in the image says.
pub(crate) const MARK: &str = "from the image\n";

/// Bytes of a file in the image that is there to be read.
const BIG: usize = 5 << 20;

/// A tree with busybox, [`MARK`], and `/big`.
pub(crate) fn tree(lab: &Lab) -> PathBuf {
    let bundle = lab.bundle(Root::Copied("busybox"));
    let tree = lab.scratch().join("tree");
    std::fs::rename(bundle.root(), &tree).expect("it can be renamed");
    std::fs::write(tree.join("etc/mark"), MARK).expect("it can be written");
    // No hole in a disk's file system.
    std::fs::write(tree.join("big"), vec![b'x'; BIG]).expect("it can be written");
    tree
}

fn ext4(lab: &Lab, tree: &Path, name: &str) -> PathBuf {
    let image = lab.scratch().join(name);
    let make = Invocation::new("mkfs.ext4").args(&["-q", "-d"]).arg(tree).arg(&image).arg("24M");
    make.run().expect_code(0);
    image
}

/// A bundle whose root is nowhere but on a disk.
pub(crate) fn bundle(lab: &Lab, script: &str) -> Bundle {
    lab.bundle(Root::Shared("busybox")).script(script).edit(|config| {
        config["root"] = serde_json::json!({ "path": "rootfs", "readonly": false });
    })
}

/// The state of an image's file system, and a file in it.
fn look_into(image: &Path, file: &str) -> (String, String) {
    let header = Invocation::new("dumpe2fs").arg("-h").arg(image).run();
    let debug = Invocation::new("debugfs").args(&["-R", &format!("cat {file}")]).arg(image).run();
    (header.out().to_owned(), debug.out().to_owned())
}

#[track_caller]
pub(crate) fn expect_written(image: &Path, file: &str, content: &str) {
    let (header, written) = look_into(image, file);
    assert_eq!(written, content, "{}", image.display());
    // It was unmounted and not torn away.
    assert!(!header.contains("needs_recovery") && header.contains("clean"), "{header}");
    Invocation::new("e2fsck").args(&["-f", "-n"]).arg(image).run().expect_code(0);
}

#[test]
fn a_root_on_a_disk_is_the_guests() {
    let lab = enter();
    let tree = tree(&lab);
    let image = ext4(&lab, &tree, "image");
    let script = "cat /etc/mark; grep ' / ' /proc/mounts; echo written > /written; exit 3";
    let alone = bundle(&lab, script);
    let shim = Shim::start("disk", &alone);
    let root = || vec![mount("ext4", &image, &["rw", "loop", "noatime"])];
    let new = || New { id: "disk", bundle: &alone, rootfs: root() };
    shim.create(new()).expect("it can be made");
    let seen = std::fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    assert!(!seen.contains(&*alone.path("").to_string_lossy()), "mounted on the host:\n{seen}");
    // Two kernels would destroy it.
    let other = bundle(&lab, "true");
    let second = Shim::start("second", &other);
    let problem = second.create(New { id: "second", bundle: &other, rootfs: root() }).unwrap_err();
    assert!(problem.contains("in use"), "{problem}");
    shim.start_task("disk");
    assert_eq!(shim.wait("disk"), 3);
    shim.delete("disk");
    let output = std::fs::read_to_string(alone.path("output")).expect("it has output");
    assert!(output.starts_with(MARK) && output.contains("/dev/vda / ext4 rw,noatime"), "{output}");
    expect_written(&image, "/written", "written\n");

    // What is read-only stays as it is.
    let before = std::fs::read(&image).expect("it can be read");
    let script = "cat /written; echo no > /written || exit 4";
    let reader = bundle(&lab, script);
    let rootfs = vec![mount("ext4", &image, &["ro"])];
    let (status, output) = second.run(New { id: "reader", bundle: &reader, rootfs });
    assert_eq!((status, output.as_str()), (4, "written\n"));
    assert!(std::fs::read(&image).expect("it can be read") == before);

    // No faster than it may: what may come at once is 1 MiB, and each further one is a second.
    let script = "a=$(date +%s); cat /big > /dev/null; b=$(date +%s); [ $((b - a)) -ge 2 ]";
    let slow = bundle(&lab, script).edit(|config| {
        config["annotations"]["dev.ringfence.disk_rate"] = "bytes=1048576/1048576".into();
    });
    let rootfs = vec![mount("ext4", &image, &["ro"])];
    // A machine of its own: that of the other shim has no place for a second disk.
    let limited = Shim::start("slow", &slow);
    let (status, output) = limited.run(New { id: "slow", bundle: &slow, rootfs });
    assert_eq!((status, output.as_str()), (0, ""));
    limited.shut_down();

    let third = bundle(&lab, "true");
    let refuse = |kind: &str, source: &Path, named: &str| {
        let shim = Shim::start("third", &third);
        let rootfs = vec![mount(kind, source, &[])];
        let problem = shim.create(New { id: "third", bundle: &third, rootfs }).unwrap_err();
        assert!(problem.contains(named), "{problem}");
        shim.shut_down();
    };
    refuse("xfs", &image, "xfs");
    refuse("ext4", &lab.scratch().join("none"), "none");
    refuse("ext4", Path::new("/dev/null"), "block device");
    // Not what it says it is: the guest's kernel tells.
    refuse("erofs", &image, "erofs");
    shim.shut_down();
    second.shut_down();
    lab.expect_nothing_left();
}

#[test]
fn containers_of_a_pod_have_their_roots_on_disks() {
    let lab = enter();
    let tree = tree(&lab);
    let first = ext4(&lab, &tree, "first");
    let image = lab.scratch().join("layers.erofs");
    Invocation::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&tree).run().expect_code(0);
    let writable = ext4(&lab, &tree, "writable");

    let keeper = bundle(&lab, "echo first > /written; exec sleep 1000").edit(sandbox);
    let shim = Shim::start("pod", &keeper);
    let rootfs = vec![mount("ext4", &first, &["rw"])];
    let made = shim.create(New { id: "pod", bundle: &keeper, rootfs }).expect("it can be made");
    shim.start_task("pod");
    let in_pod = |script: &str| bundle(&lab, script).edit(|config| member(config, "pod", made.pid));

    // Two containers of one image, which nobody can write, and one that writes, again and again.
    let layer = || vec![mount("erofs", &image, &["ro", "loop"])];
    let image_keeper = in_pod("exec sleep 1000");
    shim.create(New { id: "image", bundle: &image_keeper, rootfs: layer() }).expect("it is made");
    shim.start_task("image");
    for turn in 1..=10 {
        let reader = in_pod("cat /etc/mark; echo no > /etc/mark || exit 4");
        let (status, output) = shim.run(New { id: "reader", bundle: &reader, rootfs: layer() });
        assert_eq!((status, output.as_str()), (4, MARK), "{turn}");
        let writer = in_pod(&format!("cat /turn; echo {turn} > /turn"));
        let rootfs = vec![mount("ext4", &writable, &["rw"])];
        let (status, output) = shim.run(New { id: "writer", bundle: &writer, rootfs });
        let before = if turn > 1 { format!("{}\n", turn - 1) } else { String::new() };
        assert_eq!((status, output), (0, before));
        expect_written(&writable, "/turn", &format!("{turn}\n"));
    }
    for id in ["image", "pod"] {
        shim.kill(id);
        assert_eq!(shim.wait(id), 137);
        shim.delete(id);
    }
    expect_written(&first, "/written", "first\n");
    shim.shut_down();
    lab.expect_nothing_left();
}

#[test]
fn containers_of_a_sandbox_without_a_first_one_have_their_roots_on_disks() {
    let lab = enter();
    let image = ext4(&lab, &tree(&lab), "image");
    let directory = lab.bundle(Root::Shared("busybox"));
    let usual = std::fs::read_to_string("/etc/ringfence/config.toml").unwrap_or_default();
    let config = lab.scratch().join("drives.toml");
    std::fs::write(&config, format!("{usual}\npod_drives = 1\n")).expect("it can be written");
    let shim = Shim::start_by(&config, &directory.path(""), "drives");
    let sandbox = shim.sandbox("drives");
    sandbox.create("", &directory.path("")).expect("it can be made");
    let pid = sandbox.start();
    for turn in 1..=2 {
        let writer = bundle(&lab, &format!("cat /turn; echo {turn} > /turn"));
        let writer = writer.edit(|config| member(config, "drives", pid));
        let rootfs = vec![mount("ext4", &image, &["rw"])];
        let (status, output) = shim.run(New { id: "writer", bundle: &writer, rootfs });
        let before = if turn > 1 { format!("{}\n", turn - 1) } else { String::new() };
        assert_eq!((status, output), (0, before));
        expect_written(&image, "/turn", &format!("{turn}\n"));
    }
    sandbox.stop();
    sandbox.shut_down();
    lab.expect_nothing_left();
}
