//! The packet header (VIRTIO 1.2 §5.10.6).
//!
//! Own rather than the `virtio-vsock` crate's: that one wants header and data in one or two
//! descriptors and works on another crate's chains; a Linux guest that sends without copying
//! (MSG_ZEROCOPY) spreads the data over as many as it has pages.

/// Bytes of a header.
pub(super) const HEADER_SIZE: usize = 44;

/// The only socket type served: VIRTIO_VSOCK_TYPE_STREAM.
pub(super) const TYPE_STREAM: u16 = 1;

/// What a packet is for (§5.10.6, `op`).
pub(super) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of SHUTDOWN (§5.10.6.5): what the sender will not do any more.
pub(super) mod shutdown {
    pub(crate) const RECEIVE: u32 = 1;
    pub(crate) const SEND: u32 = 2;
    pub(crate) const BOTH: u32 = RECEIVE | SEND;
}

/// A packet header as values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of data behind the header.
    pub(super) len: u32,
    pub(super) socket_type: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes the sender has room for, in all.
    pub(super) buf_alloc: u32,
    /// Bytes the sender's program has read, in all, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        let rest = &mut bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(rest)),
            dst_cid: u64::from_le_bytes(take(rest)),
            src_port: u32::from_le_bytes(take(rest)),
            dst_port: u32::from_le_bytes(take(rest)),
            len: u32::from_le_bytes(take(rest)),
            socket_type: u16::from_le_bytes(take(rest)),
            op: u16::from_le_bytes(take(rest)),
            flags: u32::from_le_bytes(take(rest)),
            buf_alloc: u32::from_le_bytes(take(rest)),
            fwd_cnt: u32::from_le_bytes(take(rest)),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let rest = &mut bytes.as_mut_slice();
        put(rest, self.src_cid.to_le_bytes());
        put(rest, self.dst_cid.to_le_bytes());
        put(rest, self.src_port.to_le_bytes());
        put(rest, self.dst_port.to_le_bytes());
        put(rest, self.len.to_le_bytes());
        put(rest, self.socket_type.to_le_bytes());
        put(rest, self.op.to_le_bytes());
        put(rest, self.flags.to_le_bytes());
        put(rest, self.buf_alloc.to_le_bytes());
        put(rest, self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The refusal of this packet (§5.10.6.4), from the address that it was sent to.
    pub(super) fn reset_reply(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            socket_type: self.socket_type,
            op: op::RST,
            ..Self::default()
        }
    }
}

/// The fields' sizes add up to the header's, so the front is always there.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((front, back)) => {
            *rest = back;
            *front
        }
        None => [0; N],
    }
}

fn put<const N: usize>(rest: &mut &mut [u8], value: [u8; N]) {
    if let Some((front, back)) = std::mem::take(rest).split_first_chunk_mut() {
        *front = value;
        *rest = back;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn has_its_fields_where_the_spec_has_them() {
        let header = Header {
            src_cid: 0x0101_0101_0101_0101,
            dst_cid: 0x0202_0202_0202_0202,
            src_port: 0x0303_0303,
            dst_port: 0x0404_0404,
            len: 0x0505_0505,
            socket_type: 0x0606,
            op: 0x0707,
            flags: 0x0808_0808,
            buf_alloc: 0x0909_0909,
            fwd_cnt: 0x0a0a_0a0a,
        };
        let sizes = [8, 8, 4, 4, 4, 2, 2, 4, 4, 4];
        let expected: Vec<u8> =
            (1..).zip(sizes).flat_map(|(byte, size)| vec![byte; size]).collect();
        assert_eq!(header.to_bytes().as_slice(), expected);
    }

    proptest! {
        #[test]
        fn is_the_same_when_it_was_bytes_in_between(bytes in any::<[u8; HEADER_SIZE]>()) {
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }
    }
}
