//! A container with a user namespace.

use crate::guest::{Guest, SOON, kind, process, start};
use agent_protocol::{ContainerPlan, ErrorKind, ExitStatus, IdMapping, Rlimit};
use std::os::unix::fs::{MetadataExt, chown};

/// First id outside of root inside.
const FIRST: u32 = 100_000;

fn plan(guest: &Guest, name: &str, script: &str) -> ContainerPlan {
    let mut plan = guest.plan(name, script);
    let mapping = IdMapping { container_id: 0, host_id: FIRST, size: 2000 };
    plan.namespaces.user = true;
    plan.uid_mappings = vec![mapping];
    plan.gid_mappings = vec![mapping];
    chown(guest.share("root"), Some(FIRST), Some(FIRST)).unwrap();
    plan
}

#[tokio::test]
async fn its_root_is_another_user_outside() {
    let Some(mut guest) = start().await else { return };
    let script = "cat /proc/self/uid_map /proc/self/gid_map | xargs; id -u; id -G; \
        ulimit -n; cat /proc/self/oom_score_adj; echo x >/dev/null && echo null; \
        test -d /sys/class/net/lo && echo net; cat /proc/sys/net/ipv4/ip_forward; \
        echo mine >/tmp/mine; hostname; grep ^CapEff /proc/self/status; \
        head -c 4 /dev/zero | wc -c; ls -d /proc/[0-9]* | head -n 1";
    let mut plan = plan(&guest, "a", script);
    chown(guest.share("root").join("tmp"), Some(FIRST), Some(FIRST)).unwrap();
    plan.init.rlimits = vec![Rlimit { resource: 7, soft: 100, hard: 200 }];
    plan.init.oom_score_adj = Some(321);
    plan.sysctl =
        vec![agent_protocol::FileWrite { path: "net/ipv4/ip_forward".into(), value: "1".into() }];
    let output = guest.output(plan).await;
    let expected = format!(
        "0 {FIRST} 2000 0 {FIRST} 2000\n0\n0\n100\n321\nnull\nnet\n1\ninside\n\
         CapEff:\t00000000a80425fb\n4\n/proc/1\n"
    );
    assert_eq!(output, expected);
    let made = std::fs::metadata(guest.share("root").join("tmp/mine")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST, FIRST));
    guest.stop().await;
}

#[tokio::test]
async fn another_process_has_the_same_users() {
    let Some(mut guest) = start().await else { return };
    let init = plan(&guest, "a", "sleep 1000");
    let id = init.id.clone();
    guest.client.create_container(init, SOON).await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    let script = "cat /proc/self/uid_map | xargs; id -u; id -g; ulimit -n; \
        cat /proc/self/oom_score_adj; echo again >/proc/self/fd/1";
    let mut second = process(script);
    second.user.uid = 1000;
    second.user.gid = 50;
    second.rlimits = vec![Rlimit { resource: 7, soft: 77, hard: 77 }];
    second.oom_score_adj = Some(10);
    let listeners = guest.streams(&mut second.stdio);
    guest.client.start_process(&id, "second", second, SOON).await.unwrap();
    let (output, errors) = listeners.accept().await.exchange(b"").await;
    assert_eq!(
        (output.as_str(), errors.as_str()),
        ("0 100000 2000\n1000\n50\n77\n10\nagain\n", "")
    );
    assert_eq!(guest.exit(&id, "second").await, ExitStatus::Exited(0));

    let mut third = process("true");
    third.user.uid = 2000;
    let refused = guest.client.start_process(&id, "third", third, SOON).await;
    assert_eq!(kind(refused), ErrorKind::InvalidArgument);
    guest.client.delete_container(&id, SOON).await.unwrap();
    guest.stop().await;
}

#[tokio::test]
async fn ranges_that_overlap_are_refused_and_leave_nothing() {
    let Some(mut guest) = start().await else { return };
    let mut bad = plan(&guest, "a", "true");
    bad.uid_mappings = vec![
        IdMapping { container_id: 0, host_id: 0, size: 10 },
        IdMapping { container_id: 5, host_id: 100, size: 10 },
    ];
    let error = guest.client.create_container(bad, SOON).await.unwrap_err();
    assert!(error.to_string().contains("0 0 10"), "{error}");
    // The name is free, and its cgroup, too.
    let good = plan(&guest, "a", "echo good");
    assert_eq!(guest.output(good).await, "good\n");
    guest.stop().await;
}
