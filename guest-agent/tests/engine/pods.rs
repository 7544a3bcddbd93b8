//! Containers that share namespaces and files in memory, as the members of a pod do.

use crate::guest::{Guest, SOON, kind, process, start};
use agent_protocol::{
    ContainerPlan, ErrorKind, ExitStatus, MountPlan, MountSource, SharedNamespaces,
};

/// Keeps its namespaces, as a pod's first container does.
async fn keeper(guest: &mut Guest, script: &str) -> String {
    let mut plan = guest.plan("keeper", script);
    plan.hostname = Some("pod".into());
    plan.mounts.push(memory("/shared"));
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    id
}

fn member(guest: &Guest, keeper: &str, script: &str) -> ContainerPlan {
    let mut plan = guest.plan("member", script);
    plan.hostname = None;
    plan.namespaces.uts = false;
    plan.namespaces.ipc = false;
    plan.namespaces.network = false;
    plan.mounts.push(memory("/shared"));
    plan.shared = Some(SharedNamespaces {
        container: keeper.to_owned(),
        pid: false,
        uts: true,
        ipc: true,
        network: true,
    });
    plan
}

fn memory(destination: &str) -> MountPlan {
    MountPlan {
        destination: destination.into(),
        source: MountSource::Memory { name: "m".into(), data: "mode=1777,size=1m".into() },
        flags: 0,
        propagation: vec![],
        recursive: None,
    }
}

#[tokio::test]
async fn a_member_sees_what_the_pod_shares() {
    let Some(mut guest) = start().await else { return };
    let keeper = keeper(&mut guest, "echo kept >/shared/file; sleep 1000").await;
    let script = "while ! test -s /shared/file; do sleep 0.05; done; hostname; cat /shared/file; \
        for ns in uts ipc net pid; do readlink /proc/self/ns/$ns; done; \
        df -k /shared | tail -n 1 | xargs | cut -d ' ' -f 2; echo $$";
    let output = guest.output(member(&guest, &keeper, script)).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "pod", "{output}");
    assert_eq!((lines[1], lines[6], lines[7]), ("kept", "1024", "1"), "{output}");

    // Another process of the keeper is in the same namespaces, but for that of pids.
    let mut other = process("for ns in uts ipc net; do readlink /proc/self/ns/$ns; done");
    let listeners = guest.streams(&mut other.stdio);
    guest.client.start_process(&keeper, "other", other, SOON).await.unwrap();
    let (seen, _) = listeners.accept().await.exchange(b"").await;
    assert_eq!(seen.lines().collect::<Vec<_>>(), lines[2..5]);
    guest.stop().await;
}

#[tokio::test]
async fn a_member_with_the_pods_pids_ends_alone_and_as_a_whole() {
    let Some(mut guest) = start().await else { return };
    let keeper = keeper(&mut guest, "sleep 1000").await;
    // As soon as both run: the keeper's and its own.
    let script = "sleep 1001 & i=0; \
        while [ $(ps -o args | grep -c '^sleep 100') != 2 ] && [ $i -lt 200 ]; do \
            i=$((i+1)); usleep 20000; done; ps -o args | grep -c '^sleep 100'";
    let mut plan = member(&guest, &keeper, script);
    plan.namespaces.pid = false;
    if let Some(shared) = &mut plan.shared {
        shared.pid = true;
    }
    assert_eq!(guest.output(plan).await, "2\n");
    let mut other =
        process("ps -o args | grep -c '^sleep 1001'; ps -o args | grep -c '^sleep 1000'");
    let listeners = guest.streams(&mut other.stdio);
    guest.client.start_process(&keeper, "other", other, SOON).await.unwrap();
    let (seen, _) = listeners.accept().await.exchange(b"").await;
    assert_eq!(seen, "0\n1\n");
    guest.stop().await;
}

#[tokio::test]
async fn what_cannot_be_shared_is_refused() {
    let Some(mut guest) = start().await else { return };
    let plan = member(&guest, "nobody", "true");
    let missing = guest.client.create_container(plan, SOON).await;
    assert_eq!(kind(missing), ErrorKind::NotFound);

    let keeper = keeper(&mut guest, "exit 3").await;
    assert_eq!(guest.exit(&keeper, "").await, ExitStatus::Exited(3));
    let plan = member(&guest, &keeper, "true");
    let ended = guest.client.create_container(plan.clone(), SOON).await;
    assert_eq!(kind(ended), ErrorKind::WrongState);

    let mut both = plan;
    both.namespaces.uts = true;
    let both = guest.client.create_container(both, SOON).await;
    assert_eq!(kind(both), ErrorKind::InvalidArgument);
    guest.stop().await;
}
