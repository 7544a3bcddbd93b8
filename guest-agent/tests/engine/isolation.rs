//! What a process finds: credentials, file systems, limits.

use crate::guest::{SOON, kind, mount, start};
use agent_protocol::{
    Capabilities, DevicePlan, ErrorKind, ExitStatus, FileWrite, MountPlan, MountSource, Rlimit,
    SeccompPlan,
};

#[tokio::test]
async fn a_process_has_the_credentials_of_its_plan() {
    let Some(mut guest) = start().await else { return };
    let script = "id -u; id -g; id -G; umask; pwd; echo $HOME; ulimit -n; cat /proc/self/oom_score_adj; \
        grep -E '^(Cap|NoNewPrivs|SigBlk)' /proc/self/status; hostname";
    let mut plan = guest.plan("a", script);
    plan.init.args = ["sh", "-c", script].map(str::to_owned).to_vec();
    plan.init.user.uid = 1000;
    plan.init.user.gid = 20;
    plan.init.user.additional_gids = vec![30, 40];
    plan.init.user.umask = Some(0o027);
    plan.init.cwd = "/made/for/it".into();
    plan.init.rlimits = vec![Rlimit { resource: 7, soft: 100, hard: 200 }];
    plan.init.oom_score_adj = Some(123);
    plan.init.capabilities = Capabilities {
        bounding: 0x400_00ff,
        permitted: 0xff,
        effective: 0xff,
        inheritable: 0x3,
        ambient: 0x1,
    };
    let output = guest.output(plan).await;
    let expected = "1000\n20\n20 30 40\n0027\n/made/for/it\n/h\n100\n123\n\
        SigBlk:\t0000000000000000\nCapInh:\t0000000000000003\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\n\
        CapBnd:\t00000000040000ff\nCapAmb:\t0000000000000001\nNoNewPrivs:\t1\ninside\n";
    assert_eq!(output, expected);
    guest.stop().await;
}

#[tokio::test]
async fn root_gets_no_more_than_its_bounding_set() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status");
    plan.init.no_new_privileges = false;
    let output = guest.output(plan).await;
    let set = "00000000a80425fb";
    assert_eq!(output.matches(set).count(), 3, "{output}");
    guest.stop().await;
}

#[tokio::test]
async fn the_root_is_all_that_there_is() {
    let Some(mut guest) = start().await else { return };
    let script = "ls /; ls -d /proc/[0-9]* | wc -l; cut -d' ' -f5 /proc/self/mountinfo; \
        cat /sys/class/net/lo/operstate; ls -la /dev | awk '{ print $1, $NF }' | sort; \
        test -c /dev/null && echo x > /dev/null && echo null";
    let plan = guest.plan("a", script);
    let output = guest.output(plan).await;
    for mountpoint in ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys", "/sys/fs/cgroup"] {
        let count = output.lines().filter(|line| *line == mountpoint).count();
        assert_eq!(count, 1, "{mountpoint} in {output}");
    }
    assert!(!output.contains("ringfence") && !output.contains("host\n"), "{output}");
    for line in
        ["crw-rw-rw- null", "crw-rw-rw- tty", "lrwxrwxrwx /proc/self/fd", "lrwxrwxrwx pts/ptmx"]
    {
        assert!(output.contains(line), "{line} in {output}");
    }
    assert!(output.contains("unknown\n") && output.ends_with("null\n"), "{output}");
    guest.stop().await;
}

#[tokio::test]
async fn links_in_an_image_lead_nowhere_else() {
    let Some(mut guest) = start().await else { return };
    let root = guest.share("root");
    let outside = guest.directory.path().join("outside");
    std::os::unix::fs::symlink("../../../../../../..", root.join("up")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
    std::fs::create_dir(guest.share("data")).unwrap();
    std::fs::write(guest.share("data").join("file"), "data\n").unwrap();
    std::fs::write(guest.share("one"), "one\n").unwrap();
    let mut plan =
        guest.plan("a", "cat /out/d/file /up/x/file /deep/er/one; cat /deep/er/one > /out/d/w");
    let share = |destination: &str, name: &str, directory: bool| MountPlan {
        destination: destination.into(),
        source: MountSource::Share { name: name.into(), directory, recursive: true },
        flags: 0,
        propagation: vec![],
        recursive: None,
    };
    plan.mounts.push(share("/out/d", "data", true));
    plan.mounts.push(share("/up/../up/x", "data", true));
    plan.mounts.push(share("/deep/er/one", "one", false));
    plan.masked_paths = vec!["/out/none".into()];
    assert_eq!(guest.output(plan).await, "data\ndata\none\n");
    assert!(!outside.exists());
    assert_eq!(std::fs::read_to_string(guest.share("data").join("w")).unwrap(), "one\n");
    guest.stop().await;
}

#[tokio::test]
async fn read_only_and_masked_paths_hold() {
    let Some(mut guest) = start().await else { return };
    std::fs::create_dir(guest.share("data")).unwrap();
    let script = "for f in /x /data/x /proc/sys/kernel/domainname /dev/x /ro/x; do \
        (echo x > $f) 2>/dev/null && echo wrote $f; done; echo x > /tmp/x && echo wrote /tmp/x; \
        cat /proc/version; ls /proc/fs | wc -l; (echo x > /proc/fs/x) 2>/dev/null && echo wrote; \
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start; true";
    let mut plan = guest.plan("a", script);
    plan.root.read_only = true;
    plan.init.args[2] = script.into();
    plan.readonly_paths = vec!["/proc/sys".into(), "/proc/none".into()];
    plan.masked_paths = vec!["/proc/version".into(), "/proc/fs".into(), "/none/at/all".into()];
    plan.sysctl =
        vec![FileWrite { path: "net/ipv4/ip_unprivileged_port_start".into(), value: "77".into() }];
    plan.mounts.push(MountPlan {
        destination: "/data".into(),
        source: MountSource::Share { name: "data".into(), directory: true, recursive: false },
        flags: 1 | 4096,
        propagation: vec![1 << 18],
        recursive: None,
    });
    plan.mounts.push(mount("/tmp", "tmpfs", 0, ""));
    plan.mounts.push(mount("/ro", "tmpfs", 1, "mode=755"));
    // /dev becomes read-only after the agent has filled it.
    plan.mounts[1].flags |= 1;
    assert_eq!(guest.output(plan).await, "wrote /tmp/x\n0\n77\n");
    guest.stop().await;
}

#[tokio::test]
async fn a_tmpfs_takes_what_it_covers() {
    let Some(mut guest) = start().await else { return };
    let root = guest.share("root");
    std::fs::create_dir_all(root.join("var/lib")).unwrap();
    std::fs::write(root.join("var/lib/file"), "kept\n").unwrap();
    std::process::Command::new("chmod").arg("1710").arg(root.join("var")).status().unwrap();
    let mut plan = guest.plan("a", "cat /var/lib/file; echo new > /var/lib/file; stat -c %a /var");
    let mut over = mount("/var", "tmpfs", 0, "");
    if let MountSource::FileSystem { copy_up, .. } = &mut over.source {
        *copy_up = true;
    }
    plan.mounts.push(over);
    assert_eq!(guest.output(plan).await, "kept\n1710\n");
    assert_eq!(std::fs::read_to_string(root.join("var/lib/file")).unwrap(), "kept\n");
    guest.stop().await;
}

#[tokio::test]
async fn devices_of_the_plan_are_made() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "stat -c '%F %t %T %a %u %g' /dev/mine /dev/pipe /dev/null");
    plan.devices.push(DevicePlan {
        path: "/dev/mine".into(),
        mode: 0o020_640,
        major: 1,
        minor: 5,
        uid: 3,
        gid: 4,
    });
    plan.devices.push(DevicePlan {
        path: "/dev/pipe".into(),
        mode: 0o010_600,
        major: 0,
        minor: 0,
        uid: 0,
        gid: 0,
    });
    let output = guest.output(plan).await;
    assert_eq!(
        output,
        "character special file 1 5 640 3 4\nfifo 0 0 600 0 0\ncharacter special file 1 3 666 0 0\n"
    );
    guest.stop().await;
}

pub(crate) const SYS_MKDIR: u32 = 83;

/// `struct sock_filter`: load the number of the system call, compare, return.
pub(crate) fn forbid(number: u32) -> Vec<u8> {
    let instruction = |code: u16, yes: u8, no: u8, value: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([yes, no]);
        bytes.extend(value.to_ne_bytes());
        bytes
    };
    [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, number),
        instruction(0x06, 0, 0, 0x0005_0001),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
    .concat()
}

#[tokio::test]
async fn the_filter_holds_with_and_without_new_privileges() {
    let Some(mut guest) = start().await else { return };
    for no_new_privileges in [true, false] {
        let script = "grep ^Seccomp: /proc/self/status; mkdir /tmp/d 2>/dev/null || echo no";
        let mut plan = guest.plan("a", script);
        plan.init.user.uid = 1000;
        plan.init.capabilities = Capabilities::default();
        plan.init.no_new_privileges = no_new_privileges;
        plan.seccomp = Some(SeccompPlan { program: forbid(SYS_MKDIR), flags: 0 });
        std::process::Command::new("chmod")
            .arg("777")
            .arg(guest.share("root").join("tmp"))
            .status()
            .unwrap();
        assert_eq!(guest.output(plan).await, "Seccomp:\t2\nno\n");
    }
    guest.stop().await;
}

#[tokio::test]
async fn device_access_is_limited_by_the_program() {
    let Some(mut guest) = start().await else { return };
    // `r0 = 0; exit`: no device at all.
    let program = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]].concat();
    let mut plan =
        guest.plan("a", "(exec < /dev/zero) || echo no; test -c /dev/zero && echo there");
    plan.cgroup.device_program = Some(program);
    let (output, errors, _) = guest.run(plan).await;
    assert_eq!(output, "no\nthere\n");
    assert!(errors.contains("not permitted"), "{errors}");
    guest.stop().await;
}

#[tokio::test]
async fn a_missing_working_directory_is_made_and_a_closed_one_refused() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "pwd");
    plan.init.cwd = "/a/b/../c".into();
    let (output, _, status) = guest.run(plan).await;
    assert_eq!((output.as_str(), status), ("/a/c\n", ExitStatus::Exited(0)));
    let mut plan = guest.plan("a", "pwd");
    plan.init.cwd = "/bin/sh".into();
    assert_eq!(kind(guest.client.create_container(plan, SOON).await), ErrorKind::Failed);
    guest.stop().await;
}
