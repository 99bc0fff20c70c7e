//! A DNS server that knows a few names. In: names with their IPv4 addresses. Out: answers over UDP (RFC 1035). Never: a
//! question passed on; whatever else is asked for does not exist.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
};

use nix::sys::signal::{SigSet, Signal};

/// RFC 1035, 4.1.1: a header has six numbers of two bytes.
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
/// Response, recursion desired and available.
const FLAGS: u16 = 0x8180;
const NO_SUCH_NAME: u16 = 3;
/// Seconds for which an answer may be kept.
const TTL: u32 = 1;

/// Serves on a port until SIGTERM.
///
/// # Errors
/// The port is taken.
pub fn run(port: u16, names: BTreeMap<String, Ipv4Addr>) -> io::Result<()> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    let socket = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    println!("serving {} names on {port}", names.len());
    thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            if let Ok((length, peer)) = socket.recv_from(&mut buffer)
                && let Some(answer) = answer(&buffer[..length], &names)
            {
                // An answer that cannot be sent is asked for again.
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    signals.wait()?;
    Ok(())
}

/// The answer to a question; none to what is no question.
fn answer(question: &[u8], names: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let (name, end) = name(question)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    let asked = question.get(HEADER..end + 4)?;
    let known = names.get(&name);
    let address = known.filter(|_| kind == TYPE_A);
    let flags = if known.is_some() { FLAGS } else { FLAGS | NO_SUCH_NAME };
    let mut answer = question.get(..2)?.to_vec();
    for number in [flags, 1, u16::from(address.is_some()), 0, 0] {
        answer.extend(number.to_be_bytes());
    }
    answer.extend(asked);
    if let Some(address) = address {
        // The name stands right behind the header (4.1.4); type A, class IN.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// The name that is asked for, in lower case, and where it ends.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = question.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for `Web.test`.
    fn question(kind: u8) -> Vec<u8> {
        let mut question = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x03Web\x04test\x00");
        question.extend([0, kind, 0, 1]);
        question
    }

    #[test]
    fn a_known_name_has_an_address_and_another_does_not_exist() {
        let names = BTreeMap::from([("web.test".to_owned(), Ipv4Addr::new(10, 0, 0, 1))]);
        let found = answer(&question(1), &names).unwrap();
        assert_eq!(found[..8], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]);
        assert!(found.ends_with(&[0, 4, 10, 0, 0, 1]));
        let other_kind = answer(&question(28), &names).unwrap();
        assert_eq!(other_kind[2..8], [0x81, 0x80, 0, 1, 0, 0], "the name is known, without such an address");
        let unknown = answer(&question(1), &BTreeMap::new()).unwrap();
        assert_eq!(unknown[3], 0x83);
        assert_eq!(answer(&question(1)[..15], &names), None, "cut short");
    }
}
