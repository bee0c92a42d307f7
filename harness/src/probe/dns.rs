//! As much of DNS as a question for the addresses of a name takes, over either transport.
use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Instant,
};

use super::{
    connect::{any_address, connect_tcp, left},
    wire::{Question, Transport},
};

/// Marks an answer as the one to our question.
const ID: [u8; 2] = [0x4d, 0x52];
const RECURSION_DESIRED: u16 = 1 << 8;
const IS_ANSWER: u8 = 1 << 7;
const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
/// A name that goes on elsewhere: two bytes.
const POINTER: u8 = 0xc0;

/// The addresses of a name, of both families. A name that does not exist has none.
pub(super) fn look_up(question: &Question) -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for kind in [TYPE_A, TYPE_AAAA] {
        let answer = ask(question, &encode(&question.name, kind)?)?;
        addresses.extend(decode(&answer).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("not an answer to our question: {answer:x?}"))
        })?);
    }
    Ok(addresses)
}

fn ask(question: &Question, message: &[u8]) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + question.timeout;
    let server = question.server;
    let mut buffer = vec![0; 2048];
    let length = match server.transport {
        Transport::Udp | Transport::UnconnectedUdp => {
            let socket = UdpSocket::bind(any_address(server.to))?;
            socket.connect(server.to)?;
            socket.send(message)?;
            socket.set_read_timeout(Some(left(deadline)?))?;
            socket.recv(&mut buffer)?
        }
        Transport::Tcp => {
            let mut stream = connect_tcp(server.to, None, deadline)?;
            // Over TCP each message follows its length.
            let length = u16::try_from(message.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), message].concat())?;
            stream.set_read_timeout(Some(left(deadline)?))?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let length = usize::from(u16::from_be_bytes(length)).min(buffer.len());
            stream.read_exact(&mut buffer[..length])?;
            length
        }
    };
    buffer.truncate(length);
    Ok(buffer)
}

fn encode(name: &str, kind: u16) -> io::Result<Vec<u8>> {
    let mut message = ID.to_vec();
    for word in [RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).map_err(io::Error::other)?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([kind.to_be_bytes(), CLASS_IN.to_be_bytes()].concat());
    Ok(message)
}

/// The addresses in an answer to one question.
fn decode(message: &[u8]) -> Option<Vec<IpAddr>> {
    if message.get(..2)? != ID || message.get(2)? & IS_ANSWER == 0 {
        return None;
    }
    let answers = word(message, 6)?;
    let mut at = skip_name(message, HEADER)? + 4;
    let mut addresses = Vec::new();
    for _ in 0..answers {
        at = skip_name(message, at)?;
        let (kind, length) = (word(message, at)?, usize::from(word(message, at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        match kind {
            TYPE_A => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            TYPE_AAAA => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            _ => {}
        }
        at += 10 + length;
    }
    Some(addresses)
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Where the name that begins here ends.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & POINTER == POINTER => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_an_answer_with_pointers() {
        let mut answer = encode("a.example", TYPE_A).expect("a question");
        answer[2] |= IS_ANSWER;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 0, 10]);
        assert_eq!(decode(&answer), Some(vec![IpAddr::from([10, 96, 0, 10])]));
        answer.pop();
        assert_eq!(decode(&answer), None, "cut off");
    }

    #[test]
    fn a_question_is_no_answer() {
        let question = encode("a.example", TYPE_AAAA).expect("a question");
        assert_eq!(decode(&question), None);
    }
}
