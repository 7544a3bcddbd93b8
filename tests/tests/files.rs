//! Files of the root and of shares: what programs do to them works as with crun, is seen on the
//! host, and stays inside what was shared.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use integration_tests::bundle::engine_capabilities;
use integration_tests::report::{Difference, compare};
use integration_tests::{Bundle, Lab, Outcome, Root, Runtime, tree};
use serde_json::{Value, json};

const SUITE: &str = include_str!("../guest/files.c");

/// Everything that can be had: a container that is as free as a machine's own root.
fn all_capabilities(config: &mut Value) {
    engine_capabilities(config);
    for set in ["bounding", "permitted", "effective"] {
        let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
        set.extend(
            ["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"].map(|one| json!(one)),
        );
    }
    config["linux"]["maskedPaths"] = json!([]);
    config["linux"]["readonlyPaths"] = json!([]);
    config["root"]["readonly"] = json!(false);
}

/// Sections of the suite in which a file system that is shared answers otherwise than a local one.
const SUITE_DIFFERS: &[Difference] = &[];

#[test]
fn a_writable_share_behaves_as_a_local_directory() {
    let lab = Lab::enter();
    let suite = lab.compile("files", SUITE);
    let (ours, theirs) = (lab.directory("ours"), lab.directory("theirs"));
    let run = |runtime: Runtime, share: &Path| -> Outcome {
        let bundle = lab
            .bundle(Root::Shared("busybox"))
            .args(&["/run/files"])
            .mount(json!({ "destination": "/run", "type": "tmpfs", "source": "tmpfs" }))
            .bind(&suite, "/run/files", &["ro"])
            .bind(share, "/var/tmp", &["rw"])
            .edit(engine_capabilities)
            .edit(|config| config["process"]["cwd"] = json!("/var/tmp"));
        lab.runtime(runtime, &bundle, &[]).run()
    };
    let ringfence = run(Runtime::Ringfence, &ours);
    let crun = run(Runtime::Crun, &theirs);
    ringfence.expect_code(0);
    crun.expect_code(0);
    compare(ringfence.out(), crun.out(), SUITE_DIFFERS);
    tree::compare(&ours, &theirs, |_| false);
}

#[test]
fn the_root_behaves_as_a_local_directory() {
    let lab = Lab::enter();
    let suite = lab.compile("files", SUITE);
    let run = |runtime: Runtime| -> (Outcome, Bundle) {
        let bundle = lab
            .bundle(Root::Copied("busybox"))
            .install(&suite, "bin/files")
            .args(&["/bin/files"])
            .edit(engine_capabilities)
            .edit(|config| config["process"]["cwd"] = json!("/work"));
        std::fs::create_dir(bundle.root().join("work")).unwrap();
        (lab.runtime(runtime, &bundle, &[]).run(), bundle)
    };
    let (ringfence, ours) = run(Runtime::Ringfence);
    let (crun, theirs) = run(Runtime::Crun);
    ringfence.expect_code(0);
    crun.expect_code(0);
    compare(ringfence.out(), crun.out(), SUITE_DIFFERS);
    // The whole root: neither runtime leaves anything of its own in it that the other does not.
    tree::compare(&ours.root(), &theirs.root(), |_| false);
}

/// A directory to share, beside one that nobody may reach, with every kind of way out of it.
struct Canary {
    secret: std::path::PathBuf,
    before: std::collections::BTreeMap<std::path::PathBuf, tree::Entry>,
}

impl Canary {
    fn new(lab: &Lab, share: &Path) -> Self {
        let secret = lab.directory("secret");
        std::fs::write(secret.join("canary"), "the canary\n").unwrap();
        let canary = secret.join("canary");
        symlink(&canary, share.join("absolute")).unwrap();
        symlink("../secret/canary", share.join("relative")).unwrap();
        symlink("../secret", share.join("directory")).unwrap();
        symlink("/proc/1/root", share.join("magic")).unwrap();
        symlink(format!("/proc/self/root/{}", canary.display()), share.join("self")).unwrap();
        symlink("..", share.join("up")).unwrap();
        let before = tree::listing(&secret);
        Self { secret, before }
    }

    #[track_caller]
    fn expect_untouched(&self, outcome: &Outcome) {
        assert!(!outcome.out().contains("the canary"), "{outcome}");
        assert_eq!(tree::listing(&self.secret), self.before);
    }
}

#[test]
fn nothing_leads_out_of_a_share() {
    let lab = Lab::enter();
    let share = lab.directory("share");
    let canary = Canary::new(&lab, &share);
    let script = format!(
        "cd /mnt
        for way in absolute relative directory/canary self up/secret/canary magic{0}/canary \
                   ../secret/canary ../../secret/canary {0}/canary; do
            cat $way; echo out >$way; rm -f $way; ln $way stolen; chmod 777 $way; mv $way moved
        done 2>/dev/null
        mkdir -p directory/made up/secret/made ../secret/made 2>/dev/null
        ln -s ../secret/canary fresh; cat fresh; echo out >fresh
        mv /mnt/directory/canary /mnt/here; cp -r up/secret /tmp/copy
        # The file system itself, without the container's view of it.
        mkdir -p /tmp/all; mount -t virtiofs ringfence /tmp/all && cd /tmp/all && {{
            ls -a . >/dev/null; for share in *; do (
                cd $share && {{ cat ../secret/canary up/secret/canary relative; }}
                cat $share/../../secret/canary ..{0}/canary
            ) ; done
        }}
        echo done",
        canary.secret.display()
    );
    let bundle = lab
        .bundle(Root::Writable("busybox"))
        .script(&script)
        .bind(&share, "/mnt", &["rw"])
        .edit(all_capabilities);
    std::fs::create_dir(bundle.root().join("mnt")).unwrap();
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(0);
    assert!(outcome.out().ends_with("done\n"), "{outcome}");
    canary.expect_untouched(&outcome);
    // The bundle itself lies beside the root, and the host's own files above both.
    let script =
        "cat /../config.json /mnt/../../config.json ../config.json; ls /.. | sort | tr '\n' ' '";
    let bundle = bundle.script(script);
    let outcome = lab.ringfence(&bundle).run();
    assert!(!outcome.out().contains("ociVersion"), "{outcome}");
    assert!(outcome.out().contains("bin "), "{outcome}");
}

/// Tries to change `$1` in every way.
const CHANGES: &str = r#"
change() {
    (echo x >>$1/file) 2>&1; (echo x >$1/new) 2>&1; (rm $1/file) 2>&1; (mkdir $1/d) 2>&1
    (mv $1/file $1/other) 2>&1; (ln $1/file $1/link) 2>&1; (ln -s x $1/soft) 2>&1
    (chmod 777 $1/file) 2>&1; (chown 5 $1/file) 2>&1; (touch $1/file) 2>&1
    (truncate -s 0 $1/file) 2>&1; (mknod $1/fifo p) 2>&1; (rmdir $1/sub) 2>&1
}
change /mnt
mount -o remount,rw /mnt 2>/dev/null; mount -o remount,bind,rw /mnt 2>/dev/null
echo "== after remounting"
awk '$5 == "/mnt" { print "/mnt", substr($6, 1, 2) }' /proc/self/mountinfo
change /mnt | sed 's/.*: //' | sort | uniq -c | tr -s ' '
cat /mnt/file
"#;

#[test]
fn a_readonly_share_is_refused_by_the_host_and_not_by_the_guest() {
    let lab = Lab::enter();
    let share = lab.directory("share");
    std::fs::create_dir(share.join("sub")).unwrap();
    std::fs::write(share.join("file"), "unchanged\n").unwrap();
    let before = tree::listing(&share);
    let time = std::fs::metadata(share.join("file")).unwrap().modified().unwrap();
    let bundle = lab
        .bundle(Root::Writable("busybox"))
        .script(CHANGES)
        .bind(&share, "/mnt", &["ro"])
        .edit(all_capabilities);
    std::fs::create_dir(bundle.root().join("mnt")).unwrap();
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(0);
    assert!(outcome.out().ends_with("unchanged\n"), "{outcome}");
    let (_, remounted) = outcome.out().split_once("== after remounting\n").unwrap();
    // The guest's kernel lets everything through now; each of the thirteen changes meets the host.
    assert_eq!(remounted, "/mnt rw\n 13 Read-only file system\nunchanged\n", "{outcome}");
    assert_eq!(tree::listing(&share), before, "{outcome}");
    assert_eq!(std::fs::metadata(share.join("file")).unwrap().modified().unwrap(), time);
}

#[test]
fn a_single_file_has_no_neighbours() {
    let lab = Lab::enter();
    let directory = lab.directory("directory");
    std::fs::write(directory.join("shared"), "shared\n").unwrap();
    std::fs::write(directory.join("neighbour"), "the canary\n").unwrap();
    let script = "cat /etc/one; echo more >>/etc/one; ls -l /etc/one | cut -c1-10
        mkdir -p /tmp/all; mount -t virtiofs ringfence /tmp/all && cd /tmp/all && find . -maxdepth 2
        cat */neighbour */../neighbour ../neighbour /etc/neighbour; exit 0";
    let bundle = lab
        .bundle(Root::Writable("busybox"))
        .script(script)
        .bind(&directory.join("shared"), "/etc/one", &["rw"])
        .edit(all_capabilities);
    let outcome = lab.ringfence(&bundle).run();
    outcome.expect_code(0);
    assert!(outcome.out().starts_with("shared\n-rw-r--r--\n"), "{outcome}");
    assert!(!outcome.out().contains("neighbour") && !outcome.out().contains("canary"), "{outcome}");
    assert_eq!(std::fs::read_to_string(directory.join("shared")).unwrap(), "shared\nmore\n");
}

#[test]
fn what_the_host_changes_is_seen_and_special_files_are_the_guests_own() {
    let lab = Lab::enter();
    let share = lab.directory("share");
    std::fs::write(share.join("grows"), "one\n").unwrap();
    std::fs::write(share.join("locked"), "locked\n").unwrap();
    std::fs::set_permissions(share.join("locked"), PermissionsExt::from_mode(0o400)).unwrap();
    std::os::unix::fs::chown(share.join("locked"), Some(1234), Some(5678)).unwrap();
    // A fifo that somebody on the host holds: opening it on the host would hang the server.
    let fifo = share.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    let script = "cat /mnt/grows; stat -c '%a %u %g' /mnt/locked
        (echo through >/mnt/fifo) & cat /mnt/fifo; wait
        echo next; read line; cat /mnt/grows; cat /mnt/fresh; echo mine >/mnt/mine; echo done; cat";
    let bundle = lab
        .bundle(Root::Writable("busybox"))
        .script(script)
        .bind(&share, "/mnt", &["rw"])
        .edit(engine_capabilities);
    std::fs::create_dir(bundle.root().join("mnt")).unwrap();
    let mut running = lab.ringfence(&bundle).stdin_held().start();
    running.wait_for_stdout("one\n400 1234 5678\nthrough\nnext\n");
    std::fs::write(share.join("grows"), "one\ntwo\n").unwrap();
    std::fs::write(share.join("fresh"), "fresh\n").unwrap();
    // As long as the guest may keep what it has read.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    running.write(b"go\n");
    running.wait_for_stdout("one\ntwo\nfresh\ndone\n");
    // Seen on the host while the container still runs: a write is not kept back in the guest.
    let mine = share.join("mine");
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "mine\n");
    let metadata = std::fs::metadata(&mine).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (0, 0, 0o644));
    running.close_stdin();
    running.finish().expect_code(0);
}
