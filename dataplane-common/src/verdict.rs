//! What a hook decides, and the numbers under which it is counted.

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a verdict must reach the hook's return value"]
pub enum Verdict {
    /// Hand the packet to the host's stack.
    Pass,
    /// The same, as if the packet had come in by this uplink.
    PassInward {
        /// The uplink.
        ifindex: u32,
    },
    /// Drop it and count why.
    Drop(DropReason),
    /// Move it into the pod behind this local interface.
    Deliver {
        /// Host side of the pod's veth pair.
        ifindex: u32,
    },
    /// Send it out of an uplink; the kernel fills in the neighbour.
    Forward {
        /// The uplink.
        ifindex: u32,
    },
    /// The packet was turned into a rejection; send it back where it came from.
    Reject {
        /// The interface it came in on.
        ifindex: u32,
    },
    /// As `Reject`, but out of the interface itself: what is attached to its egress sees the rejection.
    TurnBack {
        /// The interface it came in on.
        ifindex: u32,
    },
    /// The packet was turned into the answer to a neighbour's question; send it back where it came from.
    Answer {
        /// The interface it came in on.
        ifindex: u32,
    },
    /// What a pod may tell its link, and nobody needs to hear: it ends here, and nothing is wrong.
    Heard,
    /// A fragment that is held until the first one of its datagram has come, or that goes through the hook again.
    Held,
}

/// Where a program is attached. The numbers are ABI: they index `COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Hook {
    FromPod = 0,
    ToPod = 1,
    Connect = 2,
    Sendmsg = 3,
    FromNetdev = 4,
    ToNetdev = 5,
}

impl Hook {
    pub const COUNT: u32 = 6;
    pub const ALL: [Self; 6] =
        [Self::FromPod, Self::ToPod, Self::FromNetdev, Self::ToNetdev, Self::Connect, Self::Sendmsg];

    /// The name in output and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from-pod",
            Self::ToPod => "to-pod",
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::FromNetdev => "from-netdev",
            Self::ToNetdev => "to-netdev",
        }
    }
}

/// Slots of one hook in `COUNTERS`: outcomes below [`OUTCOMES`], drop reasons from there on.
pub const COUNTERS_PER_HOOK: u32 = 64;
/// First slot of the drop reasons.
pub const OUTCOMES: u32 = 8;

/// Outcomes that are not drops. The numbers are ABI: they index `COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    Passed = 0,
    Delivered = 1,
    Forwarded = 2,
    Rejected = 3,
    /// A socket was pointed at a backend.
    Translated = 4,
    /// ARP, neighbour discovery or a listener report of a pod: the hook answered it, or it needs no answer.
    Answered = 5,
    /// A fragment waits for the first one of its datagram; or it goes through the hook once more, where it is counted
    /// again, before or behind it.
    Held = 7,
}

impl Outcome {
    pub const ALL: [Self; 7] = [
        Self::Passed,
        Self::Delivered,
        Self::Forwarded,
        Self::Rejected,
        Self::Translated,
        Self::Answered,
        Self::Held,
    ];

    /// The name in output and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Delivered => "delivered",
            Self::Forwarded => "forwarded",
            Self::Rejected => "rejected",
            Self::Translated => "translated",
            Self::Answered => "answered",
            Self::Held => "held",
        }
    }
}

/// The slot of `COUNTERS` for an outcome.
#[must_use]
#[inline(always)]
pub const fn outcome_slot(hook: Hook, outcome: Outcome) -> u32 {
    hook as u32 * COUNTERS_PER_HOOK + outcome as u32
}

/// The slot of `COUNTERS` for a drop.
#[must_use]
#[inline(always)]
pub const fn drop_slot(hook: Hook, reason: DropReason) -> u32 {
    hook as u32 * COUNTERS_PER_HOOK + OUTCOMES + reason as u32
}

macro_rules! drop_reasons {
    ($($variant:ident = $number:literal, $name:literal, $cause:literal, $remedy:literal;)+) => {
        /// Why a packet was dropped. The numbers are ABI: they index `COUNTERS`; a retired one stays reserved.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum DropReason { $(#[doc = $cause] $variant = $number),+ }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason with a number.
            #[must_use]
            #[inline(always)]
            pub const fn numbered(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name in output and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What happened, in one sentence.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause),+ }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),+ }
            }
        }
        $(const _: () = assert!($number + OUTCOMES < COUNTERS_PER_HOOK);)+
    };
}

drop_reasons! {
    Truncated = 1, "truncated",
        "The packet is shorter than its headers say.",
        "Look for a broken sender or a capture tool that replays cut packets.";
    InvalidHeader = 2, "invalid-header",
        "A header field contradicts the protocol, for example an IPv4 header length below 20.",
        "Look for a broken or hostile sender in the pod.";
    SpoofedAddress = 3, "spoofed-address",
        "A pod sent from an address that is not its own.",
        "Send from the address that the pod was given; a pod that routes for others is not supported.";
    SpoofedMac = 4, "spoofed-mac",
        "A pod sent from a link-layer address that is not its own.",
        "Do not change the MAC address of the pod's interface.";
    PolicyEgress = 5, "policy-egress",
        "No NetworkPolicy lets this flow out of its source pod.",
        "`millrace why SOURCE -> DESTINATION:PORT` names the policies that isolate the pod and the nearest rule.";
    PolicyIngress = 6, "policy-ingress",
        "No NetworkPolicy lets this flow into its destination pod.",
        "`millrace why SOURCE -> DESTINATION:PORT` names the policies that isolate the pod and the nearest rule.";
    NoBackend = 7, "no-backend",
        "The service has no usable backend.",
        "`millrace service list` shows its backends; check the selector and the readiness of its pods.";
    NoLocalBackend = 8, "no-local-backend",
        "The service uses only backends of this node, and none is here.",
        "Run a backend on this node or set internalTrafficPolicy to Cluster.";
    FragmentWithoutFirst = 9, "fragment-without-first",
        "A fragment came before the first fragment of its datagram, which alone carries the ports, and could not be held.",
        "None needed, unless it is frequent: then look for who sends fragments out of order.";
    UnrelatedIcmpError = 10, "unrelated-icmp-error",
        "An ICMP error is about a flow that does not exist, and the pod is isolated.",
        "None needed, unless path MTU discovery fails: then report it.";
    ForbiddenIcmp = 11, "forbidden-icmp",
        "A router advertisement, a redirect or a listener query came from a pod, or for a pod from elsewhere than its node: it would change routes.",
        "Do not run a router in a pod; see CVE-2020-10749.";
    NatPortsExhausted = 12, "nat-ports-exhausted",
        "No free source port was found for a translated flow whose reply would collide with another one.",
        "Spread the client's connections over more source addresses or frontends.";
    UnsupportedProtocol = 13, "unsupported-protocol",
        "The link-layer protocol is neither IPv4, IPv6 nor ARP.",
        "Only IP leaves a pod.";
    ExtensionHeaders = 14, "extension-headers",
        "The packet has more IPv6 extension headers than are parsed.",
        "Send fewer than seven extension headers.";
    RejectFailed = 15, "reject-failed",
        "A packet to a service without backends could not be answered with a rejection.",
        "`millrace service list` shows the service; give it a ready backend.";
    SctpPortChange = 16, "sctp-port-change",
        "An SCTP flow would need another port, which the packet's CRC32c covers.",
        "Give the SCTP port of the Service the number of its targetPort.";
    MidStream = 17, "mid-stream",
        "A TCP segment that opens no connection belongs to no known flow, and policy does not let both of its ends open one.",
        "Open the connection once more: who opened one that is older than the pod's first policy, or forgotten, is not known.";
    NeighbourMalformed = 21, "neighbour-malformed",
        "An ARP, neighbour discovery or listener packet is not as its RFC wants it: hop limit, code, length, fragments.",
        "Look for a hostile sender in the pod; every kernel sends them right.";
    NeighbourElsewhere = 22, "neighbour-elsewhere",
        "ARP, neighbour discovery or a listener report was about, or sent to, something that is not on the pod's link.",
        "None needed: only the pod itself and its gateway are on the link, and this is never routed.";
    BeyondLink = 23, "beyond-link",
        "A pod sent to a link-local IPv6 address: the host would look for a neighbour of it on the pod's link.",
        "Use the address of a pod, of a service or of a node; only the pod itself and its gateway are on the link.";
    NoSuchEndpoint = 24, "no-such-endpoint",
        "A packet for a pod's interface goes to an address that no pod has there, and comes from elsewhere than the node itself.",
        "`millrace endpoint list` shows which addresses are whose; a pod that is not listed yet waits for its object.";
    SpoofedFromOutside = 25, "spoofed-from-outside",
        "A packet that came in by an uplink claims the address of a pod of this node.",
        "Look for the sender on the uplink's network by its link-layer address.";
    WrongUplink = 26, "wrong-uplink",
        "A packet claims the address of another node's pod, but came in by an interface that does not lead to that node.",
        "Look for the sender on that interface; if nodes do reach this one by it, name it with --uplink.";
    UnknownServicePort = 27, "unknown-service-port",
        "A packet to the address of a service, to none of its ports or from outside the cluster, that is not answered: a reset, an error or a fragment.",
        "`millrace service list` shows the ports of the service.";
    RejectionLimit = 28, "rejection-limit",
        "A packet that nobody answers was not answered with an ICMP error: its interface got a hundred of them in that second.",
        "Find out what keeps on sending: the service that it asks for has no such port or no ready backend.";
    FragmentOverlap = 30, "fragment-overlap",
        "A first fragment ends before the header that says what it is, or a later one begins within that header.",
        "Look for a hostile sender: no kernel cuts a datagram like this.";
    FragmentTooLong = 31, "fragment-too-long",
        "A fragment came before the first fragment of its datagram, and is longer than what can be held.",
        "Use an MTU below 1,950 where fragments change places, or datagrams that need no fragments.";
    SourceRouted = 32, "source-routed",
        "A packet has a source route (IPv4), or a routing header with segments left (IPv6): policy would judge where it goes first, and not where it goes in the end.",
        "Send it without; no kernel takes one unless it is told to.";
}
