//! Terminals.

use crate::guest::{SOON, process, start};
use agent_protocol::{ExitStatus, TerminalPlan, WindowSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Reads until the text is there.
async fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    while !seen.contains(text) {
        let count = timeout(SOON, stream.read(&mut buffer)).await.expect(text).unwrap();
        assert_ne!(count, 0, "the end after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    seen
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let Some(mut guest) = start().await else { return };
    let (port, listener) = guest.stream();
    // A trapped signal ends a shell's `read`, and is no end of its input.
    let script = "trap 'stty size' WINCH; tty; stty size; ls -l /dev/console; echo ready; \
                  while :; do read line || continue; echo \"[$line]\"; [ \"$line\" = end ] && exit 6; done";
    let mut plan = guest.plan("a", script);
    plan.init.user.uid = 1000;
    let size = WindowSize { rows: 33, columns: 77 };
    plan.init.stdio.terminal = Some(TerminalPlan { port, size });
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    let start = read_until(&mut stream, "ready").await;
    assert!(start.contains("/dev/pts/0") && start.contains("33 77"), "{start}");
    assert!(start.contains("crw--w----") && start.contains(" u "), "{start}");
    let size = WindowSize { rows: 10, columns: 20 };
    guest.client.resize_terminal(&id, "", size, SOON).await.unwrap();
    stream.write_all(b"one\n").await.unwrap();
    let after = read_until(&mut stream, "[one]").await;
    assert!(after.contains("10 20"), "{after}");
    stream.write_all(b"end\n").await.unwrap();
    read_until(&mut stream, "[end]").await;
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Exited(6));
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    guest.stop().await;
}

#[tokio::test]
async fn all_output_of_a_terminal_comes_before_the_exit() {
    let Some(mut guest) = start().await else { return };
    let (port, listener) = guest.stream();
    let mut plan = guest.plan("a", "seq 1 20000");
    plan.init.stdio.terminal = Some(TerminalPlan { port, size: WindowSize::default() });
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    let mut output = String::new();
    timeout(SOON, stream.read_to_string(&mut output)).await.unwrap().unwrap();
    assert_eq!(output.lines().count(), 20000);
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Exited(0));
    guest.stop().await;
}

#[tokio::test]
async fn a_host_that_goes_hangs_the_terminal_up() {
    let Some(mut guest) = start().await else { return };
    let plan = guest.plan("a", "sleep 1000");
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    let (port, listener) = guest.stream();
    let mut further = process("echo up; sleep 1000");
    further.stdio.terminal = Some(TerminalPlan { port, size: WindowSize::default() });
    let started = guest.client.start_process(&id, "p", further, SOON);
    let (started, stream) = tokio::join!(started, listener.accept());
    started.unwrap();
    let (mut stream, _) = stream.unwrap();
    read_until(&mut stream, "up").await;
    drop(stream);
    assert_eq!(guest.exit(&id, "p").await, ExitStatus::Signaled(1));
    guest.stop().await;
}
