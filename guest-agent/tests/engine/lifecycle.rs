//! Creating, starting, joining, signalling, deleting.

use crate::guest::{SOON, kind, process, start};
use agent_protocol::{ErrorKind, ExitStatus};
use std::os::unix::fs::PermissionsExt;
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn a_program_that_cannot_run_is_told_apart() {
    let Some(mut guest) = start().await else { return };
    let root = guest.share("root");
    std::fs::write(root.join("bin/plain"), "x").unwrap();
    std::fs::write(root.join("bin/noise"), b"\x7fELFnoise").unwrap();
    std::fs::write(root.join("bin/lost"), "#!/none\n").unwrap();
    for name in ["noise", "lost"] {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.join("bin").join(name), mode).unwrap();
    }
    for (program, expected) in [
        ("none", ErrorKind::ProgramMissing),
        ("/bin/none", ErrorKind::ProgramMissing),
        ("plain", ErrorKind::ProgramNotExecutable),
        ("/bin", ErrorKind::ProgramNotExecutable),
    ] {
        let mut plan = guest.plan("a", "");
        plan.init.args = vec![program.into()];
        assert_eq!(kind(guest.client.create_container(plan, SOON).await), expected, "{program}");
    }
    // These look like programs until the kernel reads them.
    for (program, expected) in
        [("noise", ErrorKind::ProgramNotExecutable), ("lost", ErrorKind::ProgramMissing)]
    {
        let mut plan = guest.plan("a", "");
        plan.init.args = vec![program.into()];
        let id = plan.id.clone();
        guest.client.create_container(plan, SOON).await.unwrap();
        assert_eq!(kind(guest.client.start_container(&id, SOON).await), expected, "{program}");
        assert_eq!(kind(guest.client.start_container(&id, SOON).await), ErrorKind::WrongState);
        guest.client.delete_container(&id, SOON).await.unwrap();
    }
    assert!(guest.no_event());
    let plan = guest.plan("a", "echo fine");
    assert_eq!(guest.output(plan).await, "fine\n");
    guest.stop().await;
}

#[tokio::test]
async fn a_further_process_joins_the_container() {
    let Some(mut guest) = start().await else { return };
    let plan = guest.plan("a", "touch /tmp/mark; exec sleep 1000");
    let id = plan.id.clone();
    assert_eq!(
        kind(guest.client.start_process(&id, "p", process("true"), SOON).await),
        ErrorKind::NotFound
    );
    guest.client.create_container(plan, SOON).await.unwrap();
    // As soon as the container stands.
    guest.client.start_process(&id, "early", process("exit 4"), SOON).await.unwrap();
    assert_eq!(guest.exit(&id, "early").await, ExitStatus::Exited(4));
    guest.client.start_container(&id, SOON).await.unwrap();
    // The first process is a shell until it has executed its last command.
    let script = "until [ -e /tmp/mark ] && [ $(cat /proc/1/comm) = sleep ]; do sleep 0.01; done; \
        hostname; ls /tmp; cat /proc/1/comm; for n in mnt pid uts ipc net cgroup; do \
        [ \"$(readlink /proc/1/ns/$n)\" = \"$(readlink /proc/self/ns/$n)\" ] || echo other $n; done; \
        cat /proc/self/cgroup | grep ^0; exit 9";
    let mut further = process(script);
    let listeners = guest.streams(&mut further.stdio);
    let started = guest.client.start_process(&id, "p", further, SOON);
    let (started, streams) = tokio::join!(started, listeners.accept());
    started.unwrap();
    let (output, errors) = streams.exchange(b"").await;
    assert_eq!(output, "inside\nmark\nsleep\n0::/\n", "{errors}");
    assert_eq!(guest.exit(&id, "p").await, ExitStatus::Exited(9));
    assert_eq!(kind(guest.client.signal(&id, "p", 15, SOON).await), ErrorKind::NotFound);
    let mut missing = process("");
    missing.args = vec!["none".into()];
    assert_eq!(
        kind(guest.client.start_process(&id, "p", missing, SOON).await),
        ErrorKind::ProgramMissing
    );
    guest.client.delete_container(&id, SOON).await.unwrap();
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Signaled(9));
    assert!(guest.no_event());
    guest.stop().await;
}

#[tokio::test]
async fn signals_reach_one_or_all() {
    let Some(mut guest) = start().await else { return };
    let script = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let mut plan = guest.plan("a", script);
    let listeners = guest.streams(&mut plan.init.stdio);
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let mut streams = listeners.accept().await;
    guest.client.start_container(&id, SOON).await.unwrap();
    let mut up = [0; 3];
    streams.stdout.read_exact(&mut up).await.unwrap();
    for name in ["p", "q"] {
        guest.client.start_process(&id, name, process("sleep 1000"), SOON).await.unwrap();
    }
    assert_eq!(kind(guest.client.signal(&id, "p", 0, SOON).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(guest.client.signal(&id, "p", 65, SOON).await), ErrorKind::InvalidArgument);
    guest.client.signal(&id, "p", 34, SOON).await.unwrap();
    assert_eq!(guest.exit(&id, "p").await, ExitStatus::Signaled(34));
    guest.client.signal(&id, "", 15, SOON).await.unwrap();
    // Everything else in the pid namespace ends with its first process.
    let mut ended = vec![];
    for _ in 0..2 {
        let event = guest.events.recv().await.unwrap();
        let agent_protocol::Event::ProcessExited { process, status, .. } = event else {
            panic!("{event:?}")
        };
        ended.push((process, status));
    }
    ended.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        ended,
        [(String::new(), ExitStatus::Exited(7)), ("q".to_owned(), ExitStatus::Signaled(9))]
    );
    assert_eq!(kind(guest.client.signal(&id, "", 15, SOON).await), ErrorKind::WrongState);
    guest.client.signal_all(&id, 9, SOON).await.unwrap();
    guest.client.delete_container(&id, SOON).await.unwrap();
    guest.stop().await;
}

#[tokio::test]
async fn a_shared_pid_namespace_ends_with_the_container_all_the_same() {
    let Some(mut guest) = start().await else { return };
    let mut plan =
        guest.plan("a", "sleep 1000 & sleep 1000 & kill -9 1; kill -9 -1; echo $?; exit 2");
    plan.namespaces.pid = false;
    // busybox's kill -1 reaches everything but PID 1 and itself, so here nothing outside may be.
    plan.init.args[2] = "sleep 1000 & echo $$ >&2; exit 2".into();
    let (_, errors, status) = guest.run(plan).await;
    assert_eq!(status, ExitStatus::Exited(2));
    assert_ne!(errors, "1\n");
    guest.stop().await;
}

#[tokio::test]
async fn a_created_container_can_be_killed_and_deleted() {
    let Some(mut guest) = start().await else { return };
    let plan = guest.plan("a", "true");
    let id = plan.id.clone();
    guest.client.create_container(plan.clone(), SOON).await.unwrap();
    assert_eq!(
        kind(guest.client.create_container(plan.clone(), SOON).await),
        ErrorKind::WrongState
    );
    guest.client.signal(&id, "", 9, SOON).await.unwrap();
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Signaled(9));
    assert_eq!(kind(guest.client.start_container(&id, SOON).await), ErrorKind::WrongState);
    guest.client.delete_container(&id, SOON).await.unwrap();
    assert_eq!(kind(guest.client.delete_container(&id, SOON).await), ErrorKind::NotFound);
    guest.client.create_container(plan, SOON).await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Exited(0));
    guest.client.delete_container(&id, SOON).await.unwrap();
    guest.stop().await;
}

#[tokio::test]
async fn a_wrong_plan_costs_one_request() {
    let Some(mut guest) = start().await else { return };
    let good = guest.plan("a", "echo fine");
    let mut bad = good.clone();
    bad.init.cwd = "relative".into();
    assert_eq!(kind(guest.client.create_container(bad, SOON).await), ErrorKind::InvalidArgument);
    let mut bad = good.clone();
    bad.root.source = agent_protocol::RootSource::Share { name: "none".into() };
    assert_eq!(kind(guest.client.create_container(bad, SOON).await), ErrorKind::Failed);
    let mut bad = good.clone();
    bad.mounts.push(crate::guest::mount("/x", "nofs", 0, ""));
    assert_eq!(kind(guest.client.create_container(bad, SOON).await), ErrorKind::Failed);
    assert_eq!(guest.output(good).await, "fine\n");
    assert!(guest.no_event());
    guest.stop().await;
}

#[tokio::test]
async fn two_containers_run_side_by_side() {
    let Some(mut guest) = start().await else { return };
    let (first, second) = (guest.plan("a", "sleep 1000"), guest.plan("b", "exit 1"));
    let (first_id, second_id) = (first.id.clone(), second.id.clone());
    for (plan, id) in [(first, &first_id), (second, &second_id)] {
        guest.client.create_container(plan, SOON).await.unwrap();
        guest.client.start_container(id, SOON).await.unwrap();
    }
    assert_eq!(guest.exit(&second_id, "").await, ExitStatus::Exited(1));
    guest.client.delete_container(&second_id, SOON).await.unwrap();
    guest.client.signal_all(&first_id, 9, SOON).await.unwrap();
    assert_eq!(guest.exit(&first_id, "").await, ExitStatus::Signaled(9));
    guest.client.delete_container(&first_id, SOON).await.unwrap();
    guest.stop().await;
}

#[tokio::test]
async fn processes_are_listed_as_ps_shows_them() {
    let Some(guest) = start().await else { return };
    let plan = guest.plan("a", "sleep 1001 & sleep 1002 & exec sleep 1003");
    let id = plan.id.clone();
    assert_eq!(kind(guest.client.list_processes(&id, 0, SOON).await), ErrorKind::NotFound);
    let first = guest.client.create_container(plan, SOON).await.unwrap().pid;
    let waiting = guest.client.list_processes(&id, 0, SOON).await.unwrap();
    assert_eq!(waiting.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [first]);
    guest.client.start_container(&id, SOON).await.unwrap();
    let mut list = waiting;
    for _ in 0..200 {
        list = guest.client.list_processes(&id, 0, SOON).await.unwrap();
        let sleeps = list.processes.iter().filter(|process| process.command.starts_with("sleep"));
        if sleeps.count() == 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let shown: Vec<&str> = list.processes.iter().map(|process| process.command.as_str()).collect();
    assert_eq!(shown, ["sleep 1003", "sleep 1001", "sleep 1002"]);
    assert!(!list.more);
    for child in &list.processes[1..] {
        assert_eq!((child.parent, child.uid, child.terminal), (first, 0, 0));
        assert!(child.started_ns > 0 && child.started_ns <= list.at_ns);
    }
    // From behind the first.
    let rest = guest.client.list_processes(&id, first, SOON).await.unwrap();
    assert_eq!(rest.processes.len(), 2);
    guest.client.delete_container(&id, SOON).await.unwrap();
    guest.stop().await;
}

#[tokio::test]
async fn statistics_are_read_and_settings_checked() {
    use agent_protocol::FileWrite;
    let Some(guest) = start().await else { return };
    let plan = guest.plan("a", "exec sleep 1000");
    let id = plan.id.clone();
    assert_eq!(kind(guest.client.read_statistics(&id, SOON).await), ErrorKind::NotFound);
    guest.client.create_container(plan, SOON).await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    // Which controllers there are depends on the machine; every kernel counts CPU time.
    let statistics = guest.client.read_statistics(&id, SOON).await.unwrap();
    assert!(statistics.cpu.usage_us > 0, "{statistics:?}");
    let update = |path: &str, value: &str| {
        let settings = vec![FileWrite { path: path.into(), value: value.into() }];
        guest.client.update_resources(&id, settings, SOON)
    };
    assert_eq!(kind(update("cgroup.procs", "1").await), ErrorKind::InvalidArgument);
    assert_eq!(kind(update("no.such", "1").await), ErrorKind::Failed);
    guest.client.update_resources(&id, vec![], SOON).await.unwrap();
    let missing = guest.client.update_resources("none", vec![], SOON).await;
    assert_eq!(kind(missing), ErrorKind::NotFound);
    guest.client.delete_container(&id, SOON).await.unwrap();
    guest.stop().await;
}
