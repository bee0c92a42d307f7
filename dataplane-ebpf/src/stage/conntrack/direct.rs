//! Whether any client has a direct flow to a backend beside a translated one (see `zone::DIRECT`).
use super::now;
use crate::maps::CT_DIRECT;

/// Five days, for which an established connection may be silent, in jiffies of the fastest clock that kernels are built
/// with: 1,000 a second.
const REMEMBERED: u64 = 5 * 24 * 60 * 60 * 1_000;

/// Whether there may be one.
#[inline(always)]
pub(crate) fn is_in_use() -> bool {
    let last = CT_DIRECT.get(0).copied().unwrap_or(0);
    last != 0 && now().wrapping_sub(last) < REMEMBERED
}

/// Notes that there is one.
#[inline(always)]
pub(crate) fn note() {
    if let Some(last) = CT_DIRECT.get_ptr_mut(0) {
        // SAFETY: an element of an array: it stays, and a single aligned store writes it.
        unsafe { *last = now() };
    }
}
