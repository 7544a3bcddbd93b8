//! The first words with passt, before a guest has its stream: whether it answers, and for which
//! families of addresses.
//!
//! passt answers for every address of its link, if the host has addresses of the family at all. A
//! question of each family is asked; what it answers before the answer to a second question, which
//! comes after both, is what there is.

use super::{GATEWAY, GATEWAY_6, GUEST, MAC};
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of the largest frame that may come; passt's own are smaller.
const MAX_FRAME: usize = 65_553;

const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Messages of neighbour discovery (RFC 4861).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Which the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Asks; returns the stream, between two frames.
pub(super) async fn shake(stream: UnixStream) -> io::Result<(OwnedFd, Families)> {
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    stream.write_all(&frame(&question_4())).await?;
    stream.write_all(&frame(&question_6())).await?;
    let mut families = Families::default();
    let mut fence = None;
    loop {
        let Some(family) = answer(&receive(&mut stream).await?) else { continue };
        match family {
            Family::V4 => families.v4 = true,
            Family::V6 => families.v6 = true,
        }
        match fence {
            None => {
                let again = if family == Family::V4 { question_4() } else { question_6() };
                stream.write_all(&frame(&again)).await?;
                fence = Some(family);
            }
            Some(waits) if waits == family => break,
            Some(_) => {}
        }
    }
    Ok((stream.into_std()?.into(), families))
}

async fn receive(stream: &mut tokio::net::UnixStream) -> io::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        let problem = format!("passt has sent a frame of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

fn frame(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), content].concat()
}

/// Which question a frame answers, if it does.
fn answer(frame: &[u8]) -> Option<Family> {
    let kind = frame.get(12..14)?;
    // An answer of ARP from the gateway; an advertisement of it, with no extension before.
    if kind == ARP && frame.get(20..22)? == [0, 2] && frame.get(28..32)? == GATEWAY.octets() {
        return Some(Family::V4);
    }
    let is_advertisement =
        kind == IPV6 && *frame.get(20)? == 58 && *frame.get(54)? == ADVERTISEMENT;
    (is_advertisement && frame.get(62..78)? == GATEWAY_6.octets()).then_some(Family::V6)
}

/// Who has the gateway's address (RFC 826)?
fn question_4() -> Vec<u8> {
    let ethernet = [&[0xff; 6][..], &MAC, &ARP].concat();
    // Ethernet and IPv4, addresses of six and four bytes, a question.
    let kind = [0, 1, 8, 0, 6, 4, 0, 1];
    [&ethernet[..], &kind, &MAC, &GUEST.octets(), &[0; 6], &GATEWAY.octets()].concat()
}

/// The same by RFC 4861, section 4.3, to all who may have it.
fn question_6() -> Vec<u8> {
    let [.., low1, low2, low3] = GATEWAY_6.octets();
    let target = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, low1, low2, low3]);
    let [a, b, c, d, e, f] = MAC;
    let source = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let option = [&[1, 1][..], &MAC].concat();
    let message = |sum: [u8; 2]| {
        [&[SOLICITATION, 0][..], &sum, &[0; 4], &GATEWAY_6.octets(), &option].concat()
    };
    let length = u16::try_from(message([0; 2]).len()).unwrap_or(u16::MAX).to_be_bytes();
    let addresses = [source.octets(), target.octets()].concat();
    let sum =
        checksum(&[&addresses[..], &[0, 0], &length, &[0, 0, 0, 58], &message([0; 2])].concat());
    let ethernet = [&[0x33, 0x33, 0xff, low1, low2, low3][..], &MAC, &IPV6].concat();
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, 255], &addresses].concat();
    [ethernet, header, message(sum)].concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(!sum & 0xffff).unwrap_or_default().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_4() -> Vec<u8> {
        let mut frame = question_4();
        frame[21] = 2;
        frame[28..32].copy_from_slice(&GATEWAY.octets());
        frame
    }

    fn answer_6() -> Vec<u8> {
        let mut frame = question_6();
        frame[54] = ADVERTISEMENT;
        frame
    }

    #[test]
    fn questions_are_whole() {
        assert_eq!(question_4().len(), 42);
        let question = question_6();
        assert_eq!(question.len(), 14 + 40 + 32);
        // With its own checksum in it, the sum is nothing.
        let header = [&question[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&header[..], &question[54..]].concat()), [0, 0]);
        assert!(answer(&question_4()).is_none() && answer(&question_6()).is_none());
        assert!(answer(&answer_4()) == Some(Family::V4) && answer(&answer_6()) == Some(Family::V6));
        for length in 0..78 {
            answer(&answer_6()[..length]);
        }
    }

    /// passt that answers these questions.
    async fn shaken(answers: &[(usize, Vec<u8>)]) -> io::Result<Families> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut passt = tokio::net::UnixStream::from_std(theirs).unwrap();
        let answers = answers.to_vec();
        let passt = tokio::spawn(async move {
            let mut read = 0;
            for (questions, answer) in answers {
                while read < questions {
                    receive(&mut passt).await.unwrap();
                    read += 1;
                }
                passt.write_all(&frame(&answer)).await.unwrap();
            }
        });
        let shaken = shake(ours).await;
        passt.await.unwrap();
        shaken.map(|(_, families)| families)
    }

    #[tokio::test]
    async fn what_is_answered_is_there() {
        let (v4, v6) = (answer_4(), answer_6());
        let other = vec![0; 60];
        let answers = [(2, other.clone()), (2, v4.clone()), (2, v6.clone()), (3, v4.clone())];
        assert_eq!(shaken(&answers).await.unwrap(), Families { v4: true, v6: true });
        let one = shaken(&[(2, v4.clone()), (3, other), (3, v4.clone())]).await.unwrap();
        assert_eq!(one, Families { v4: true, v6: false });
        let one = shaken(&[(2, v6.clone()), (3, v6)]).await.unwrap();
        assert_eq!(one, Families { v4: false, v6: true });
        // One that ends, before or after the second question is sent.
        shaken(&[(2, v4)]).await.unwrap_err();
    }
}
