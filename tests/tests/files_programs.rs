//! What programs do to files for longer than one call: every call on every kind of path, random
//! input and output, many files, long names, archives, a package, and two sides at once. Compared
//! with crun where crun has one side only.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::both::{both_the_same, bundle_on};
use integration_tests::report::compare;
use integration_tests::{Bundle, Invocation, Lab, Running, Runtime, tree};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const POSIX: &str = include_str!("../guest/posix.c");
const EXERCISER: &str = include_str!("../guest/exerciser.c");
const ACROSS: &str = include_str!("../guest/across.c");

#[test]
fn every_call_on_every_kind_of_path_is_as_with_crun() {
    let lab = Lab::enter();
    let program = lab.compile("posix", POSIX);
    let run = |share: &Path| {
        bundle_on(&lab, "busybox", share).install(&program, "bin/posix").args(&["/bin/posix"])
    };
    let (outcome, _) = both_the_same(&lab, |_| (), run);
    let lines = outcome.out().lines().filter(|line| !line.starts_with("== ")).count();
    assert!(lines > 1600, "{lines} calls only");
}

#[test]
fn random_reads_and_writes_on_two_mounts_keep_their_content() {
    let lab = Lab::enter();
    let program = lab.compile("exerciser", EXERCISER);
    let second = lab.directory("second");
    let run = |share: &Path| {
        let bundle = bundle_on(&lab, "busybox", share).install(&program, "bin/exerciser");
        std::fs::create_dir(bundle.root().join("second")).unwrap();
        let name = share.file_name().unwrap().to_str().unwrap();
        let script =
            format!("echo == random; exec /bin/exerciser 2500 /mnt/one /second/{name} /mnt/two");
        bundle.bind(&second, "/second", &["rw"]).script(&script)
    };
    both_the_same(&lab, |_| (), run);
    let content = |name| std::fs::read(second.join(name)).unwrap();
    assert!(content("ours") == content("theirs"));
}

#[test]
fn ten_thousand_files_in_a_directory_are_listed_changed_and_removed() {
    let lab = Lab::enter();
    let fill = |share: &Path| {
        std::fs::create_dir(share.join("many")).unwrap();
        for i in 0..10_000 {
            File::create(share.join(format!("many/file-{i}"))).unwrap();
        }
    };
    let script = "cd many; echo == list; ls | wc -l; ls | head -n 3; ls | tail -n 3
        echo == find; find . -type f | wc -l; find . -name 'file-77*' | wc -l
        echo == change; for i in 1 2 3 4 5 6 7 8 9; do echo $i >new-$i; mv file-$i moved-$i; done
        ls | grep -vc file
        echo == remove; rm file-77*; ls | wc -l; stat -c %s file-8000 moved-1";
    both_the_same(&lab, fill, |share| bundle_on(&lab, "busybox", share).script(script));
}

#[test]
fn a_hundred_thousand_files_in_a_directory_are_found() {
    let lab = Lab::enter();
    let share = lab.directory("share");
    let _mount = Tmpfs::mount(&share);
    for i in 0..100_000 {
        File::create(share.join(format!("file-{i}"))).unwrap();
    }
    // Both work in the one directory, and leave it as it was.
    let script = "echo == list; set -- *; echo $#; printf '%s\\n' \"$@\" | md5sum
        echo == attributes; stat -c '%n %s %F' file-0 file-99999 file-7777?
        echo == change; echo new >new; mv file-77777 moved; set -- *; echo $#; cat new moved
        mv moved file-77777; rm new; set -- *; echo $#";
    let bundle = bundle_on(&lab, "busybox", &share).script(script);
    let (ringfence, crun) = lab.both(&bundle);
    ringfence.expect_code(0);
    println!("ringfence {:?}, crun {:?}", ringfence.duration, crun.duration);
    compare(ringfence.out(), crun.out(), &[]);
    assert!(crun.out().starts_with("== list\n100000\n"), "{crun}");
}

#[test]
fn long_names_deep_paths_and_huge_files_work() {
    let lab = Lab::enter();
    let script = "
        echo == names; n=$(printf %0255d 0); echo text >$n; cat $n; ls | wc -c
        mv $n n$n 2>&1 | tail -c 20; mkdir d$n 2>&1 | tail -c 20
        echo == depth; part=$(printf %0248d 0); path=.
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do path=$path/$part; done
        mkdir -p $path; echo deep >$path/f; cat $path/f; echo ${#path}
        cat $path/$part/$part/f 2>&1 | tail -c 20; find . -name f | wc -c
        echo == sparse; truncate -s 8G huge; stat -c %s huge
        echo end | dd of=huge bs=1 seek=8589934588 conv=notrunc 2>/dev/null
        tail -c 4 huge; head -c 4 huge | od -An -tx1; test $(du -k huge | cut -f1) -lt 100; echo $?
        dd if=huge bs=1M skip=4096 count=1 2>/dev/null | md5sum; rm huge";
    both_the_same(&lab, |_| (), |share| bundle_on(&lab, "busybox", share).script(script));
}

#[test]
fn a_tree_is_packed_unpacked_copied_and_compared() {
    let lab = Lab::enter();
    let script = "
        echo == make; mkdir tree; cd tree; cp -a /bin/busybox .; ln busybox hard; ln -s hard soft
        ln -s /nowhere broken; mkfifo -m 640 fifo; mkdir -m 2775 set; mkdir -m 1777 sticky
        echo text >set/file; chown 12:34 set/file; chmod 4711 set/file; touch -d @1000000000 set/file
        cp -a /etc etc; cd ..
        echo == pack; tar cf tree.tar tree; tar tf tree.tar | sort
        echo == unpack; mkdir out; tar xpf tree.tar -C out; diff -r tree out/tree; echo $?
        stat -c '%n %a %u:%g %h %Y' out/tree/set/file
        echo == copy; cp -a tree copy; diff -r tree copy; echo $?; stat -c '%a %h' copy/hard copy/set
        cd copy; find . | sort | cpio -o -H newc 2>/dev/null | wc -c; cd ..; rm -r tree tree.tar; ls";
    both_the_same(&lab, |_| (), |share| bundle_on(&lab, "busybox", share).script(script));
}

#[test]
fn a_package_is_built_installed_and_removed() {
    let lab = Lab::enter();
    // dpkg locks, renames, links and syncs as few programs do.
    let script = "set -e
        mkdir -p p/DEBIAN p/usr/share/mine p/etc
        for i in $(seq 40); do echo $i >p/usr/share/mine/$i; done
        echo setting >p/etc/mine.conf; echo /etc/mine.conf >p/DEBIAN/conffiles
        printf 'Package: mine\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: x\\n' \
            >p/DEBIAN/control
        echo == build; dpkg-deb --root-owner-group -b p mine.deb
        echo == install; dpkg -i mine.deb 2>&1 | grep -v 'Reading database'
        dpkg -s mine | head -n 3; cat /usr/share/mine/40 /etc/mine.conf; dpkg -V mine; echo $?
        echo == upgrade; sed -i 's/Version: 1/Version: 2/' p/DEBIAN/control; rm p/usr/share/mine/7
        dpkg-deb --root-owner-group -b p mine.deb >/dev/null; dpkg -i mine.deb 2>&1 | grep 'Setting'
        ls /usr/share/mine | wc -l
        echo == remove; dpkg -P mine 2>&1 | grep Purging; ls /usr/share/mine 2>&1 || true
        ls /var/lib/dpkg/info | grep mine || true; rm -r p mine.deb";
    let run = |share: &Path| bundle_on(&lab, "debian", share).script(script);
    both_the_same(&lab, |_| (), run);
}

/// A container that does what it is told, line by line ([`ACROSS`]).
struct Told {
    running: Running,
    lines: u32,
}

impl Told {
    fn start(lab: &Lab, program: &Path, share: &Path) -> (Self, Bundle) {
        Self::start_with(lab, program, share, &[])
    }

    /// With options of ringfence itself.
    fn start_with(lab: &Lab, program: &Path, share: &Path, options: &[&str]) -> (Self, Bundle) {
        let bundle =
            bundle_on(lab, "busybox", share).install(program, "bin/across").args(&["/bin/across"]);
        let ringfence = Invocation::new("ringfence").args(options);
        let run = ringfence.args(&["run", "--bundle"]).arg(bundle.write()).arg(lab.new_id());
        (Self { running: run.stdin_held().start(), lines: 0 }, bundle)
    }

    fn tell(&mut self, line: &str) {
        self.lines += 1;
        self.running.write(format!("{line}\n").as_bytes());
    }

    fn expect(&mut self, result: &str) {
        // Each line has its number, so that the answer to another does not count.
        self.running.wait_for_stdout(&format!("{} {result}\n", self.lines));
    }

    fn ask(&mut self, line: &str, result: &str) {
        self.tell(line);
        let verb = line.split(' ').next().unwrap();
        self.expect(&format!("{verb}: {result}"));
    }

    fn end(mut self) {
        self.running.close_stdin();
        self.running.finish().expect_code(0);
    }
}

#[test]
fn locks_exclude_programs_of_the_host_and_wait_for_them() {
    let lab = Lab::enter();
    let program = lab.compile("across", ACROSS);
    let share = lab.directory("share");
    let host = || {
        let path = share.join("f");
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    };
    let (mut guest, _bundle) = Told::start(&lab, &program, &share);
    let file = host();
    for (verb, wait) in [("record", "record-wait"), ("ofd", "ofd-wait"), ("flock", "flock-wait")] {
        let lock = || match verb {
            "flock" => file.try_lock().is_ok(),
            _ => fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        };
        let unlock = || match verb {
            "flock" => file.unlock().unwrap(),
            _ => fcntl_lock(&file, FlockOperation::NonBlockingUnlock).unwrap(),
        };
        guest.ask(&format!("{verb} f"), "ok");
        assert!(!lock(), "{verb}: the host does not see the guest's lock");
        // Its own other descriptor: as on one machine.
        let other = if verb == "record" { "ok" } else { "EAGAIN" };
        guest.ask(&format!("{verb} f"), other);
        guest.ask("drop", "ok");
        assert!(lock(), "{verb}: the guest holds its lock after closing");
        guest.ask(&format!("{verb} f"), "EAGAIN");
        guest.tell(&format!("{wait} f"));
        std::thread::sleep(Duration::from_millis(300));
        unlock();
        guest.expect(&format!("{wait}: ok"));
        assert!(!lock(), "{verb}: the guest does not have what it waited for");
        guest.ask("drop", "ok");
    }
    guest.ask("flock f", "ok");
    guest.end();
    file.try_lock().expect("nothing is held by a sandbox that has ended");
}

#[test]
fn locks_exclude_programs_of_another_sandbox() {
    let lab = Lab::enter();
    let program = lab.compile("across", ACROSS);
    let share = lab.directory("share");
    let (mut one, _one_bundle) = Told::start(&lab, &program, &share);
    let (mut two, _two_bundle) = Told::start(&lab, &program, &share);
    for (verb, wait) in [("record", "record-wait"), ("ofd", "ofd-wait"), ("flock", "flock-wait")] {
        let (lock, wait) = (format!("{verb} f"), format!("{wait} f"));
        one.ask(&lock, "ok");
        two.ask(&lock, "EAGAIN");
        two.tell(&wait);
        one.ask("drop", "ok");
        two.expect(&format!("{}: ok", wait.trim_end_matches(" f")));
        one.ask(&lock, "EAGAIN");
        two.ask("drop", "ok");
    }
    one.ask("record-shared f", "ok");
    two.ask("record-shared f", "ok");
    two.ask("record f", "EAGAIN");
    // A sandbox that ends leaves no lock.
    one.end();
    two.ask("record f", "ok");
    two.end();
}

#[test]
fn the_hosts_configuration_says_where_locks_are() {
    let lab = Lab::enter();
    let program = lab.compile("across", ACROSS);
    let share = lab.directory("share");
    let file = File::create(share.join("f")).unwrap();
    let config = lab.scratch().join("config.toml");
    for (policy, first, second) in [("guest", "ok", "EAGAIN"), ("refused", "ENOLCK", "ENOLCK")] {
        std::fs::write(&config, format!("file_locks = \"{policy}\"\n")).unwrap();
        let options = ["--config", config.to_str().unwrap()];
        let (mut guest, _bundle) = Told::start_with(&lab, &program, &share, &options);
        file.try_lock().unwrap();
        // The host's lock is not seen; another of the guest's programs is.
        guest.ask("flock f", first);
        guest.ask("flock f", second);
        guest.ask("ofd f", first);
        guest.ask("ofd f", second);
        file.unlock().unwrap();
        guest.end();
    }
}

#[test]
fn sockets_connect_within_the_guest_and_not_across_the_wall() {
    let lab = Lab::enter();
    let program = lab.compile("across", ACROSS);
    let share = lab.directory("share");
    let _stream = UnixListener::bind(share.join("host")).unwrap();
    let _datagram = UnixDatagram::bind(share.join("host-datagram")).unwrap();
    let (mut guest, _bundle) = Told::start(&lab, &program, &share);
    guest.ask("connect host", "ECONNREFUSED");
    guest.ask("connect-datagram host-datagram", "ECONNREFUSED");
    guest.ask("connect none", "ENOENT");
    guest.ask("listen host", "EADDRINUSE");
    guest.ask("listen guest", "ok");
    guest.ask("connect guest", "ok");
    guest.ask("listen-datagram guest-datagram", "ok");
    guest.ask("connect-datagram guest-datagram", "ok");
    let refused = |error: std::io::Error| {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    };
    refused(UnixStream::connect(share.join("guest")).unwrap_err());
    let sender = UnixDatagram::unbound().unwrap();
    refused(sender.connect(share.join("guest-datagram")).unwrap_err());
    guest.end();
}

/// A tmpfs, as long as this lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Self {
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_file_system_mounted_in_a_share_is_another_device() {
    let lab = Lab::enter();
    let mounts = std::cell::RefCell::new(vec![]);
    let fill = |share: &Path| {
        std::fs::create_dir(share.join("m")).unwrap();
        mounts.borrow_mut().push(Tmpfs::mount(&share.join("m")));
        std::fs::write(share.join("plain"), "plain\n").unwrap();
        std::fs::write(share.join("m/inside"), "inside\n").unwrap();
    };
    let script = "
        echo == read; cat m/inside plain; ls m
        echo == devices; d() { stat -c %d $1; }
        test $(d m/inside) = $(d plain); echo $?; test $(d m/.) = $(d m/inside); echo $?
        test $(d .) = $(d plain); echo $?; find . -xdev -type f; find . -type f | sort
        echo == across; ln plain m/hard 2>&1 | sed 's/.*: //'; rmdir m 2>&1 | sed 's/.*: //'
        mv plain m/moved; cat m/moved; ls; ls m";
    both_the_same(&lab, fill, |share| bundle_on(&lab, "busybox", share).script(script));
}

#[test]
fn a_network_file_system_works_as_far_as_it_does() {
    let lab = Lab::enter();
    // In the lab the checkout is on 9p: no file handles, no O_TMPFILE, names that are all it knows a
    // file by.
    let checkout = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = "
        echo == write; mkdir -p d/e; echo one >d/f; echo two >>d/f; cat d/f; truncate -s 5 d/f; cat d/f
        dd if=/bin/busybox of=big bs=64k count=9 2>/dev/null; cmp -n 589824 big /bin/busybox; echo $?
        dd if=d/f of=big bs=1 seek=70000 conv=notrunc 2>/dev/null; md5sum big
        echo == names; mv d/f d/e/g; cat d/e/g; ln -s e/g d/s; cat d/s; mv -T d/e d/h; ls -R; rm d/s
        echo == attributes; chmod 640 d/h/g; touch -d @1000000000 d/h/g; stat -c '%a %s %Y' d/h/g
        echo == errors; mkdir d 2>&1 | sed 's/.*: //'; rmdir d 2>&1 | sed 's/.*: //'
        cat none 2>&1 | sed 's/.*: //'; cat d 2>&1 | sed 's/.*: //'
        echo == open; exec 3<big; rm big; head -c 9 <&3 | od -An -c; exec 3<&-; ls";
    let run = |runtime, name: &str| {
        let share = checkout.path().join(name);
        std::fs::create_dir(&share).unwrap();
        let bundle = bundle_on(&lab, "busybox", &share).script(script);
        let outcome = lab.runtime(runtime, &bundle, &[]).run();
        outcome.expect_code(0);
        (outcome, share)
    };
    let (ringfence, ours) = run(Runtime::Ringfence, "ours");
    let (crun, theirs) = run(Runtime::Crun, "theirs");
    compare(ringfence.out(), crun.out(), &[]);
    tree::compare(&ours, &theirs, |_| false);
}

#[test]
fn both_sides_append_whole_lines_to_one_file() {
    const LINES: usize = 150;
    let lab = Lab::enter();
    let share = lab.directory("share");
    let path = share.join("log");
    File::create(&path).unwrap();
    let script = format!(
        "echo ready; i=0; while [ $i -lt {LINES} ]; do echo guest-$i-0123456789; i=$((i+1)); done >>log"
    );
    let bundle = bundle_on(&lab, "busybox", &share).script(&script);
    let running = lab.ringfence(&bundle).start();
    running.wait_for_stdout("ready\n");
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    for i in 0..LINES {
        log.write_all(format!("host-{i}-0123456789\n").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
    running.finish().expect_code(0);
    let text = std::fs::read_to_string(&path).unwrap();
    for side in ["guest", "host"] {
        let of_side: Vec<_> = text.lines().filter(|line| line.starts_with(side)).collect();
        let expected: Vec<_> = (0..LINES).map(|i| format!("{side}-{i}-0123456789")).collect();
        assert_eq!(of_side, expected);
    }
    assert_eq!(text.lines().count(), 2 * LINES);
}
