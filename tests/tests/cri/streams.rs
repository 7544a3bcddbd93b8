//! Streams of pods and containers, whatever the runtime is: ports, commands, attached clients, logs.

use crate::daemon::{Containerd, wait_until};
use crate::messages::{AttachRequest, ExecRequest, PortForwardRequest, StreamingUrl};
use crate::pod::{Container, PATIENCE, Pod};
use crate::streaming::{STDERR, STDIN, STDOUT, Streams};

/// Ends when its terminal has 30 rows and 100 columns.
const UNTIL_SIZED: &str = "until [ \"$(stty size)\" = '30 100' ]; do sleep 0.1; done; echo sized";
/// Says each line that is written to a fifo.
const ECHO: &str = "mkfifo /lines; echo up; while :; do read line < /lines && echo \"$line\"; done";

pub(crate) fn tour(containerd: &Containerd, handler: &str) {
    let pod = Pod::run(containerd, handler, "streams");
    reached(&pod);
    let container = pod.start(ECHO);
    container.wait_for_log("stdout F up");
    executed(&container);
    rotated(&container);
    container.remove();
    attached(&pod);
    pod.remove();
}

/// The ports of a pod's programs.
pub(crate) fn forwarded(containerd: &Containerd, handler: &str) {
    let pod = Pod::run(containerd, handler, "ports");
    reached(&pod);
    pod.remove();
}

/// Programs that listen at a loopback address are reached by their ports, several times and at once.
fn reached(pod: &Pod) {
    let script = "mkdir /www; echo forwarded > /www/file
        httpd -p 127.0.0.1:8080 -h /www && httpd -p '[::1]:8081' -h /www; echo up
        exec sleep 1000000";
    let server = pod.start(script);
    server.wait_for_log("stdout F up");
    let mut asked: Vec<Streams> = [8080, 8081, 8080].map(|port| forward(pod, port)).into();
    for streams in &mut asked {
        streams.say(0, b"GET /file HTTP/1.0\r\n\r\n");
    }
    for streams in &mut asked {
        let answer = streams.rest(0);
        // Before the data comes the port.
        assert!(answer.contains("200 OK") && answer.ends_with("\r\n\r\nforwarded\n"), "{answer:?}");
    }
    // Nobody listens at this one, whose number is two spaces.
    assert_eq!(forward(pod, 0x2020).rest(0), "  ");
    server.remove();
}

fn forward(pod: &Pod, port: u16) -> Streams {
    let request =
        PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![i32::from(port)] };
    let StreamingUrl { url } = Containerd::call("PortForward", &request);
    Streams::open(&format!("{url}?port={port}"))
}

fn executed(container: &Container) {
    let script = "read line; echo \"out $line\"; echo error >&2; exit 7";
    let mut streams = exec(container, script, false);
    streams.say(STDIN, b"typed\n");
    assert_eq!(streams.exit_code(), 7);
    let [out, error] = [STDOUT, STDERR].map(|channel| streams.rest(channel));
    assert_eq!((out.as_str(), error.as_str()), ("out typed\n", "error\n"));

    let mut streams = exec(container, "seq 20000", false);
    assert_eq!(streams.exit_code(), 0);
    assert!(streams.rest(STDOUT).ends_with("\n19999\n20000\n"));

    let script = format!("{UNTIL_SIZED}; read line; echo \"out $line\"; tty; exit 3");
    let mut streams = exec(container, &script, true);
    streams.resize(30, 100);
    streams.wait_for(STDOUT, "sized\r\n");
    streams.say(STDIN, b"typed\r");
    assert_eq!(streams.exit_code(), 3);
    let out = streams.rest(STDOUT);
    assert!(out.contains("out typed\r\n/dev/pts/"), "{out:?}");
}

fn exec(container: &Container, script: &str, tty: bool) -> Streams {
    let request = ExecRequest {
        container_id: container.id.clone(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    let StreamingUrl { url } = Containerd::call("Exec", &request);
    Streams::open(&url)
}

/// A log that is moved away and opened anew has what comes then, and the old one what came before.
fn rotated(container: &Container) {
    container.say("echo before > /lines");
    container.wait_for_log("stdout F before");
    let before = container.rotate_log();
    container.say("echo after > /lines");
    container.wait_for_log("stdout F after");
    assert_eq!(container.log(), "stdout F after\n");
    let before = std::fs::read_to_string(before).expect("it was moved there");
    assert!(before.contains("stdout F before") && !before.contains("after"), "{before}");
}

/// Clients come and go, and the container stays.
fn attached(pod: &Pod) {
    let script = "while read line; do echo \"heard $line\"; echo \"error $line\" >&2; done";
    let container = pod.start_with(script, |config, _| config.stdin = true);
    for word in ["one", "two"] {
        let mut streams = attach(&container, false);
        streams.say(STDIN, format!("{word}\n").as_bytes());
        streams.wait_for(STDOUT, &format!("heard {word}\n"));
        streams.wait_for(STDERR, &format!("error {word}\n"));
    }
    let mut lines: Vec<String> = container.log().lines().map(str::to_owned).collect();
    wait_until("the log has it, too", PATIENCE, || {
        lines = container.log().lines().map(str::to_owned).collect();
        lines.len() == 4
    });
    lines.sort_unstable();
    let expected =
        ["stderr F error one", "stderr F error two", "stdout F heard one", "stdout F heard two"];
    assert_eq!(lines, expected);
    container.stop(0);
    container.remove();

    let script = format!("{UNTIL_SIZED}; read line; echo \"heard $line\"; exit 4");
    let container = pod.start_with(&script, |config, _| {
        config.stdin = true;
        config.tty = true;
    });
    let mut streams = attach(&container, true);
    streams.resize(30, 100);
    streams.wait_for(STDOUT, "sized\r\n");
    streams.say(STDIN, b"typed\r");
    streams.wait_for(STDOUT, "heard typed\r\n");
    assert_eq!(container.exited().exit_code, 4);
    container.remove();
}

fn attach(container: &Container, tty: bool) -> Streams {
    let request = AttachRequest {
        container_id: container.id.clone(),
        stdin: true,
        tty,
        stdout: true,
        stderr: !tty,
    };
    let StreamingUrl { url } = Containerd::call("Attach", &request);
    Streams::open(&url)
}
