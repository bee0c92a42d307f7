//! The backends that a UDP socket of the host keeps to. They are in the socket's own storage, so they live as long as it
//! does, and nobody else's sockets push them out.
//!
//! What searches them is global functions, which the verifier walks once. They take a [`Pin`] that holds what the caller
//! knows, and return whether the rest of it is filled in.
use aya_ebpf::{
    bindings::{BPF_ANY, bpf_sock_addr},
    helpers::generated::{bpf_spin_lock, bpf_spin_unlock},
    programs::SockAddrContext,
};
use dataplane_common::{
    net::{AddrV6, Be16},
    socket::{PINS, Pin},
};

use crate::maps::{UDP_PEERS, UDP_PINS, UdpPins};

/// Address and port, IPv4 as a mapped address.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) addr: AddrV6,
    pub(crate) port: Be16,
}

impl End {
    /// Word by word: the verifier allows no call while a lock is held, not even one of `memcmp`.
    #[inline(always)]
    fn is(self, addr: AddrV6, port: Be16) -> bool {
        let (ours, theirs) = (self.addr.0, addr.0);
        let addr =
            (ours[0] ^ theirs[0]) | (ours[1] ^ theirs[1]) | (ours[2] ^ theirs[2]) | (ours[3] ^ theirs[3]);
        addr | u32::from(self.port.raw() ^ port.raw()) == 0
    }
}

/// The pins of a socket, while its lock is held: threads may share a socket.
struct Locked(*mut UdpPins);

impl Locked {
    /// Those of a socket that has some.
    #[inline(always)]
    fn of(ctx: *mut bpf_sock_addr) -> Option<Self> {
        // Needs socket storage: v5.2, 6ac99e8f23d4.
        // SAFETY: the helper takes the socket of the context.
        Self::lock(unsafe { UDP_PINS.get_ptr_mut(&SockAddrContext::new(ctx)) })
    }

    /// Those of a socket, made if there are none. `None`: the kernel lacks memory.
    #[inline(always)]
    fn make(ctx: *mut bpf_sock_addr) -> Option<Self> {
        // SAFETY: as above.
        Self::lock(unsafe { UDP_PINS.get_or_insert_ptr_mut(&SockAddrContext::new(ctx), None) })
    }

    #[inline(always)]
    fn lock(pins: *mut UdpPins) -> Option<Self> {
        if pins.is_null() {
            return None;
        }
        // SAFETY: the lock is in a value of the map, and [`Drop`] unlocks it.
        unsafe { bpf_spin_lock(&raw mut (*pins).lock) };
        Some(Self(pins))
    }

    /// A pin; `index` is taken modulo their number.
    #[inline(always)]
    fn pin(&self, index: usize) -> *mut Pin {
        // SAFETY: the index is below the length.
        unsafe { (&raw mut (*self.0).pins).cast::<Pin>().add(index & (PINS - 1)) }
    }

    /// The first pin that fits.
    #[inline(always)]
    fn find(&self, fits: impl Fn(&Pin) -> bool) -> Option<*mut Pin> {
        for index in 0..PINS {
            let pin = self.pin(index);
            // SAFETY: the pin is in the value, and the lock is held.
            if fits(unsafe { &*pin }) {
                return Some(pin);
            }
        }
        None
    }

    /// The pin of a frontend.
    #[inline(always)]
    fn of_frontend(&self, frontend: End) -> Option<*mut Pin> {
        self.find(|pin| pin.is_used() && frontend.is(pin.frontend, pin.frontend_port))
    }

    /// The place of the next pin: each in turn, since none is ever given back.
    #[inline(always)]
    fn next(&self) -> *mut Pin {
        // SAFETY: the value is the map's, and the lock is held.
        let next = unsafe { &mut (*self.0).next };
        *next = next.wrapping_add(1);
        self.pin(*next as usize)
    }

    /// What comes from a backend is shown as from none of the frontends.
    #[inline(always)]
    fn hide(&self, backend: End) {
        for index in 0..PINS {
            // SAFETY: the pin is in the value, and the lock is held.
            let pin = unsafe { &mut *self.pin(index) };
            if backend.is(pin.backend, pin.backend_port) {
                pin.hidden = 1;
            }
        }
    }
}

impl Drop for Locked {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the lock was taken when this was made.
        unsafe { bpf_spin_unlock(&raw mut (*self.0).lock) };
    }
}

/// The backend that a socket has at a frontend, and whether what answers from there is hidden: not 0. The caller tests that
/// last, so that the verifier does not walk all it does for both.
#[inline(always)]
pub(crate) fn backend(ctx: &SockAddrContext, frontend: End) -> Option<(End, u32)> {
    let mut pin = pin(frontend, NOWHERE);
    let found = pinned_backend(ctx.sock_addr, &raw mut pin);
    (found != 0).then_some((End { addr: pin.backend, port: pin.backend_port }, pin.hidden))
}

/// The frontend that a socket asked for when it reached a backend.
#[inline(always)]
pub(crate) fn frontend(ctx: &SockAddrContext, backend: End) -> Option<End> {
    let mut pin = pin(NOWHERE, backend);
    let found = pinned_frontend(ctx.sock_addr, &raw mut pin);
    (found != 0).then_some(End { addr: pin.frontend, port: pin.frontend_port })
}

/// Remembers that a socket keeps to a backend. What answers from there is shown as this frontend. Whether there was
/// memory for it.
#[inline(always)]
#[must_use]
pub(crate) fn keep(ctx: &SockAddrContext, frontend: End, backend: End) -> bool {
    let mut pin = pin(frontend, backend);
    keep_pin(ctx.sock_addr, &raw mut pin) != 0
}

/// The socket asks for a backend by its own address: what answers from there answers as itself.
#[inline(always)]
pub(crate) fn hide(ctx: &SockAddrContext, backend: End) {
    let mut pin = pin(NOWHERE, backend);
    hide_pins(ctx.sock_addr, &raw mut pin);
}

/// Tells the agent what a socket is connected to. Where there is no room, it cannot free the socket when the backend goes.
#[inline(always)]
pub(crate) fn connected(cookie: u64, frontend: End, backend: End) {
    let _full = UDP_PEERS.insert(cookie, pin(frontend, backend), u64::from(BPF_ANY));
}

/// The socket is connected to nothing of a service.
#[inline(always)]
pub(crate) fn disconnected(cookie: u64) {
    // Most sockets have none: gone is what is wanted.
    let _gone = UDP_PEERS.remove(cookie);
}

const NOWHERE: End = End { addr: AddrV6([0; 4]), port: Be16::from_raw(0) };

#[inline(always)]
const fn pin(frontend: End, backend: End) -> Pin {
    Pin {
        frontend: frontend.addr,
        backend: backend.addr,
        frontend_port: frontend.port,
        backend_port: backend.port,
        hidden: 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pinned_backend(ctx: *mut bpf_sock_addr, wanted: *mut Pin) -> u32 {
    // SAFETY: null, or what the caller borrows.
    let Some(wanted) = (unsafe { wanted.as_mut() }) else { return 0 };
    let frontend = End { addr: wanted.frontend, port: wanted.frontend_port };
    let Some(pins) = Locked::of(ctx) else { return 0 };
    let Some(pin) = pins.of_frontend(frontend) else { return 0 };
    // SAFETY: the pin is in the value, and the lock is held.
    let pin = unsafe { &*pin };
    (wanted.backend, wanted.backend_port, wanted.hidden) = (pin.backend, pin.backend_port, pin.hidden);
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pinned_frontend(ctx: *mut bpf_sock_addr, wanted: *mut Pin) -> u32 {
    // SAFETY: null, or what the caller borrows.
    let Some(wanted) = (unsafe { wanted.as_mut() }) else { return 0 };
    let backend = End { addr: wanted.backend, port: wanted.backend_port };
    let Some(pins) = Locked::of(ctx) else { return 0 };
    let Some(pin) = pins.find(|pin| pin.is_shown() && backend.is(pin.backend, pin.backend_port)) else {
        return 0;
    };
    // SAFETY: the pin is in the value, and the lock is held.
    (wanted.frontend, wanted.frontend_port) = unsafe { ((*pin).frontend, (*pin).frontend_port) };
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn keep_pin(ctx: *mut bpf_sock_addr, wanted: *mut Pin) -> u32 {
    // SAFETY: null, or what the caller borrows.
    let Some(wanted) = (unsafe { wanted.as_ref() }) else { return 0 };
    let Some(pins) = Locked::make(ctx) else { return 0 };
    pins.hide(End { addr: wanted.backend, port: wanted.backend_port });
    let place = match pins.of_frontend(End { addr: wanted.frontend, port: wanted.frontend_port }) {
        Some(pin) => pin,
        None => pins.next(),
    };
    // SAFETY: the pin is in the value, and the lock is held.
    let place = unsafe { &mut *place };
    (place.frontend, place.frontend_port) = (wanted.frontend, wanted.frontend_port);
    (place.backend, place.backend_port) = (wanted.backend, wanted.backend_port);
    place.hidden = 0;
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hide_pins(ctx: *mut bpf_sock_addr, wanted: *mut Pin) -> u32 {
    // SAFETY: null, or what the caller borrows.
    let Some(wanted) = (unsafe { wanted.as_ref() }) else { return 0 };
    let Some(pins) = Locked::of(ctx) else { return 0 };
    pins.hide(End { addr: wanted.backend, port: wanted.backend_port });
    1
}
