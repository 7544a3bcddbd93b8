//! Standard streams: what is written arrives, ends travel, readers that stop stop nobody else.

use crate::guest::{SOON, kind, process, start};
use agent_protocol::{ErrorKind, ExitStatus};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn streams_and_status_arrive() {
    let Some(mut guest) = start().await else { return };
    let script = "cat; echo out; echo err >&2; exit 3";
    let plan = guest.plan("a", script);
    let (output, errors, status) = guest.run_with(plan, b"in\n").await;
    assert_eq!((output.as_str(), errors.as_str()), ("in\nout\n", "err\n"));
    assert_eq!(status, ExitStatus::Exited(3));
    guest.stop().await;
}

#[tokio::test]
async fn a_lot_of_data_arrives_unchanged() {
    let Some(mut guest) = start().await else { return };
    let input: Vec<u8> = (0..8_000_000_u32).map(|n| b'a' + (n / 7 % 26) as u8).collect();
    let plan = guest.plan("a", "cat");
    let (output, _, status) = guest.run_with(plan, &input).await;
    assert_eq!(status, ExitStatus::Exited(0));
    assert!(output.as_bytes() == input, "{} bytes of {}", output.len(), input.len());
    guest.stop().await;
}

#[tokio::test]
async fn no_stream_is_dev_null() {
    let Some(mut guest) = start().await else { return };
    let (port, stdout) = guest.stream();
    let mut plan =
        guest.plan("a", "cat; readlink /proc/self/fd/0; echo gone >&2; ls /proc/self/fd");
    plan.init.stdio.stdout = Some(port);
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let (mut stdout, _) = stdout.accept().await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    let mut output = String::new();
    stdout.read_to_string(&mut output).await.unwrap();
    // The fourth is the directory that `ls` reads.
    assert_eq!(output, "/dev/null\n0\n1\n2\n3\n");
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Exited(0));
    guest.stop().await;
}

#[tokio::test]
async fn an_unprivileged_user_can_open_its_streams_again() {
    let Some(mut guest) = start().await else { return };
    let mut plan =
        guest.plan("a", "echo one > /dev/stdout; echo two > /dev/stderr; cat /dev/stdin");
    plan.init.user.uid = 1000;
    plan.init.user.gid = 1000;
    let (output, errors, status) = guest.run_with(plan, b"three\n").await;
    assert_eq!((output.as_str(), errors.as_str()), ("one\nthree\n", "two\n"));
    assert_eq!(status, ExitStatus::Exited(0));
    guest.stop().await;
}

#[tokio::test]
async fn a_writer_gets_sigpipe_when_the_host_has_closed() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "(yes; echo yes: $? >&2); sleep 0.1; exit 5");
    let listeners = guest.streams(&mut plan.init.stdio);
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let mut streams = listeners.accept().await;
    guest.client.start_container(&id, SOON).await.unwrap();
    let mut some = [0; 4096];
    streams.stdout.read_exact(&mut some).await.unwrap();
    drop(streams.stdout);
    let mut errors = String::new();
    timeout(SOON, streams.stderr.read_to_string(&mut errors)).await.unwrap().unwrap();
    assert_eq!(errors, "yes: 141\n");
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Exited(5));
    guest.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_closed_while_idle_is_noticed() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "read go < /tmp/go; echo late; echo status $? >&2; exit 0");
    let listeners = guest.streams(&mut plan.init.stdio);
    let root = guest.share("root");
    std::process::Command::new("mkfifo").arg(root.join("tmp/go")).status().unwrap();
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let mut streams = listeners.accept().await;
    guest.client.start_container(&id, SOON).await.unwrap();
    drop(streams.stdout);
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::write(root.join("tmp/go"), "go\n").unwrap();
    let mut errors = String::new();
    timeout(SOON, streams.stderr.read_to_string(&mut errors)).await.unwrap().unwrap();
    // The shell's own write fails: it is killed by SIGPIPE, or as the first process of its pid
    // namespace gets the error.
    assert_ne!(errors, "status 0\n");
    guest.exit(&id, "").await;
    guest.stop().await;
}

#[tokio::test]
async fn closed_input_of_a_program_is_seen_by_the_host() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "exec <&-; echo closed; sleep 60");
    let listeners = guest.streams(&mut plan.init.stdio);
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let mut streams = listeners.accept().await;
    guest.client.start_container(&id, SOON).await.unwrap();
    let mut line = [0; 7];
    streams.stdout.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"closed\n");
    let mut byte = [0];
    assert_eq!(timeout(SOON, streams.stdin.read(&mut byte)).await.unwrap().unwrap(), 0);
    assert!(streams.stdin.write_all(b"x").await.is_err());
    guest.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_blocks_only_itself() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "yes & while read line; do echo \"$line\" >&2; done; exit 4");
    let listeners = guest.streams(&mut plan.init.stdio);
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    let mut streams = listeners.accept().await;
    guest.client.start_container(&id, SOON).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Nobody reads stdout. Everything else goes on.
    streams.stdin.write_all(b"still here\n").await.unwrap();
    let mut line = [0; 11];
    timeout(SOON, streams.stderr.read_exact(&mut line)).await.unwrap().unwrap();
    assert_eq!(&line, b"still here\n");
    guest.client.sync(SOON).await.unwrap();
    drop(streams.stdin);
    // The exit is held back for a while, and then comes although output is left.
    assert_eq!(guest.exit(&id, "").await, ExitStatus::Exited(4));
    let mut output = Vec::new();
    timeout(SOON, streams.stdout.read_to_end(&mut output)).await.unwrap().unwrap();
    assert!(output.len() >= 65536, "{} bytes", output.len());
    assert!(output.starts_with(b"y\ny\n"));
    guest.client.delete_container(&id, SOON).await.unwrap();
    guest.stop().await;
}

#[tokio::test]
async fn a_background_child_does_not_hold_the_exit() {
    let Some(mut guest) = start().await else { return };
    let plan = guest.plan("a", "sleep 1000");
    let id = plan.id.clone();
    guest.client.create_container(plan, SOON).await.unwrap();
    guest.client.start_container(&id, SOON).await.unwrap();
    let mut further = process("(sleep 2; echo late) & echo early");
    let listeners = guest.streams(&mut further.stdio);
    let started = guest.client.start_process(&id, "p", further, SOON);
    let (started, mut streams) = tokio::join!(started, listeners.accept());
    started.unwrap();
    assert_eq!(
        timeout(Duration::from_millis(1500), guest.exit(&id, "p")).await.unwrap(),
        ExitStatus::Exited(0)
    );
    let mut output = String::new();
    timeout(SOON, streams.stdout.read_to_string(&mut output)).await.unwrap().unwrap();
    assert_eq!(output, "early\nlate\n");
    guest.stop().await;
}

#[tokio::test]
async fn a_port_where_nobody_listens_fails_the_request() {
    let Some(mut guest) = start().await else { return };
    let mut plan = guest.plan("a", "true");
    plan.init.stdio.stdout = Some(77);
    assert_eq!(kind(guest.client.create_container(plan, SOON).await), ErrorKind::Failed);
    let plan = guest.plan("a", "echo again");
    assert_eq!(guest.output(plan).await, "again\n");
    guest.stop().await;
}
