//! The block device against a guest that does anything to its queue. Nothing outside the disk is
//! read or written.
#![no_main]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};

use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::blk::{Blk, BlkSpec};
use devices_fuzz::{Act, perform};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 64 * 512 + 100;

/// A file that is nowhere.
fn disk() -> File {
    unsafe extern "C" {
        fn memfd_create(name: *const std::ffi::c_char, flags: u32) -> i32;
    }
    // SAFETY: the name is a C string; the result is checked.
    let fd = unsafe { memfd_create(c"disk".as_ptr(), 1) };
    assert!(fd >= 0);
    // SAFETY: it was just made and is nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(SIZE).expect("memory is left");
    file
}

fuzz_target!(|input: (bool, Vec<Act>)| {
    let (read_only, acts) = input;
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let file = disk();
    let copy = file.try_clone().expect("descriptors are left");
    let spec = BlkSpec { file, read_only, id: "fuzz".into(), operations: None, bytes: None };
    let blk = Blk::new(spec, event_loop.clone()).expect("the disk is good");
    let mut driver = Driver::new(Box::new(blk));
    driver.start(u64::MAX, 16);
    for act in acts.iter().take(64) {
        perform(&mut driver, act);
        event_loop.turn(4);
    }
    assert_eq!(copy.metadata().expect("it is open").len(), SIZE);
});
