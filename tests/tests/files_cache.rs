//! What a guest keeps of a share: the policy that the host's configuration or the bundle chooses, and
//! what is then seen of the host's changes.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use integration_tests::bundle::engine_capabilities;
use integration_tests::{Bundle, Invocation, Lab, Root, Running};
use serde_json::json;

const EXERCISER: &str = include_str!("../guest/exerciser.c");

/// A shell in a container, which is told one line after the other.
struct Shell {
    running: Running,
    asked: u32,
    _bundle: Bundle,
}

impl Shell {
    /// With a share at `/none`, `/auto` and `/always` each.
    fn start(lab: &Lab, config: &str, annotation: &str, shares: &Path) -> Self {
        let script = r#"n=0; while read -r line; do
            n=$((n + 1)); echo "=$n: "$(eval "$line" 2>&1)
        done"#;
        let exerciser = lab.compile("exerciser", EXERCISER);
        let mut bundle = lab
            .bundle(Root::Writable("busybox"))
            .install(&exerciser, "bin/exerciser")
            .script(script)
            .edit(engine_capabilities)
            .edit(|config| {
                config["annotations"] = json!({ "dev.ringfence.file_cache": annotation });
                config["linux"]["readonlyPaths"] = json!([]);
            });
        for policy in ["none", "auto", "always"] {
            std::fs::create_dir(bundle.root().join(policy)).unwrap();
            bundle = bundle.bind(&shares.join(policy), &format!("/{policy}"), &["rw"]);
        }
        let file = lab.scratch().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let run = Invocation::new("ringfence").arg("--config").arg(file);
        let run = run.args(&["run", "--bundle"]).arg(bundle.write()).arg(lab.new_id());
        Self { running: run.stdin_held().start(), asked: 0, _bundle: bundle }
    }

    /// Its output, the words of which are joined by spaces.
    fn ask(&mut self, line: &str, words: &str) {
        self.asked += 1;
        self.running.write(format!("{line}\n").as_bytes());
        self.running.wait_for_stdout(&format!("={}: {words}\n", self.asked));
    }

    /// Looks at what each policy keeps or does not. A listing is none of it: reading a directory
    /// changes its access time, and with that the guest asks for its other times, too.
    fn look(&mut self, policy: &str, words: &str) {
        let looks = "readlink link; cat file; stat -c %s file; ls gone comes | cat";
        self.ask(&format!("cd /{policy}; {looks}"), words);
    }

    fn end(mut self) {
        self.running.close_stdin();
        self.running.finish().expect_code(0);
    }
}

/// What [`Shell::look`] shows of [`fill`], and of [`change`].
const OLD: &str = "old old 4 ls: comes: No such file or directory gone";
const NEW: &str = "new newer 6 ls: gone: No such file or directory comes";

fn fill(share: &Path) {
    std::fs::create_dir_all(share.join("directory")).unwrap();
    symlink("old", share.join("link")).unwrap();
    for (name, content) in [("file", "old\n"), ("directory/one", ""), ("gone", "")] {
        std::fs::write(share.join(name), content).unwrap();
    }
}

fn change(share: &Path) {
    swap(share, "new");
    for (name, content) in [("file", "newer\n"), ("directory/two", ""), ("comes", "")] {
        std::fs::write(share.join(name), content).unwrap();
    }
    std::fs::remove_file(share.join("gone")).unwrap();
}

/// Exchanges the link in one step, as a deployment does.
fn swap(share: &Path, target: &str) {
    symlink(target, share.join("fresh")).unwrap();
    std::fs::rename(share.join("fresh"), share.join("link")).unwrap();
}

#[test]
fn a_change_on_the_host_is_seen_as_the_policy_says() {
    let lab = Lab::enter();
    let shares = lab.directory("shares");
    for policy in ["none", "auto", "always"] {
        fill(&shares.join(policy));
    }
    // The root and one share have the configuration's policy.
    let annotation = "/auto=auto,/always=always";
    let mut shell = Shell::start(&lab, "file_cache = \"none\"\n", annotation, &shares);
    for policy in ["none", "auto", "always"] {
        shell.look(policy, OLD);
    }
    for policy in ["none", "auto"] {
        shell.ask(&format!("ls /{policy}/directory"), "one");
    }
    for policy in ["none", "auto", "always"] {
        change(&shares.join(policy));
    }
    shell.look("none", NEW);
    shell.ask("ls /none/directory", "one two");
    for target in 0..6 {
        let target = target.to_string();
        swap(&shares.join("none"), &target);
        shell.ask("readlink /none/link", &target);
    }
    // The second in which `auto` must have seen it; `always` has not after it, either.
    std::thread::sleep(Duration::from_secs(1));
    shell.look("auto", NEW);
    shell.ask("ls /auto/directory", "one two");
    shell.look("always", OLD);
    // What the guest itself does is seen at once, and what it keeps it can forget.
    shell.ask(
        "echo own >/always/file; cat /always/file; rm /always/link; ls /always/link | cat",
        "own ls: /always/link: No such file or directory",
    );
    shell.ask(
        "sync; echo 3 >/proc/sys/vm/drop_caches; ls /always/directory /always/comes",
        "/always/comes /always/directory: one two",
    );
    shell.end();
}

#[test]
fn files_of_which_nothing_is_kept_can_be_mapped_and_executed() {
    let lab = Lab::enter();
    let shares = lab.directory("shares");
    for policy in ["none", "auto", "always"] {
        fill(&shares.join(policy));
    }
    // The root too: the shell and the exerciser are executed from it.
    let mut shell = Shell::start(&lab, "", "none", &shares);
    let exerciser = "/bin/exerciser 200 /none/one /auto/one /always/one >/none/log";
    shell.ask(&format!("{exerciser}; echo $?"), "0");
    shell.ask("cp /bin/exerciser /none/copy; cmp /bin/exerciser /none/copy; echo $?", "0");
    shell.end();
    let log = std::fs::read_to_string(shares.join("none/log")).unwrap();
    for (line, policy) in log.lines().zip(["none", "auto", "always"]) {
        let length = std::fs::metadata(shares.join(policy).join("one")).unwrap().len();
        assert!(line.contains(&format!(": {length} bytes,")), "{policy}: {length}, not {line}");
    }
}
