use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::*;
use crate::event_loop::EventLoop;
use crate::rate::Rate;
use crate::testing::Driver;
use crate::virtio::spec::feature::VERSION_1;
use crate::virtio::state::DeviceState;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const SECTORS: u64 = 64;

fn image(start: u64, read_only: bool) -> DiskImage {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SECTORS * SECTOR_SIZE + 100).unwrap();
    DiskImage { file, read_only, start }
}

fn spec(read_only: bool) -> BlkSpec {
    let images = vec![image(0, read_only)];
    BlkSpec { images, id: "scratch-0".into(), operations: None, bytes: None }
}

fn start(spec: BlkSpec) -> (Driver, File) {
    let file = spec.images[0].file.try_clone().unwrap();
    let event_loop = EventLoop::new("blk-test", None).unwrap();
    let mut driver = Driver::new(Box::new(Blk::new(spec, event_loop).unwrap()));
    driver.start(u64::MAX, 64);
    (driver, file)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn reads_what_was_written_whatever_the_buffers_are() {
    let (mut driver, file) = start(spec(false));
    let data: Vec<u8> = (0..1536u32).map(|byte| (byte % 251).to_le_bytes()[0]).collect();
    // Header and data in pieces that have nothing to do with their borders (§2.7.4).
    let out = [header(1, 3), data.clone()].concat();
    let reply = driver.request(0, &[&out[..10], &out[10..100], &out[100..]], &[1]);
    assert_eq!(reply, [OK]);
    let mut stored = vec![0; 1536];
    file.read_exact_at(&mut stored, 3 * 512).unwrap();
    assert_eq!(stored, data);
    let reply = driver.request(0, &[&header(0, 3)], &[1000, 530, 7]);
    assert_eq!(reply.len(), 1537);
    assert_eq!(reply[..1536], data);
    assert_eq!(reply[1536], OK);
}

#[test]
fn refuses_what_is_not_within_the_disk() {
    let (mut driver, _file) = start(spec(false));
    let status = |driver: &mut Driver, sector, len: u32| {
        *driver.request(0, &[&header(0, sector)], &[len, 1]).last().unwrap()
    };
    assert_eq!(status(&mut driver, SECTORS - 1, 512), OK);
    for (sector, len) in
        [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (1 << 55, 512), (0, 511), (0, 513)]
    {
        assert_eq!(status(&mut driver, sector, len), IO_ERROR, "{sector} {len}");
    }
    // The rest behind the last whole sector is not shown.
    let mut capacity = [0; 8];
    crate::bus::BusDevice::read(&*driver.transport, 0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    let data = vec![1; 512];
    assert_eq!(driver.request(0, &[&header(1, SECTORS), &data], &[1]), [IO_ERROR]);
    assert_eq!(driver.request(0, &[&header(1, 0), &data[..500]], &[1]), [IO_ERROR]);
}

#[test]
fn cannot_be_written_when_read_only() {
    let (mut driver, file) = start(spec(true));
    assert_ne!(driver.offered_features() & feature::RO, 0);
    assert_eq!(driver.offered_features() & feature::DISCARD, 0);
    let data = vec![1; 512];
    assert_eq!(driver.request(0, &[&header(1, 0), &data], &[1]), [IO_ERROR]);
    assert_eq!(driver.request(0, &[&header(11, 0), &range(0, 1, 0)], &[1]), [IO_ERROR]);
    assert_eq!(driver.request(0, &[&header(13, 0), &range(0, 1, 0)], &[1]), [IO_ERROR]);
    assert_eq!(driver.request(0, &[&header(4, 0)], &[1]), [OK]);
    let mut stored = [0; 512];
    file.read_exact_at(&mut stored, 0).unwrap();
    assert_eq!(stored, [0; 512]);
}

#[test]
fn tells_its_identity_and_knows_no_other_requests() {
    let (mut driver, _file) = start(spec(false));
    let reply = driver.request(0, &[&header(8, 0)], &[20, 1]);
    assert_eq!(reply, b"scratch-0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(*driver.request(0, &[&header(8, 0)], &[20]).last().unwrap(), IO_ERROR);
    for kind in [2, 3, 5, 14, 25, u32::MAX] {
        assert_eq!(driver.request(0, &[&header(kind, 0)], &[1]), [UNSUPPORTED]);
    }
}

#[test]
fn frees_and_zeroes_ranges() {
    let (mut driver, file) = start(spec(false));
    file.write_all_at(&[7; 64 * 512], 0).unwrap();
    let ranges = [range(0, 8, 0), range(16, 8, 1)].concat();
    assert_eq!(driver.request(0, &[&header(13, 0), &ranges], &[1]), [OK]);
    assert_eq!(driver.request(0, &[&header(11, 0), &range(32, 8, 0)], &[1]), [OK]);
    let mut stored = vec![0; 64 * 512];
    file.read_exact_at(&mut stored, 0).unwrap();
    for (sector, expected) in [(0, 0), (7, 0), (8, 7), (16, 0), (24, 7), (32, 0), (40, 7)] {
        assert_eq!(stored[sector * 512], expected, "sector {sector}");
    }
    // Nothing of a request is done if a part of it is wrong.
    let ranges = [range(8, 8, 0), range(60, 8, 0)].concat();
    assert_eq!(driver.request(0, &[&header(13, 0), &ranges], &[1]), [IO_ERROR]);
    file.read_exact_at(&mut stored, 0).unwrap();
    assert_eq!(stored[8 * 512], 7);
    for (kind, ranges, status) in [
        (11, range(0, 1, 1), UNSUPPORTED),
        (13, range(0, 1, 2), UNSUPPORTED),
        (13, range(0, u32::MAX, 0), IO_ERROR),
        (13, range(u64::MAX, 1, 0), IO_ERROR),
        (13, range(0, 1, 0)[..15].to_vec(), IO_ERROR),
        (13, Vec::from([0; 17 * 16]), IO_ERROR),
    ] {
        assert_eq!(driver.request(0, &[&header(kind, 0), &ranges], &[1]), [status]);
    }
    assert_eq!(driver.request(0, &[&header(13, 0)], &[1]), [IO_ERROR]);
}

#[test]
fn asks_for_a_reset_when_there_is_no_place_for_an_answer() {
    for chain in [vec![(0x8000, 16, false)], vec![(0x8000, 15, false), (0x9000, 512, true)]] {
        let (mut driver, _file) = start(spec(false));
        driver.queues[0].add(&chain);
        driver.kick(0);
        driver.wait_needs_reset();
        assert_eq!(driver.faults.lines().len(), 1);
    }
}

#[test]
fn makes_a_guest_wait_when_it_reaches_its_limits() {
    let bytes = Some(Rate { per_second: 512 * 100, burst: 0 });
    let (mut driver, _file) = start(BlkSpec { bytes, ..spec(false) });
    let before = Instant::now();
    for _ in 0..11 {
        driver.request(0, &[&header(0, 0)], &[512, 1]);
    }
    let taken = before.elapsed();
    assert!(taken >= Duration::from_millis(95), "{taken:?}");
    let operations = Some(Rate { per_second: 100, burst: 5 });
    let (mut driver, _file) = start(BlkSpec { operations, ..spec(false) });
    let before = Instant::now();
    for _ in 0..16 {
        driver.request(0, &[&header(4, 0)], &[1]);
    }
    let taken = before.elapsed();
    assert!(taken >= Duration::from_millis(95), "{taken:?}");
}

#[test]
fn answers_with_an_error_when_the_file_shrinks() {
    let (mut driver, file) = start(spec(false));
    file.set_len(512).unwrap();
    assert_eq!(*driver.request(0, &[&header(0, 1)], &[512, 1]).last().unwrap(), IO_ERROR);
    assert_eq!(*driver.request(0, &[&header(0, 0)], &[512, 1]).last().unwrap(), OK);
}

#[test]
fn says_what_is_wrong_with_a_disk() {
    let event_loop = EventLoop::unthreaded().unwrap();
    let error = |spec| Blk::new(spec, event_loop.clone()).err().unwrap().to_string();
    let empty = || DiskImage { file: tempfile::tempfile().unwrap(), read_only: true, start: 0 };
    assert!(error(BlkSpec { images: vec![empty()], ..spec(false) }).contains("0 bytes"));
    assert!(error(BlkSpec { images: vec![], ..spec(false) }).contains("0 bytes"));
    let size = SECTORS * SECTOR_SIZE;
    for start in [0, size - 512, size + 1, u64::MAX - 511] {
        let images = vec![image(0, true), image(start, true)];
        assert!(error(BlkSpec { images, ..spec(false) }).contains(&start.to_string()), "{start}");
    }
    let id = "x".repeat(21);
    assert!(error(BlkSpec { id, ..spec(false) }).contains("more than 20 bytes"));
}

#[test]
fn is_restored_only_over_a_disk_like_the_saved_one() {
    let (driver, _file) = start(spec(false));
    driver.transport.pause();
    let DeviceState::Blk(state) = driver.transport.save().device else { panic!("not a disk") };
    let event_loop = EventLoop::unthreaded().unwrap();
    assert!(Blk::restore(&state, spec(false), event_loop.clone()).is_ok());
    assert!(Blk::restore(&state, spec(true), event_loop.clone()).is_err());
    let other = BlkState { sectors: 1, ..state };
    assert!(Blk::restore(&other, spec(false), event_loop).is_err());
}

#[test]
fn makes_writes_durable_when_the_driver_does_not_flush() {
    let event_loop = EventLoop::unthreaded().unwrap();
    let mut driver = Driver::new(Box::new(Blk::new(spec(false), event_loop.clone()).unwrap()));
    driver.start(VERSION_1, 8);
    let out = driver.buffer(&[header(1, 0), vec![1; 512]].concat());
    let status = driver.allocate(1);
    driver.queues[0].add(&[(out, 528, false), (status, 1, true)]);
    driver.kick(0);
    event_loop.turn(10);
    assert!(driver.queues[0].pop_used().is_some());
    assert_eq!(driver.bytes(status, 1), [OK]);
}

#[test]
fn a_drive_has_a_disk_at_times() {
    let event_loop = EventLoop::new("drive-test", None).unwrap();
    let (device, handle) = Blk::drive(DriveSpec::default(), event_loop);
    let mut driver = Driver::new(Box::new(device));
    driver.start(u64::MAX, 16);
    assert_eq!(driver.offered_features() & feature::RO, 0);
    let capacity = |driver: &Driver| {
        let mut capacity = [0; 8];
        crate::bus::BusDevice::read(&*driver.transport, 0x100, &mut capacity);
        u64::from_le_bytes(capacity)
    };
    let read =
        |driver: &mut Driver| *driver.request(0, &[&header(0, 0)], &[512, 1]).last().unwrap();
    let write = |driver: &mut Driver| driver.request(0, &[&header(1, 0), &[1; 512]], &[1]) == [OK];
    assert_eq!(capacity(&driver), 0);
    assert_eq!(read(&mut driver), IO_ERROR);
    assert_eq!(driver.request(0, &[&header(4, 0)], &[1]), [OK]);
    for read_only in [true, false, true] {
        let disk = |id: &str| DriveDisk { images: vec![image(0, read_only)], id: id.into() };
        handle.insert(disk("disk1")).unwrap();
        assert_eq!((capacity(&driver), read(&mut driver)), (SECTORS, OK));
        assert_eq!(write(&mut driver), !read_only);
        let reply = driver.request(0, &[&header(8, 0)], &[20, 1]);
        assert!(reply.starts_with(b"disk1\0"), "{reply:?}");
        let second = handle.insert(disk("disk2"));
        assert!(second.unwrap_err().to_string().contains("already"));
        handle.eject();
        assert_eq!((capacity(&driver), read(&mut driver)), (0, IO_ERROR));
        assert!(!write(&mut driver));
    }
    let empty = handle.insert(DriveDisk { images: vec![], id: "x".into() });
    assert!(empty.unwrap_err().to_string().contains("0 bytes"));
}

#[test]
fn has_several_images_each_at_its_place() {
    const SECOND: u64 = 100;
    const THIRD: u64 = SECOND + SECTORS;
    let start_of = |sector: u64| sector * SECTOR_SIZE;
    let images = vec![image(0, true), image(start_of(SECOND), false), image(start_of(THIRD), true)];
    let files: Vec<File> = images.iter().map(|image| image.file.try_clone().unwrap()).collect();
    for (mark, file) in (1..).zip(&files) {
        file.write_all_at(&[mark; 64 * 512], 0).unwrap();
    }
    let (mut driver, _file) = start(BlkSpec { images, ..spec(false) });
    assert_eq!(driver.offered_features() & feature::RO, 0);
    let mut capacity = [0; 8];
    crate::bus::BusDevice::read(&*driver.transport, 0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), THIRD + SECTORS);

    let mut read = |sector, len: u32| {
        let reply = driver.request(0, &[&header(0, sector)], &[len, 1]);
        (*reply.last().unwrap(), reply[0])
    };
    for (mark, begin) in [(1, 0), (2, SECOND), (3, THIRD)] {
        assert_eq!(read(begin, 1024), (OK, mark));
        assert_eq!(read(begin + SECTORS - 1, 512), (OK, mark));
    }
    // In the gap, out of an image into it, and from one image into the next.
    for (sector, len) in
        [(SECTORS, 512), (SECTORS - 1, 1024), (SECOND - 1, 1024), (THIRD - 1, 1024)]
    {
        assert_eq!(read(sector, len).0, IO_ERROR, "{sector} {len}");
    }
    let mut change =
        |kind, sector, data: &[u8]| driver.request(0, &[&header(kind, sector), data], &[1])[0];
    for (sector, status) in
        [(0, IO_ERROR), (SECTORS, IO_ERROR), (SECOND + 1, OK), (THIRD, IO_ERROR)]
    {
        assert_eq!(change(1, sector, &[9; 512]), status, "a write to {sector}");
        assert_eq!(change(11, 0, &range(sector + 2, 1, 0)), status, "a discard of {sector}");
        assert_eq!(change(13, 0, &range(sector + 4, 1, 1)), status, "zeros at {sector}");
    }
    assert_eq!(driver.request(0, &[&header(4, 0)], &[1]), [OK]);
    let mut stored = vec![0; 64 * 512];
    for (mark, file) in [(1, &files[0]), (3, &files[2])] {
        file.read_exact_at(&mut stored, 0).unwrap();
        assert!(stored.iter().all(|byte| *byte == mark), "image {mark} was written");
    }
    files[1].read_exact_at(&mut stored, 0).unwrap();
    assert_eq!([512, 3 * 512, 5 * 512, 7 * 512].map(|place| stored[place]), [9, 0, 0, 2]);
}
