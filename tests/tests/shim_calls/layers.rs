//! Roots of many images, each with a layer, as containerd's EROFS snapshotter hands them to who mounts them
//! itself.

use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;
use integration_tests::{Invocation, Lab, Root};

use crate::disks::{MARK, bundle, expect_written, tree};
use crate::shim::{New, Shim, enter, member, mount};

/// More than a page of mount options names, and more than a machine has interrupts for.
const LAYERS: usize = 100;

/// Without data beside names, which a file system of names alone cannot show.
fn erofs(image: &Path, sources: &[&Path]) {
    let mut make = Invocation::new("mkfs.erofs").args(&["--quiet", "-Enoinline_data"]).arg(image);
    for source in sources {
        make = make.arg(source);
    }
    make.run().expect_code(0);
}

/// An empty file system to write to.
fn writable(lab: &Lab, name: &str) -> PathBuf {
    let image = lab.scratch().join(name);
    Invocation::new("mkfs.ext4").arg("-q").arg(&image).arg("16M").run().expect_code(0);
    image
}

/// Layers over a tree: each adds a file and takes away one of the lowest layer. The uppermost is first.
fn layers(lab: &Lab, tree: &Path) -> Vec<PathBuf> {
    let base = lab.scratch().join("base.erofs");
    erofs(&base, &[tree]);
    let mut images = vec![base];
    for number in 0..LAYERS {
        let layer = lab.scratch().join(format!("layer-{number}"));
        for directory in ["added", "removed"] {
            std::fs::create_dir_all(layer.join(directory)).expect("it can be made");
        }
        std::fs::write(layer.join(format!("added/{number}")), "").expect("it can be written");
        if number == 0 {
            for later in 1..LAYERS {
                std::fs::write(layer.join(format!("removed/{later}")), "").expect("likewise");
            }
        } else {
            let whiteout = layer.join(format!("removed/{number}"));
            Invocation::new("mknod").arg(&whiteout).args(&["c", "0", "0"]).run().expect_code(0);
        }
        let image = lab.scratch().join(format!("layer-{number}.erofs"));
        erofs(&image, &[&layer]);
        images.insert(0, image);
    }
    images
}

/// What is handed over: something to write to, the layers, and how they are one.
fn rootfs(upper: &Path, layers: &[PathBuf]) -> Vec<Mount> {
    let mut mounts = vec![mount("ext4", upper, &["rw", "loop"])];
    mounts.extend(layers.iter().map(|layer| mount("erofs", layer, &["ro", "loop"])));
    let lower: Vec<String> =
        (1..=layers.len()).map(|number| format!("{{{{ mount {number} }}}}")).collect();
    let lower = format!("lowerdir={}", lower.join(":"));
    mounts.push(overlay(&lower));
    mounts
}

fn overlay(lower: &str) -> Mount {
    let options = [
        "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
        "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
        "workdir={{ mount 0 }}/work",
        "upperdir={{ mount 0 }}/upper",
        lower,
    ];
    mount("format/mkdir/overlay", Path::new("overlay"), &options)
}

#[test]
fn a_root_of_a_hundred_layers_is_the_guests() {
    let lab = enter();
    let layers = layers(&lab, &tree(&lab));
    let upper = writable(&lab, "upper");
    let script = "ls /added | wc -l; ls /removed | wc -l; cat /etc/mark /written 2> /dev/null; \
                  echo written > /written";
    let alone = bundle(&lab, script);
    let shim = Shim::start("layers", &alone);
    let seen = || std::fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    let before = seen();
    let rootfs = || rootfs(&upper, &layers);
    shim.create(New { id: "layers", bundle: &alone, rootfs: rootfs() }).expect("it can be made");
    assert_eq!(seen(), before, "something was mounted on the host");
    shim.start_task("layers");
    assert_eq!(shim.wait("layers"), 0);
    shim.delete("layers");
    let output = std::fs::read_to_string(alone.path("output")).expect("it has output");
    assert_eq!(output, format!("{LAYERS}\n0\n{MARK}"));
    expect_written(&upper, "/upper/written", "written\n");
    shim.shut_down();

    // What was written is there the next time, and what is wrong is named.
    let again = Shim::start("again", &alone);
    let (status, output) = again.run(New { id: "again", bundle: &alone, rootfs: rootfs() });
    assert_eq!((status, output), (0, format!("{LAYERS}\n0\n{MARK}written\n")));
    again.shut_down();
    let refuse = |mounts: Vec<Mount>, named: &str| {
        let shim = Shim::start("refused", &alone);
        let problem =
            shim.create(New { id: "refused", bundle: &alone, rootfs: mounts }).unwrap_err();
        assert!(problem.contains(named), "{problem}");
        shim.shut_down();
    };
    let mut directory = rootfs();
    directory[1] = mount("bind", lab.scratch(), &["rbind"]);
    refuse(directory, "directory of the host");
    let mut elsewhere = rootfs();
    elsewhere.truncate(2);
    elsewhere.push(overlay("lowerdir=/etc"));
    refuse(elsewhere, "/etc");
    // An image whose links lead to what is the agent's.
    let tempting = lab.scratch().join("tempting");
    std::fs::create_dir(&tempting).expect("it can be made");
    std::os::unix::fs::symlink("/run", tempting.join("upper")).expect("likewise");
    let image = lab.scratch().join("tempting.ext4");
    let make = Invocation::new("mkfs.ext4").args(&["-q", "-d"]).arg(&tempting).arg(&image);
    make.arg("16M").run().expect_code(0);
    refuse(self::rootfs(&image, &layers), "symbolic links");
    lab.expect_nothing_left();
}

#[test]
fn members_of_a_sandbox_have_roots_of_layers() {
    let lab = enter();
    let tree = tree(&lab);
    let (layer, base) = (lab.scratch().join("layer"), lab.scratch().join("base.erofs"));
    std::fs::create_dir(&layer).expect("it can be made");
    std::fs::write(layer.join("added"), "added\n").expect("it can be written");
    let added = lab.scratch().join("layer.erofs");
    erofs(&base, &[&tree]);
    erofs(&added, &[&layer]);
    // The names of both in one file system, their data where it was.
    let merged = lab.scratch().join("merged.erofs");
    erofs(&merged, &[&base, &added]);
    let devices = [&base, &added].map(|image| format!("device={}", image.display()));
    let names = ["ro", "loop", &devices[0], &devices[1]];

    let directory = lab.bundle(Root::Shared("busybox"));
    let shim = Shim::start_in(&directory.path(""), "layered");
    let sandbox = shim.sandbox("layered");
    sandbox.create_in("/ringfence-layered", &directory.path("")).expect("it can be made");
    let pid = sandbox.start();
    // What it costs the host: a guest's memory, and the processes around it.
    let metrics = sandbox.metrics();
    assert!(metrics.memory.usage > 16 << 20 && metrics.cpu.usage_usec > 0, "{metrics}");
    assert!(metrics.pids.current > 2, "{metrics}");
    let script = "cat /etc/mark /added; md5sum < /big; echo written > /written";
    let ids: Vec<String> = (0..3).map(|number| format!("member-{number}")).collect();
    // All of them are there at once.
    let made = |id: &String| {
        let container = bundle(&lab, script).edit(|config| member(config, "layered", pid));
        let upper = writable(&lab, id);
        let rootfs = vec![
            mount("ext4", &upper, &["rw", "loop"]),
            mount("erofs", &merged, &names),
            overlay("lowerdir={{ mount 1 }}"),
        ];
        shim.create(New { id, bundle: &container, rootfs }).expect("it can be made");
        (container, upper)
    };
    let members: Vec<_> = ids.iter().map(made).collect();
    let big = std::fs::read(tree.join("big")).expect("it is there");
    let sum = Invocation::new("md5sum").stdin(big).run();
    for (id, (container, upper)) in ids.iter().zip(&members) {
        shim.start_task(id);
        assert_eq!(shim.wait(id), 0);
        shim.delete(id);
        let output = std::fs::read_to_string(container.path("output")).expect("it has output");
        assert_eq!(output, format!("{MARK}added\n{}", sum.out()));
        expect_written(upper, "/upper/written", "written\n");
    }
    sandbox.stop();
    sandbox.shut_down();
    lab.expect_nothing_left();
}
