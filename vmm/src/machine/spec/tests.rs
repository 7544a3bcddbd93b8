//! Configurations, good and bad.

use super::*;
use vmm_api::{BootConfig, ConsoleConfig, DriveConfig};

fn fds(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| tempfile::tempfile().unwrap().into()).collect()
}

/// Takes slots 0 to 5.
fn good() -> MachineConfig {
    MachineConfig {
        version: VERSION,
        name: "box".to_owned(),
        memory_mib: 256,
        walls: WallsConfig::default(),
        vcpus: 1,
        kvm: FdSlot(0),
        boot: BootConfig {
            kernel: FdSlot(1),
            initrd: Some(FdSlot(2)),
            cmdline: "quiet".to_owned(),
        },
        console: ConsoleConfig {
            log: FdSlot(3),
            max_bytes: 1 << 20,
            rate: TokenBucket { per_second: 1 << 20, burst: 1 << 20 },
        },
        vsock: Some(VsockConfig { guest_cid: 3 }),
        fs: Some(FsConfig {
            tag: "shares".to_owned(),
            queues: 1,
            locks: LockPolicy::Host,
            shares: vec![share("root", 4)],
            shares_later: false,
        }),
        disks: vec![disk(5)],
        drives: Vec::new(),
        nets: Vec::new(),
        rng: true,
        balloon: Some(BalloonConfig { free_page_reporting: true }),
    }
}

fn share(name: &str, slot: u16) -> ShareConfig {
    ShareConfig {
        name: name.to_owned(),
        root: FdSlot(slot),
        kind: ShareKind::Directory,
        read_only: false,
        cache: CachePolicy::Auto,
    }
}

fn image(slot: u16) -> ImageConfig {
    ImageConfig { image: FdSlot(slot), read_only: true, start: 0 }
}

fn disk(slot: u16) -> DiskConfig {
    DiskConfig { images: vec![image(slot)], serial: "rootfs".to_owned(), rate_limit: None }
}

fn error(change: impl FnOnce(&mut MachineConfig)) -> SpecError {
    let mut config = good();
    change(&mut config);
    MachineSpec::new(config, fds(6)).unwrap_err()
}

fn fs(config: &mut MachineConfig) -> &mut FsConfig {
    config.fs.as_mut().unwrap()
}

#[test]
fn takes_a_good_configuration() {
    let spec = MachineSpec::new(good(), fds(6)).unwrap();
    assert_eq!((spec.memory, spec.vcpus, spec.devices.disks.len()), (256 << 20, 1, 1));
}

#[test]
fn refuses_numbers_out_of_bounds_with_their_values() {
    let too_little = error(|c| c.memory_mib = 31);
    assert_eq!(too_little, SpecError::Memory { mib: 31 });
    assert!(too_little.to_string().contains("31 MiB") && too_little.to_string().contains("32 MiB"));
    assert_eq!(error(|c| c.memory_mib = 1_000_001), SpecError::Memory { mib: 1_000_001 });
    assert_eq!(error(|c| c.vcpus = 0), SpecError::Vcpus { count: 0 });
    assert_eq!(error(|c| c.vcpus = 33), SpecError::Vcpus { count: 33 });
    assert_eq!(error(|c| c.version = VERSION + 1), SpecError::Version { found: VERSION + 1 });
    for cid in [0, 2, u32::MAX] {
        assert_eq!(
            error(|c| c.vsock = Some(VsockConfig { guest_cid: cid })),
            SpecError::GuestCid { cid }
        );
    }
    assert_eq!(error(|c| fs(c).queues = 0), SpecError::FsQueues { count: 0 });
}

#[test]
fn refuses_texts_that_do_not_fit() {
    for tag in [String::new(), "x".repeat(37), "a\nb".to_owned()] {
        assert!(matches!(error(|c| fs(c).tag = tag), SpecError::Text { max: 36, .. }));
    }
    assert!(matches!(error(|c| c.name.clear()), SpecError::Text { max: 255, .. }));
    assert!(matches!(error(|c| c.disks[0].serial = "x".repeat(21)), SpecError::Text { .. }));
}

#[test]
fn refuses_share_names_that_are_no_entries() {
    for name in ["", ".", "..", "a/b", "/", "a\0", &"x".repeat(256)] {
        let refused = error(|c| fs(c).shares = vec![share(name, 4)]);
        assert_eq!(refused, SpecError::ShareName { name: name.to_owned() });
    }
    let twice = error(|c| {
        fs(c).shares = vec![share("a", 4), share("a", 5)];
        c.disks.clear();
    });
    assert_eq!(twice, SpecError::ShareNameTwice { name: "a".to_owned() });
}

#[test]
fn uses_each_descriptor_once_and_all() {
    assert!(matches!(
        error(|c| c.boot.kernel = FdSlot(6)),
        SpecError::NoSuchFd { slot: 6, count: 6, .. }
    ));
    assert!(matches!(error(|c| c.boot.kernel = FdSlot(0)), SpecError::FdUsedTwice { slot: 0, .. }));
    assert_eq!(error(|c| c.disks.clear()), SpecError::UnusedFds { count: 1 });
}

#[test]
fn refuses_an_image_that_is_no_file() {
    let mut given = fds(6);
    given[1] = File::open("/").unwrap().into();
    let refused = MachineSpec::new(good(), given).unwrap_err();
    assert_eq!(refused, SpecError::NotAFile { what: "the kernel image" });
}

#[test]
fn refuses_more_devices_than_interrupts() {
    let mut config = good();
    config.disks = (5..21).map(disk).collect();
    let refused = MachineSpec::new(config, fds(21)).unwrap_err();
    assert_eq!(refused, SpecError::TooManyDevices { count: 20 });
}

#[test]
fn refuses_a_rate_at_which_nothing_passes() {
    let bucket = TokenBucket { burst: 1, per_second: 0 };
    let limit = RateLimit { bytes: None, operations: Some(bucket) };
    assert_eq!(
        error(|c| c.disks[0].rate_limit = Some(limit)),
        SpecError::RateLimit { burst: 1, per_second: 0 }
    );
}

#[test]
fn checks_a_share_that_comes_later_alike() {
    assert!(ShareSpec::new(share("vol", 0), fds(1)).is_ok());
    assert!(matches!(
        ShareSpec::new(share("..", 0), fds(1)).unwrap_err(),
        SpecError::ShareName { .. }
    ));
    assert_eq!(
        ShareSpec::new(share("vol", 0), fds(2)).unwrap_err(),
        SpecError::UnusedFds { count: 1 }
    );
}

#[test]
fn a_network_needs_an_address_and_room_for_packets() {
    let with = |mac: [u8; 6], mtu| {
        let mut config = good();
        config.nets = vec![NetConfig {
            backend: NetBackend::Stream(FdSlot(6)),
            mac,
            mtu,
            sources: None,
            metadata: false,
            sent: RateLimit::default(),
            received: RateLimit::default(),
        }];
        MachineSpec::new(config, fds(7)).map(|spec| spec.devices.nets.len())
    };
    assert_eq!(with([2, 0, 0, 0, 0, 1], 1500), Ok(1));
    for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [0xff; 6]] {
        assert_eq!(with(mac, 1500), Err(SpecError::Mac { mac }));
    }
    assert_eq!(with([2, 0, 0, 0, 0, 1], 67), Err(SpecError::Mtu { mtu: 67 }));
}

#[test]
fn a_network_has_a_bounded_number_of_pairs_of_queues() {
    let with = |count: u16| {
        let mut config = good();
        config.nets = vec![NetConfig {
            backend: NetBackend::Tap { taps: (6..6 + count).map(FdSlot).collect(), uso: true },
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            sources: None,
            metadata: false,
            sent: RateLimit::default(),
            received: RateLimit::default(),
        }];
        let spec = MachineSpec::new(config, fds(6 + usize::from(count)))?;
        Ok(spec.devices.nets.iter().map(|net| net.backend.pairs()).sum::<usize>())
    };
    assert_eq!((with(1), with(4)), (Ok(1), Ok(4)));
    assert_eq!(with(0), Err(SpecError::NetPairs { count: 0 }));
    assert_eq!(with(5), Err(SpecError::NetPairs { count: 5 }));
}

#[test]
fn drives_are_devices_and_their_disks_are_checked() {
    let drives = |config: &mut MachineConfig, count| {
        config.drives = vec![DriveConfig::default(); count];
    };
    let most = MAX_DEVICES - 5;
    let mut config = good();
    drives(&mut config, most);
    assert_eq!(MachineSpec::new(config, fds(6)).unwrap().devices.drives.len(), most);
    let count = MAX_DEVICES + 1;
    assert_eq!(error(|c| drives(c, most + 1)), SpecError::TooManyDevices { count });
    let none =
        Some(RateLimit { bytes: Some(TokenBucket { burst: 0, per_second: 1 }), operations: None });
    let stuck = error(|c| c.drives = vec![DriveConfig { rate_limit: none }]);
    assert_eq!(stuck, SpecError::RateLimit { burst: 0, per_second: 1 });

    let disk = |serial: &str, slot| InsertedDisk {
        drive: 2,
        images: vec![image(slot)],
        serial: serial.to_owned(),
    };
    let spec = InsertedSpec::new(disk("disk2", 0), fds(1)).unwrap();
    assert_eq!((spec.drive, spec.serial.as_str()), (2, "disk2"));
    for (disk, count) in [(disk("", 0), 1), (disk("d", 1), 1), (disk("d", 0), 2)] {
        InsertedSpec::new(disk, fds(count)).unwrap_err();
    }
}
