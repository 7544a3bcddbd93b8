//! Images made by hand, whole and broken.

use super::*;
use std::io::Write;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 64 << 20;

/// An image with the given program headers, (type, offset, address, file size, memory size), whose
/// byte at each offset from 0x1000 on is that offset's page number.
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    fn new(entry: u64, headers: &[(u32, u64, u64, u64, u64)]) -> Self {
        let mut bytes: Vec<u8> = (0..8_u8).flat_map(|page| [page; 0x1000]).collect();
        bytes[..HEADER_SIZE].fill(0);
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..7].copy_from_slice(&[CLASS_64, LITTLE_ENDIAN, 1]);
        bytes[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
        bytes[24..32].copy_from_slice(&entry.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
        for (index, (kind, offset, address, file_size, memory_size)) in headers.iter().enumerate() {
            let at = HEADER_SIZE + index * PROGRAM_HEADER_SIZE;
            bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            bytes[at + 24..at + 32].copy_from_slice(&address.to_le_bytes());
            bytes[at + 32..at + 40].copy_from_slice(&file_size.to_le_bytes());
            bytes[at + 40..at + 48].copy_from_slice(&memory_size.to_le_bytes());
        }
        Self { bytes }
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn cut(mut self, size: usize) -> Self {
        self.bytes.truncate(size);
        self
    }

    fn load(&self) -> Result<(LoadedKernel, Ram), KernelError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.bytes).unwrap();
        let layout = RamLayout::new(MEMORY);
        let ram = Ram::map(&layout).unwrap();
        load(&file, &ram, &layout).map(|kernel| (kernel, ram))
    }
}

fn good() -> Image {
    Image::new(0x100_0010, &[(TYPE_LOAD, 0x1000, 0x100_0000, 0x2000, 0x3000)])
}

fn byte(ram: &Ram, address: u64) -> u8 {
    ram.memory().read_obj(GuestAddress(address)).unwrap()
}

#[test]
fn loads_a_page_aligned_segment_with_zeros_behind_it() {
    let (kernel, ram) = good().load().unwrap();
    assert_eq!(kernel, LoadedKernel { entry: 0x100_0010, range: 0x100_0000..0x100_3000 });
    assert_eq!([0, 0x1fff, 0x2000].map(|at| byte(&ram, 0x100_0000 + at)), [1, 2, 0]);
}

#[test]
fn loads_partial_pages_at_both_ends() {
    let headers = [(TYPE_LOAD, 0x1ffe, 0x100_0ffe, 0x3004, 0x3004)];
    let (_, ram) = Image::new(0x100_1000, &headers).load().unwrap();
    let bytes = [0xffd, 0xffe, 0xfff, 0x1000, 0x3fff, 0x4000, 0x4001, 0x4002];
    assert_eq!(bytes.map(|at| byte(&ram, 0x100_0000 + at)), [0, 1, 1, 2, 4, 5, 5, 0]);
}

#[test]
fn loads_segments_that_share_a_page() {
    let headers =
        [(TYPE_LOAD, 0x1000, 0x100_0000, 0x1800, 0x1800), (TYPE_LOAD, 0x4800, 0x100_1800, 8, 8)];
    let (kernel, ram) = Image::new(0x100_0000, &headers).load().unwrap();
    assert_eq!(kernel.range, 0x100_0000..0x100_1808);
    assert_eq!([0x17ff, 0x1800, 0x1808].map(|at| byte(&ram, 0x100_0000 + at)), [2, 4, 0]);
}

#[test]
fn copies_a_segment_that_cannot_be_mapped() {
    let headers = [(TYPE_LOAD, 0x1008, 0x100_0000, 0x2000, 0x2000)];
    let (_, ram) = Image::new(0x100_0000, &headers).load().unwrap();
    assert_eq!([0, 0xff7, 0xff8, 0x1fff].map(|at| byte(&ram, 0x100_0000 + at)), [1, 1, 2, 3]);
}

#[test]
fn ignores_headers_that_load_nothing() {
    let headers = [
        (4, u64::MAX, 0, u64::MAX, u64::MAX),
        (TYPE_LOAD, u64::MAX, 0, 0, 0),
        (TYPE_LOAD, 0x1000, 0x100_0000, 0x1000, 0x1000),
    ];
    assert!(Image::new(0x100_0000, &headers).load().is_ok());
}

#[test]
fn says_what_is_wrong_with_a_file_that_is_no_kernel() {
    type Test = (Image, fn(&KernelError) -> bool);
    let tests: [Test; 8] = [
        (
            good().with(0, b"BZh9"),
            |e| matches!(e, KernelError::NotElf { first } if first == b"BZh9"),
        ),
        (good().with(4, &[1]), |e| matches!(e, KernelError::NotElf64)),
        (good().with(5, &[2]), |e| matches!(e, KernelError::NotElf64)),
        (good().with(18, &[183, 0]), |e| matches!(e, KernelError::WrongMachine { machine: 183 })),
        (good().with(54, &[32, 0]), |e| matches!(e, KernelError::BadProgramHeaders { .. })),
        (good().with(56, &[0xff, 0xff]), |e| matches!(e, KernelError::BadProgramHeaders { .. })),
        (Image::new(0, &[]), |e| matches!(e, KernelError::NothingToLoad)),
        (Image::new(0x100_0000, &[(4, 0, 0, 0, 0)]), |e| matches!(e, KernelError::NothingToLoad)),
    ];
    for (image, expected) in tests {
        let error = image.load().unwrap_err();
        assert!(expected(&error), "{error:?}");
    }
}

#[test]
fn says_that_a_file_is_truncated_wherever_it_is_cut() {
    for size in [0, 4, 63, 64, 119, 0x1000, 0x2fff] {
        let error = good().cut(size).load().unwrap_err();
        assert!(matches!(error, KernelError::Truncated { .. }), "{size}: {error:?}");
    }
    assert!(good().cut(0x3000).load().is_ok());
    let far = good().with(32, &u64::MAX.to_le_bytes()).load().unwrap_err();
    assert!(matches!(far, KernelError::Truncated { .. }));
}

#[test]
fn refuses_segments_that_lie_about_their_size_or_place() {
    type Test = ((u64, u64, u64, u64), fn(&KernelError) -> bool);
    let tests: [Test; 7] = [
        ((0x1000, 0x100_0000, 2, 1), |e| matches!(e, KernelError::BadSegment { .. })),
        ((u64::MAX, 0x100_0000, 2, 2), |e| matches!(e, KernelError::BadSegment { .. })),
        ((0x1000, u64::MAX, 2, 2), |e| matches!(e, KernelError::BadSegment { .. })),
        ((0x1000, 0xf_f000, 1, 1), |e| matches!(e, KernelError::TooLow { address: 0xf_f000 })),
        ((0x1000, MEMORY, 1, 1), |e| matches!(e, KernelError::LargerThanMemory { .. })),
        ((0x1000, 0x100_0000, 1, MEMORY), |e| matches!(e, KernelError::LargerThanMemory { .. })),
        ((0x1000, 0x200_0000, 1, 1), |e| matches!(e, KernelError::BadEntry { entry: 0x100_0000 })),
    ];
    for ((offset, address, file_size, memory_size), expected) in tests {
        let image = Image::new(0x100_0000, &[(TYPE_LOAD, offset, address, file_size, memory_size)]);
        let error = image.load().unwrap_err();
        assert!(expected(&error), "{error:?}");
    }
}
