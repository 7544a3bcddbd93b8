//! A container with a terminal: the same to the person who types as with crun.

use integration_tests::terminal::Terminal;
use integration_tests::{Lab, Root, Runtime};
use serde_json::json;

/// Reads lines and shows them, tells about signals and sizes.
const SCRIPT: &str = "echo first $(stty size 2>&1)
for n in 0 1 2; do test -t $n && echo is terminal $n; done
echo term=$TERM; test -c /dev/console && echo console
trap 'echo size $(stty size); resized=1' WINCH
trap 'echo interrupted; interrupted=1' INT
echo ready
read line; echo \"<$line>\"
until test $resized; do sleep 0.1; done
echo waiting
until test $interrupted; do sleep 0.1; done
read line; echo \"<$line>\"
exit 9";

#[test]
fn typing_resizing_and_interrupting_work_as_with_crun() {
    let lab = Lab::enter();
    let mut bundle = lab.bundle(Root::Shared("busybox")).script(SCRIPT).env("TERM=xterm-test");
    bundle.config()["process"]["terminal"] = json!(true);
    let mut screens = vec![];
    for runtime in [Runtime::Ringfence, Runtime::Crun] {
        let mut terminal = Terminal::new(93, 31);
        let before = format!("{:?}", terminal.settings());
        let running = terminal.start(lab.runtime(runtime, &bundle, &[]));
        terminal.wait_for("ready\r\n");
        terminal.write(b"hello\r");
        terminal.wait_for("<hello>\r\n");
        terminal.resize(101, 33);
        terminal.wait_for("size 33 101\r\n");
        terminal.wait_for("waiting\r\n");
        terminal.write(b"\x03");
        terminal.wait_for("interrupted\r\n");
        terminal.write(b"erased\x7f\x7f ok\r");
        running.finish().expect_code(9);
        // A terminal that is left raw is a broken shell for the user.
        assert_eq!(format!("{:?}", terminal.settings()), before);
        // The terminal shows ^C when it likes: before or after what the signal led to.
        screens.push(terminal.shown().replace("^C", ""));
    }
    assert!(screens[0].contains("<eras ok>\r\n"), "{}", screens[0]);
    // crun sets the size after the program has started, so that there the first look may be early.
    assert!(screens[0].starts_with("first 31 93\r\n"), "{}", screens[0]);
    let screens: Vec<&str> =
        screens.iter().map(|screen| screen.split_once('\n').expect("several lines").1).collect();
    assert!(screens[0].contains("is terminal 0\r\nis terminal 1\r\nis terminal 2\r\n"));
    assert_eq!(screens[0], screens[1]);
}

#[test]
fn the_input_can_come_from_elsewhere_as_with_runc() {
    let lab = Lab::enter();
    let script = "test -t 0 && test -t 1 && echo is one; stty size; exit 5";
    let bundle = lab.bundle(Root::Shared("busybox")).script(script).edit(|config| {
        config["process"]["terminal"] = json!(true);
    });
    for runtime in [Runtime::Ringfence, Runtime::Runc] {
        // Also without a stream that is a terminal: there is the controlling one.
        for streams in ["</dev/null", "</dev/null >$out 2>&1"] {
            let out = lab.scratch().join(format!("{runtime:?}"));
            let terminal = Terminal::new(93, 31);
            let elsewhere = format!("exec \"$@\" {streams}");
            let invocation = lab.runtime(runtime, &bundle, &[]).env("out", &out);
            let invocation = invocation.through(&["sh", "-c", &elsewhere, "sh"]);
            terminal.start(invocation).finish().expect_code(5);
            let mut shown = terminal.shown();
            if out.exists() {
                shown = std::fs::read_to_string(&out).unwrap();
            }
            // runc sets the size after the program has started.
            assert!(shown.starts_with("is one"), "{runtime:?} {shown:?}");
            if runtime == Runtime::Ringfence {
                assert!(shown.contains("\n31 93"), "{shown:?}");
            }
        }
    }
}

#[test]
fn the_option_asks_for_a_terminal_and_control_d_ends_the_input() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).script("test -t 0; echo $?; cat; echo end");
    let mut terminal = Terminal::new(80, 24);
    let before = format!("{:?}", terminal.settings());
    let running = terminal.start(lab.runtime(Runtime::Ringfence, &bundle, &["-t"]));
    terminal.wait_for("0\r\n");
    terminal.write(b"line\r");
    terminal.wait_for("line\r\nline\r\n");
    terminal.write(b"\x04");
    terminal.wait_for("end\r\n");
    running.finish().expect_code(0);
    assert_eq!(format!("{:?}", terminal.settings()), before);
}

#[test]
fn the_terminal_is_restored_when_the_start_fails() {
    let lab = Lab::enter();
    let bundle = lab.bundle(Root::Shared("busybox")).args(&["/no/such/program"]);
    let terminal = Terminal::new(80, 24);
    let before = format!("{:?}", terminal.settings());
    let running = terminal.start(lab.runtime(Runtime::Ringfence, &bundle, &["-t"]));
    running.finish().expect_code(127);
    terminal.wait_for("/no/such/program");
    assert_eq!(format!("{:?}", terminal.settings()), before);
}
