use super::*;

fn packet(text: &str) -> Packet {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn text_form_survives_the_way_to_bytes_and_back() {
    for text in [
        "10.0.0.5:4000 > 10.96.0.10:53 udp",
        "10.0.0.5:4000 > 10.96.0.10:53 udp len 12",
        "10.0.0.5:4000 > 10.96.0.10:80 tcp [SA] ttl 3",
        "[fd00::5]:4000 > [fd00::a]:80 tcp [PA] len 7 vlan 9",
        "[fd00::5]:4000 > [fd00::a]:80 sctp",
        "10.0.0.5 > 10.0.0.6 icmp 8/0 len 3",
        "fd00::5 > fd00::6 icmp 128/0",
    ] {
        let built = packet(text).bytes();
        let parsed = verify(&built).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed, packet(text), "{text}");
        assert_eq!(parsed.to_string(), text);
    }
}

#[test]
fn checksums_of_a_udp_packet_hold_by_their_definition() {
    let mut wanted = packet("10.0.0.5:4000 > 10.96.0.10:53 udp");
    let Some(Transport::Udp { data, .. }) = wanted.transport_mut() else { panic!("not UDP") };
    *data = vec![0xde, 0xad, 0xbe, 0xef];
    let bytes = wanted.ip_bytes().expect("IP");
    assert_eq!(bytes[..4], [0x45, 0, 0, 32]);
    assert!(internet_checksum(&[&bytes[..20]]) == 0, "the header sums to zero");
    let pseudo = [&bytes[12..20], &[0, 17, 0, 12][..]].concat();
    assert_eq!(internet_checksum(&[&pseudo, &bytes[20..]]), 0);
}

#[test]
fn a_wrong_checksum_is_found() {
    for text in
        ["10.0.0.5:1 > 10.0.0.6:2 tcp", "[fd00::5]:1 > [fd00::6]:2 udp len 9", "fd00::5 > fd00::6 icmp"]
    {
        let mut bytes = packet(text).bytes();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(matches!(verify(&bytes), Err(PacketError::Differs { .. })), "{text}");
    }
}

#[test]
fn a_cut_packet_names_the_header_that_is_cut() {
    let bytes = packet("10.0.0.5:1 > 10.0.0.6:2 tcp").bytes();
    assert_eq!(parse(&bytes[..10]), Err(PacketError::Truncated("Ethernet")));
    assert_eq!(parse(&bytes[..30]), Err(PacketError::Truncated("IPv4")));
    assert_eq!(parse(&bytes[..40]), Err(PacketError::Truncated("IPv4")));
}

#[test]
fn options_and_extension_headers_survive_the_way_to_bytes_and_back() {
    let mut v4 = packet("10.0.0.5:1 > 10.0.0.6:2 tcp");
    let Network::V4(ip) = &mut v4.network else { panic!("not IPv4") };
    ip.options = vec![0x94, 4, 0, 0];
    assert_eq!(verify(&v4.bytes()).as_ref(), Ok(&v4));

    let mut v6 = packet("[fd00::5]:1 > [fd00::6]:2 udp len 5");
    let Network::V6(ip) = &mut v6.network else { panic!("not IPv6") };
    ip.extensions = vec![
        Extension { kind: ExtensionKind::HopByHop, body: vec![5, 2, 0, 0, 1, 0] },
        Extension { kind: ExtensionKind::Authentication, body: vec![0; 14] },
        Extension {
            kind: ExtensionKind::DestinationOptions,
            body: vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        },
    ];
    assert_eq!(verify(&v6.bytes()).as_ref(), Ok(&v6));
    assert_eq!(
        v6.to_string(),
        "[fd00::5]:1 > [fd00::6]:2 udp len 5 HopByHop Authentication DestinationOptions"
    );
}

#[test]
fn fragments_carry_the_whole_datagram_in_pieces() {
    for text in ["10.0.0.5:1 > 10.0.0.6:2 udp len 100", "[fd00::5]:1 > [fd00::6]:2 udp len 100"] {
        let whole = packet(text);
        let fragments = whole.fragments(0x77, 40);
        assert_eq!(fragments.len(), 3, "108 bytes in pieces of 40");
        let mut datagram: Vec<u8> = Vec::new();
        for fragment in &fragments {
            let parsed = verify(&fragment.bytes()).expect("a fragment is a packet");
            assert_eq!(&parsed, fragment);
            let Some(Payload::Fragment { offset, bytes, .. }) = parsed.payload() else {
                panic!("not a fragment")
            };
            assert_eq!(usize::from(*offset) * 8, datagram.len());
            datagram.extend(bytes);
        }
        let (source, destination) = whole.addresses().expect("IP");
        assert_eq!(datagram, whole.transport().expect("whole").bytes(source, destination));
        assert!(fragments[2].to_string().ends_with("udp fragment 0x77 80..108"), "{}", fragments[2]);
    }
}

#[test]
fn an_icmp_error_quotes_the_packet_it_is_about() {
    let about = packet("10.0.0.5:4000 > 10.0.0.6:80 tcp");
    let error = Transport::icmp_error(3, 4, [0, 0, 5, 0], &about, 8);
    let Transport::Icmp { data, .. } = &error else { panic!("not ICMP") };
    assert_eq!(data.len(), 28);
    let packet = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 5].into(), error);
    assert_eq!(verify(&packet.bytes()), Ok(packet));
}

#[test]
fn a_text_that_is_no_packet_names_the_word() {
    let error = "10.0.0.5:1 > fd00::1 tcp".parse::<Packet>().expect_err("two families");
    assert_eq!(error.to_string(), "\"fd00::1\" is not of the family of the source");
    let error = "10.0.0.5:1 > 10.0.0.6:2 tpc".parse::<Packet>().expect_err("no such protocol");
    assert_eq!(error.to_string(), "\"tpc\" is not a protocol: tcp, udp, sctp or icmp");
    let error = "10.0.0.5:1 > 10.0.0.6:2 tcp ttl 300".parse::<Packet>().expect_err("too large");
    assert_eq!(error.to_string(), "\"300\" is not a number that fits");
}
