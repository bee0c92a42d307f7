//! Sends packets as fast as a CPU makes them, and counts and drops them where they arrive.
//!
//! Every frame is written anew from the template: the kernel recycles the pages of live frames and does not reset
//! them, so whatever the path under test wrote into a header would be sent again.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the hook macros hand the context over by value")]

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray},
    programs::{TcContext, XdpContext},
};

/// Length of a frame, in words of eight bytes.
const WORDS: usize = 8;
/// Where IPv4 has its type of service.
const TYPE_OF_SERVICE: usize = 15;
/// Where the ports are behind a header without options, and the checksums of both protocols.
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;
const UDP_CHECKSUM: usize = 40;
const TCP_CHECKSUM: usize = 50;
/// Marks the packets of the benchmarks; nothing on the way changes it.
const MARK: u8 = 0x04;

/// What is sent. The same layout is in `bench/src/packets/template.rs`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Template {
    frame: [u64; WORDS],
    /// Sum of the checksummed words, the varying port and the checksum taken as zero.
    sum: u32,
    /// Offset of the checksum.
    checksum_at: u32,
    first_port: u32,
    /// Packets take turns over this many ports.
    flows: u32,
    /// Offset of the port that varies: the source's or the destination's.
    port_at: u32,
    reserved: u32,
}

/// Written by the measuring process before each run.
#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);

/// The number of the next packet. One generator runs at a time.
#[map]
static NEXT: Array<u64> = Array::with_max_entries(1, 0);

/// Packets that arrived. Reset and read by the measuring process.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Run by `BPF_PROG_TEST_RUN` with live frames; each goes out of the interface that the context names.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    write(&ctx).map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
}

fn write(ctx: &XdpContext) -> Option<()> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + WORDS * 8 > end {
        return None;
    }
    let template = TEMPLATE.get(0)?;
    let next = NEXT.get_ptr_mut(0)?;
    // SAFETY: the slot exists as long as the map does, and only this program writes it while it runs.
    let number = unsafe {
        let number = *next;
        *next = number + 1;
        number
    };
    let frame = start as *mut u64;
    for (index, word) in template.frame.iter().enumerate() {
        // SAFETY: the frame has WORDS words, checked above; the verifier checks it again.
        unsafe { frame.add(index).write_unaligned(*word) };
    }
    // The verifier wants no division by zero; neither does anybody else.
    let flows = u64::from(template.flows.max(1));
    #[expect(clippy::cast_possible_truncation, reason = "the flows have ports, one each")]
    let port = (u64::from(template.first_port) + number % flows) as u16;
    let checksum = fold(template.sum + u32::from(port));
    // Constants, because the verifier asks for the bounds of anything else.
    let port_at = if template.port_at as usize == SOURCE_PORT { SOURCE_PORT } else { DESTINATION_PORT };
    let checksum_at = if template.checksum_at as usize == UDP_CHECKSUM { UDP_CHECKSUM } else { TCP_CHECKSUM };
    // SAFETY: all these offsets are below the frame's length, which is checked above.
    unsafe {
        ((start + port_at) as *mut u16).write_unaligned(port.to_be());
        ((start + checksum_at) as *mut u16).write_unaligned(checksum.to_be());
    }
    Some(())
}

/// The Internet checksum of a sum of words (RFC 1071).
#[expect(clippy::cast_possible_truncation, reason = "folded twice, the sum has 16 bits")]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    // A UDP checksum of zero would mean that there is none.
    match !(twice as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// tcx ingress of a pod's own interface: counts the packets of the benchmarks and drops them.
#[classifier]
fn count(ctx: TcContext) -> i32 {
    match ctx.load::<u8>(TYPE_OF_SERVICE) {
        Ok(MARK) => {
            if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
                // SAFETY: the slot exists as long as the map does, and belongs to this CPU.
                unsafe { *arrived += 1 };
            }
            TC_ACT_SHOT
        }
        _ => TC_ACT_OK,
    }
}

/// Costs what a hook costs without a program's work: the floor of test runs.
#[classifier]
fn nothing(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
