//! The block device against a guest that does anything to its queue. Nothing outside the disk is
//! read or written, whether the disk stays or comes and goes.
#![no_main]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};

use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::blk::{Blk, BlkSpec, DiskImage, DriveDisk, DriveSpec};
use devices_fuzz::{Act, perform};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 64 * 512 + 100;
/// Where the second image begins: behind a gap of one sector.
const SECOND: u64 = 65 * 512;

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

/// Two of them, one behind the other; each is kept in `copies`, too.
fn images(read_only: (bool, bool), copies: &mut Vec<File>) -> Vec<DiskImage> {
    let mut image = |read_only, start| {
        let file = disk();
        copies.push(file.try_clone().expect("descriptors are left"));
        DiskImage { file, read_only, start }
    };
    vec![image(read_only.0, 0), image(read_only.1, SECOND)]
}

fuzz_target!(|input: ((bool, bool), bool, Vec<Act>)| {
    let (read_only, is_drive, acts) = input;
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let mut copies = Vec::new();
    let (blk, handle) = if is_drive {
        let (blk, handle) = Blk::drive(DriveSpec::default(), event_loop.clone());
        (blk, Some(handle))
    } else {
        let images = images(read_only, &mut copies);
        let spec = BlkSpec { images, id: "fuzz".into(), operations: None, bytes: None };
        (Blk::new(spec, event_loop.clone()).expect("the disk is good"), None)
    };
    let mut driver = Driver::new(Box::new(blk));
    driver.start(u64::MAX, 16);
    for (turn, act) in acts.iter().take(64).enumerate() {
        match (&handle, turn % 8) {
            (Some(handle), 2) => {
                let images = images(read_only, &mut copies);
                let disk = DriveDisk { images, id: "fuzz".into() };
                handle.insert(disk).expect("the drive is empty");
            }
            (Some(handle), 6) => handle.eject(),
            _ => {}
        }
        perform(&mut driver, act);
        event_loop.turn(4);
    }
    for copy in copies {
        assert_eq!(copy.metadata().expect("it is open").len(), SIZE);
    }
});
