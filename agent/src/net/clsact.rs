//! The `clsact` qdisc and its filters: where programs are attached on kernels without tcx. Blocking.
use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{Emitable as _, NlasIterator, Parseable as _};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::raw::{NLM_F_ACK, NLM_F_DUMP, RawSocket};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const NLM_F_ECHO: u16 = 8;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// `ETH_P_ALL`, as filters have it: in network byte order.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();
const KIND: &str = "clsact";
const TCA_KIND: u16 = 1;
/// Bytes of `struct tcmsg`.
const HEADER: usize = 20;
/// Filters change while they are listed; that many lists are thrown away before giving up.
const LISTS: usize = 10;

/// Which packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    const fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// Where a filter is: all that its neighbours differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ifindex: u32,
    pub(crate) direction: Direction,
    pub(crate) priority: u16,
    pub(crate) handle: u32,
}

/// A filter that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) place: Place,
    /// That of a program; other filters have none.
    pub(crate) name: Option<String>,
    pub(crate) program_id: Option<u32>,
}

/// What may be there when a filter is put into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is replaced in one step: no packet meets neither of the two.
    Replaced,
    /// It is an error.
    Refused,
}

/// Whether `clsact` was made just now; it may have been there. Another qdisc in its place is an error.
pub(crate) fn add_qdisc(ifindex: u32) -> io::Result<bool> {
    match ask(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &qdisc(ifindex)?) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        Err(_) if is_clsact(ifindex)? => Ok(false),
        Err(_) => Err(io::Error::other(
            "another qdisc has the place of clsact: delete it (`tc qdisc del dev … ingress`) or let its owner use clsact",
        )),
    }
}

/// Removes `clsact` and all filters of it. One that is gone is no error.
pub(crate) fn remove_qdisc(ifindex: u32) -> io::Result<()> {
    gone_is_fine(ask(RTM_DELQDISC, 0, &qdisc(ifindex)?))
}

/// Puts a program into a place; its verdict is that of the filter.
pub(crate) fn put(place: Place, name: &str, program: BorrowedFd<'_>, existing: Existing) -> io::Result<()> {
    let fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let mut message = filter(place)?;
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    let existing = match existing {
        Existing::Replaced => NLM_F_REPLACE,
        Existing::Refused => NLM_F_EXCL,
    };
    ask(RTM_NEWTFILTER, NLM_F_CREATE | existing, &message).map(|_| ())
}

/// Removes a filter. One that is gone is no error.
pub(crate) fn remove(place: Place) -> io::Result<()> {
    gone_is_fine(ask(RTM_DELTFILTER, 0, &filter(place)?))
}

/// The filters of an interface in the order in which they see its packets. None where there is no qdisc.
pub(crate) fn filters(ifindex: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let mut message = TcMessage::with_index(index(ifindex)?);
    message.header.parent = direction.parent();
    for _ in 0..LISTS {
        match ask(RTM_GETTFILTER, NLM_F_DUMP, &message) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            replies => {
                let found = replies?;
                return Ok(found.iter().filter_map(|reply| filter_of(reply, ifindex, direction)).collect());
            }
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// What the kernel lacks to run programs as filters, found by trying on the loopback interface, where nothing stays.
pub(crate) fn lacks() -> io::Result<Option<&'static str>> {
    let is_unknown = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
    let is_new = match add_qdisc(LOOPBACK) {
        Err(error) if is_unknown(&error) => return Ok(Some("the qdisc clsact (CONFIG_NET_SCH_INGRESS)")),
        // The one that has its place takes filters as well.
        added => added.unwrap_or(false),
    };
    let nowhere = Place { ifindex: LOOPBACK, direction: Direction::Ingress, priority: u16::MAX, handle: 0 };
    let mut without_program = filter(nowhere)?;
    without_program.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    let refused = ask(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &without_program);
    if is_new {
        remove_qdisc_if_empty(LOOPBACK)?;
    }
    Ok(refused.err().filter(is_unknown).map(|_| "the classifier bpf (CONFIG_NET_CLS_BPF)"))
}

/// Removes `clsact` unless it holds filters. Whether it is gone.
pub(crate) fn remove_qdisc_if_empty(ifindex: u32) -> io::Result<bool> {
    for direction in [Direction::Ingress, Direction::Egress] {
        if !filters(ifindex, direction)?.is_empty() {
            return Ok(false);
        }
    }
    remove_qdisc(ifindex).map(|()| true)
}

const LOOPBACK: u32 = 1;

fn is_clsact(ifindex: u32) -> io::Result<bool> {
    let mut message = TcMessage::with_index(index(ifindex)?);
    message.header.parent = TcHandle::CLSACT;
    // Older kernels answer only to who asks to hear of changes.
    let replies = ask(RTM_GETQDISC, NLM_F_ECHO, &message)?;
    Ok(replies.iter().any(|reply| kind(reply) == Some(KIND.as_bytes())))
}

/// What kind of qdisc a reply is about. Its other attributes are of no interest, nor whether they are understood.
fn kind(reply: &[u8]) -> Option<&[u8]> {
    let attributes = NlasIterator::new(reply.get(HEADER..)?);
    let kind = attributes.flatten().find(|attribute| attribute.kind() == TCA_KIND)?;
    kind.into_inner().get(4..)?.split(|byte| *byte == 0).next()
}

fn qdisc(ifindex: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(ifindex)?);
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
    Ok(message)
}

fn filter(place: Place) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(place.ifindex)?);
    message.header.handle = place.handle.into();
    message.header.parent = place.direction.parent();
    message.header.info = u32::from(place.priority) << 16 | u32::from(ALL_PROTOCOLS);
    Ok(message)
}

/// `None` for the heading of each priority's filters, and for filters that others lead to.
fn filter_of(reply: &[u8], ifindex: u32, direction: Direction) -> Option<Filter> {
    let header = TcHeader::parse(reply).ok()?;
    let handle = u32::from(header.handle);
    let (mut name, mut program_id) = (None, None);
    // One that is not understood is a filter of others.
    let attributes = TcMessage::parse(reply).map(|message| message.attributes).unwrap_or_default();
    for attribute in attributes {
        if let TcAttribute::Chain(1..) = attribute {
            return None;
        }
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            if let TcOption::Bpf(TcFilterBpfOption::ProgName(found)) = option {
                name = Some(found);
            } else if let TcOption::Bpf(TcFilterBpfOption::ProgId(found)) = option {
                program_id = Some(found);
            }
        }
    }
    let priority = u16::try_from(header.info >> 16).ok()?;
    let place = Place { ifindex, direction, priority, handle };
    (handle != 0).then_some(Filter { place, name, program_id })
}

fn index(ifindex: u32) -> io::Result<i32> {
    i32::try_from(ifindex).map_err(io::Error::other)
}

fn ask(kind: u16, flags: u16, message: &TcMessage) -> io::Result<Vec<Vec<u8>>> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    let flags = if flags & NLM_F_DUMP == NLM_F_DUMP { flags } else { flags | NLM_F_ACK };
    RawSocket::open(NETLINK_ROUTE)?.exchange(kind, flags, &bytes)
}

/// Removing what is gone is success: the filter, its qdisc, or the interface.
fn gone_is_fine(result: io::Result<Vec<Vec<u8>>>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Ok(())
        }
        result => result.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(handle: u32, attributes: Vec<TcAttribute>) -> Vec<u8> {
        let place = Place { ifindex: 7, direction: Direction::Egress, priority: 1, handle };
        let mut message = filter(place).unwrap();
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn bpf(name: &str) -> Vec<TcAttribute> {
        vec![
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Chain(0),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
                TcOption::Bpf(TcFilterBpfOption::ProgId(42)),
            ]),
        ]
    }

    fn read(bytes: &[u8]) -> Option<Filter> {
        filter_of(bytes, 7, Direction::Egress)
    }

    #[test]
    fn a_program_is_read_with_its_name_its_id_and_its_place() {
        let filter = read(&reply(1, bpf("millrace:to_pod"))).unwrap();
        assert_eq!((filter.name.as_deref(), filter.program_id), (Some("millrace:to_pod"), Some(42)));
        assert_eq!((filter.place.priority, filter.place.handle), (1, 1));
    }

    #[test]
    fn a_filter_of_another_kind_is_one_that_sees_packets_as_well() {
        let other = vec![TcAttribute::Kind("flower".to_owned()), TcAttribute::Options(vec![])];
        assert_eq!(read(&reply(3, other)).unwrap().name, None);
        // An attribute that is cut short.
        let mut broken = reply(3, vec![]);
        broken.extend([4, 0, 0]);
        assert!(read(&broken).is_some());
    }

    #[test]
    fn the_kind_of_a_qdisc_is_read_whatever_else_is_said_of_it() {
        let mut bytes = reply(1, vec![TcAttribute::Kind(KIND.to_owned())]);
        assert_eq!(kind(&bytes), Some(KIND.as_bytes()));
        bytes.extend([9, 0, 2, 0, 7]);
        assert_eq!(kind(&bytes), Some(KIND.as_bytes()));
        assert_eq!(kind(&reply(1, vec![])), None);
        assert_eq!(kind(&[0; 7]), None);
    }

    #[test]
    fn headings_and_other_chains_are_no_filters() {
        assert_eq!(read(&reply(0, vec![TcAttribute::Kind("bpf".to_owned())])), None);
        assert_eq!(read(&reply(1, vec![TcAttribute::Kind("bpf".to_owned()), TcAttribute::Chain(5)])), None);
        assert_eq!(read(&[]), None);
    }
}
