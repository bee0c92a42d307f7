//! When a flow is over: a pure decision. The times are netfilter's, whose users know them.
use std::time::Duration;

use dataplane_common::{conntrack::CtState, net::proto};

/// A TCP flow whose SYN nobody answered.
const TCP_UNANSWERED: Duration = Duration::from_mins(2);
/// A TCP flow that was answered but not established, or not for lack of room.
const TCP_HANDSHAKE: Duration = Duration::from_mins(5);
/// A TCP flow that both sides have finished, or that was reset.
const TCP_CLOSED: Duration = Duration::from_mins(2);
/// A TCP flow that one side has finished: kube-proxy gives netfilter this hour, because the other side may have much to
/// say yet.
const TCP_HALF_CLOSED: Duration = Duration::from_hours(1);
/// An idle TCP flow.
const TCP_ESTABLISHED: Duration = Duration::from_hours(5 * 24);
/// An idle TCP flow when room for flows runs out: more than Linux's first keepalive (2 h) and its repeats.
const TCP_ESTABLISHED_CROWDED: Duration = Duration::from_secs(8000);
/// A datagram flow in one direction only.
const DATAGRAM_UNANSWERED: Duration = Duration::from_secs(30);
/// A datagram flow in both directions.
const DATAGRAM_ANSWERED: Duration = Duration::from_mins(2);

/// A flow that policy denies: as long as something of it is still sent, it is remembered.
const DENIED: Duration = Duration::from_mins(2);

/// What is known about a flow besides its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// In the map of established flows.
    pub(super) is_established: bool,
    /// More than three quarters of that map are in use.
    pub(super) is_crowded: bool,
}

/// How long a flow may stay without a packet.
pub(super) fn timeout(proto: u8, state: &CtState, circumstances: Circumstances) -> Duration {
    if state.denied != 0 {
        return DENIED;
    }
    if proto != proto::TCP {
        return if state.replied == 0 { DATAGRAM_UNANSWERED } else { DATAGRAM_ANSWERED };
    }
    if state.closed | state.reset != 0 {
        return TCP_CLOSED;
    }
    if state.fin_original | state.fin_reply != 0 {
        return TCP_HALF_CLOSED;
    }
    match circumstances {
        Circumstances { is_established: true, is_crowded: false } => TCP_ESTABLISHED,
        Circumstances { is_established: true, is_crowded: true } => TCP_ESTABLISHED_CROWDED,
        Circumstances { is_established: false, .. } if state.replied == 0 => TCP_UNANSWERED,
        Circumstances { is_established: false, .. } => TCP_HANDSHAKE,
    }
}

/// The state of a translated flow from those of its two halves: a packet matches only one of them, so the flow is
/// as young as its younger half, and has seen what either has seen.
pub(super) fn joined(one: &CtState, other: &CtState) -> CtState {
    CtState {
        last_seen: one.last_seen.max(other.last_seen),
        replied: one.replied | other.replied,
        fin_original: one.fin_original | other.fin_original,
        fin_reply: one.fin_reply | other.fin_reply,
        closed: one.closed | other.closed,
        reset: one.reset & other.reset,
        denied: one.denied | other.denied,
        ..*one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: CtState = CtState {
        tag: 0,
        service_id: 0,
        last_seen: 0,
        epoch: 0,
        denied: 0,
        mid_stream: 0,
        half: 0,
        origin_high: 0,
        egress_rule: 0,
        ingress_rule: 0,
        from_host: 0,
        replied: 0,
        fin_original: 0,
        fin_reply: 0,
        closed: 0,
        reset: 0,
        backend_gone: 0,
        client_zone: 0,
    };
    const NEW: Circumstances = Circumstances { is_established: false, is_crowded: false };
    const ESTABLISHED: Circumstances = Circumstances { is_established: true, is_crowded: false };

    #[test]
    fn an_established_tcp_flow_outlives_keepalive_even_when_crowded() {
        let replied = CtState { replied: 1, ..STATE };
        let keepalive = Duration::from_secs(2 * 3600 + 9 * 75);
        assert!(timeout(proto::TCP, &replied, ESTABLISHED) > Duration::from_hours(24));
        let crowded = Circumstances { is_crowded: true, ..ESTABLISHED };
        assert!(timeout(proto::TCP, &replied, crowded) > keepalive);
        assert!(timeout(proto::TCP, &replied, crowded) < timeout(proto::TCP, &replied, ESTABLISHED));
    }

    #[test]
    fn a_closed_tcp_flow_goes_soon_and_a_half_closed_one_has_an_hour_wherever_it_is() {
        let fin = CtState { replied: 1, fin_reply: 1, ..STATE };
        let closed = CtState { closed: 1, ..fin };
        let reset = CtState { replied: 1, reset: 1, ..STATE };
        for circumstances in [NEW, ESTABLISHED] {
            assert_eq!(timeout(proto::TCP, &fin, circumstances), Duration::from_hours(1));
            assert_eq!(timeout(proto::TCP, &closed, circumstances), Duration::from_mins(2));
            assert_eq!(timeout(proto::TCP, &reset, circumstances), Duration::from_mins(2));
        }
    }

    #[test]
    fn a_denied_flow_is_remembered_for_two_minutes_of_silence() {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            let denied = CtState { replied: 1, denied: 1, ..STATE };
            assert_eq!(timeout(proto, &denied, ESTABLISHED), Duration::from_mins(2));
        }
    }

    #[test]
    fn a_half_open_tcp_flow_waits_for_the_retries_of_its_client() {
        // Linux retries a SYN after 1, 3, 7, 15, 31 and 63 seconds.
        assert!(timeout(proto::TCP, &STATE, NEW) > Duration::from_secs(63));
        let replied = CtState { replied: 1, ..STATE };
        assert!(timeout(proto::TCP, &replied, NEW) > timeout(proto::TCP, &STATE, NEW));
    }

    #[test]
    fn a_datagram_flow_lives_longer_once_answered() {
        let replied = CtState { replied: 1, ..STATE };
        for datagram in [proto::UDP, proto::ICMP, proto::ICMPV6] {
            assert_eq!(timeout(datagram, &STATE, NEW), Duration::from_secs(30));
            assert_eq!(timeout(datagram, &replied, ESTABLISHED), Duration::from_mins(2));
        }
    }

    #[test]
    fn two_halves_are_as_young_as_the_younger_and_remember_what_either_saw() {
        let client = CtState { last_seen: 10, fin_original: 1, ..STATE };
        let backend = CtState { last_seen: 20, replied: 1, fin_reply: 1, ..STATE };
        let flow = joined(&client, &backend);
        assert_eq!((flow.last_seen, flow.replied, flow.fin_original, flow.fin_reply), (20, 1, 1, 1));
        assert_eq!(joined(&backend, &client).last_seen, 20);
        let (reset, denied) = (CtState { reset: 1, ..client }, CtState { denied: 2, ..backend });
        assert_eq!(joined(&reset, &denied).reset, 0, "one half has seen the flow live on");
        assert_eq!(joined(&reset, &denied).denied, 2);
    }
}
