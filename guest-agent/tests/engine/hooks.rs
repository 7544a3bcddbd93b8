//! Programs of a container that run before its own.

use crate::guest::{Guest, SOON, kind, start};
use crate::isolation::{SYS_MKDIR, forbid};
use agent_client::ClientError;
use agent_protocol::{ContainerPlan, ErrorKind, ExitStatus, HookPlan, SeccompPlan, StartHooks};

fn hook(script: &str) -> HookPlan {
    HookPlan {
        name: "the hook".into(),
        path: "/bin/sh".into(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["GIVEN=1".into()],
        timeout_s: 60,
    }
}

fn with_hooks(guest: &Guest, script: &str, hooks: Vec<HookPlan>) -> ContainerPlan {
    let mut plan = guest.plan("a", script);
    plan.start_hooks = StartHooks { state: "{\"id\":\"a\",\"pid\":".into(), hooks };
    plan
}

/// Has a container made whose start fails, and the message.
async fn refusal(guest: &mut Guest, hook: HookPlan) -> String {
    let plan = with_hooks(guest, "echo ran", vec![hook]);
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let Err(ClientError::Agent(error)) = guest.client.start_container(&id, SOON).await else {
        panic!("started, or no answer");
    };
    assert_eq!(error.kind, ErrorKind::Failed, "{error:?}");
    guest.client.delete_container(&id, SOON).await.unwrap();
    assert!(guest.no_event());
    error.message
}

#[tokio::test]
async fn hooks_run_as_the_first_process_and_before_its_program() {
    let Some(mut guest) = start().await else { return };
    let root = guest.share("root");
    std::os::unix::fs::chown(root.join("tmp"), Some(1000), Some(1000)).unwrap();
    let look = "id -u; pwd; hostname; echo $GIVEN$HOME; grep -E '^(CapEff|NoNewPrivs)' \
        /proc/self/status; cat";
    let first = hook(&format!("{{ {look}; }} >/tmp/told; echo lost output; echo lost >&2"));
    let second = hook("echo >>/tmp/told; echo second $PPID >>/tmp/told");
    let mut plan = with_hooks(&guest, "cat /tmp/told", vec![first, second]);
    plan.init.user.uid = 1000;
    plan.init.cwd = "/tmp".into();
    assert_eq!(
        guest.output(plan).await,
        "1000\n/tmp\ninside\n1\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n\
         {\"id\":\"a\",\"pid\":1}\nsecond 1\n"
    );
    guest.stop().await;
}

#[tokio::test]
async fn a_hook_that_fails_keeps_the_program_from_running() {
    let Some(mut guest) = start().await else { return };
    let message = refusal(&mut guest, hook("echo; echo no luck >&2; exit 3")).await;
    assert!(message.starts_with("the hook: error running hook \"/bin/sh\""), "{message}");
    assert!(message.contains("exit status 3") && message.contains("no luck"), "{message}");
    let message = refusal(&mut guest, hook("kill -9 $$")).await;
    assert!(message.contains("signal 9, killed"), "{message}");
    let message = refusal(&mut guest, HookPlan { path: "/no/such".into(), ..hook("") }).await;
    assert!(message.contains("the hook: executing \"/no/such\""), "{message}");
    let slow = HookPlan { timeout_s: 1, ..hook("sleep 1000 & wait") };
    let message = refusal(&mut guest, slow).await;
    assert!(message.contains("did not end within 1 s"), "{message}");
    let loud = hook("head -c 100000 /dev/zero | tr '\\0' x; echo the end; false");
    let message = refusal(&mut guest, loud).await;
    assert!(message.ends_with("the end") && message.len() < 4096, "{message}");
    let plan = guest.plan("a", "echo fine");
    assert_eq!(guest.output(plan).await, "fine\n");
    guest.stop().await;
}

#[tokio::test]
async fn a_container_that_is_killed_in_a_hook_was_not_started() {
    let Some(mut guest) = start().await else { return };
    let root = guest.share("root");
    let plan = with_hooks(&guest, "echo ran", vec![hook("touch /tmp/up; sleep 1000")]);
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let kill = async {
        let until = std::time::Instant::now() + SOON;
        while !root.join("tmp/up").exists() {
            assert!(std::time::Instant::now() < until, "the hook does not run");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(kind(guest.client.start_container(&id, SOON).await), ErrorKind::WrongState);
        guest.client.signal(&id, "", 9, SOON).await.unwrap();
    };
    let (started, ()) = tokio::join!(guest.client.start_container(&id, SOON), kill);
    let Err(ClientError::Agent(error)) = started else { panic!("{started:?}") };
    assert!(error.message.contains("hook"), "{error}");
    guest.client.delete_container(&id, SOON).await.unwrap();
    assert!(guest.no_event());
    guest.stop().await;
}

#[tokio::test]
async fn hooks_are_under_the_filter_of_the_program() {
    let Some(mut guest) = start().await else { return };
    for no_new_privileges in [true, false] {
        let hooks = vec![hook("mkdir /tmp/d 2>/dev/null; echo $? >/tmp/hook")];
        let mut plan = with_hooks(&guest, "cat /tmp/hook", hooks);
        plan.init.no_new_privileges = no_new_privileges;
        plan.seccomp = Some(SeccompPlan { program: forbid(SYS_MKDIR), flags: 0 });
        let (output, errors, status) = guest.run(plan).await;
        assert_eq!((output.as_str(), status), ("1\n", ExitStatus::Exited(0)), "{errors}");
    }
    guest.stop().await;
}
