//! A terminal whose master goes to the caller over a socket, as conmon and containerd take it.

use crate::detached::Said;
use crate::fake_vmm::Part;
use crate::harness::{Stage, wait_until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

/// The one descriptor that comes over a connection.
pub(crate) fn receive(connection: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    recvmsg(connection, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .unwrap();
    let mut fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(fds.len(), 1);
    fds.remove(0)
}

/// A terminal's master, with all that came from it.
pub(crate) struct Master {
    file: File,
    read: Arc<Mutex<String>>,
}

impl Master {
    pub(crate) fn new(master: OwnedFd) -> Self {
        let file = File::from(master);
        let mut reader = file.try_clone().unwrap();
        let read = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&read);
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shared.lock().unwrap().push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        });
        Self { file, read }
    }

    pub(crate) fn wait_for(&self, wanted: &str) {
        wait_until(|| self.read.lock().unwrap().contains(wanted));
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.file.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.file, size).unwrap();
    }
}

fn create(stage: &Stage) -> (Said, OwnedFd) {
    stage.edit(|config| {
        config["process"]["terminal"] = true.into();
        config["process"]["consoleSize"] = serde_json::json!({ "height": 24, "width": 80 });
    });
    let path = stage.path("console");
    let listener = UnixListener::bind(&path).unwrap();
    let taker = std::thread::spawn(move || receive(&listener.accept().unwrap().0));
    let said = stage.leave(&["create"], &["--console-socket", path.to_str().unwrap()]);
    (said, taker.join().unwrap())
}

#[test]
fn a_terminal_is_carried_to_whoever_took_its_master() {
    let stage = Stage::new(Part::Live);
    let (said, master) = create(&stage);
    said.expect(0, "");
    let size = rustix::termios::tcgetwinsize(&master).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (24, 80));
    let mut master = Master::new(master);
    // A size that comes before the program.
    master.resize(50, 132);
    stage.say(&["start", "c1"]).expect(0, "");
    master.wait_for("size 50 132\nout\n");
    master.write("\x03hello\r");
    master.wait_for("read \x03hello\r");
    master.resize(25, 81);
    master.wait_for("size 25 81\n");
    stage.say(&["kill", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 143);
    assert_eq!(stage.text("out"), "");
    stage.say(&["delete", "c1"]).expect(0, "");
    stage.expect_nothing_left();
}

#[test]
fn a_terminal_that_is_given_up_is_hung_up_in_the_guest() {
    let stage = Stage::new(Part::Live);
    let (said, master) = create(&stage);
    said.expect(0, "");
    stage.say(&["start", "c1"]).expect(0, "");
    drop(master);
    stage.wait_for_text("hang-up", "hung up");
    stage.expect_status("running");
    stage.say(&["kill", "c1"]).expect(0, "");
    assert_eq!(stage.wait(), 143, "that nobody reads it is no loss");
}

#[test]
fn a_terminal_needs_somebody_who_takes_it() {
    let stage = Stage::new(Part::Live);
    stage.leave(&["create"], &["--console-socket", "/s"]).expect(125, "needs process.terminal");
    stage.leave(&["run"], &["--console-socket", "/s"]).expect(125, "add --detach");
    stage.edit(|config| config["process"]["terminal"] = true.into());
    stage.leave(&["create"], &[]).expect(125, "name a --console-socket");
    let missing = stage.path("missing");
    let options = ["--console-socket", missing.to_str().unwrap()];
    stage.leave(&["create"], &options).expect(125, missing.to_str().unwrap());
    assert!(stage.left().is_empty());
}
