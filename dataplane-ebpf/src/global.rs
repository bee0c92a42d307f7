//! Global functions: the verifier walks each once for any argument, where it walks another subprogram again for each
//! call and each state that a caller may be in. What it does not learn of a caller, they must not need: they take
//! numbers and, where it is needed, the context, and return a number. The working memory they look up once more: where
//! verifiers do not allow a pointer to it as an argument (before v5.13, e5069b9c23b3), or do not allow keys of maps in
//! what such a pointer points to (before v6.2, d1673304097c), it is memory of a map like any other.
use core::arch::asm;

use crate::{family::Family, flow::Scratch};

/// Runs the body of a global function in the working memory of its caller.
#[inline(always)]
pub(crate) fn in_memory_of_caller<F: Family, N: Default>(body: impl FnOnce(&mut Scratch<F::Addr>) -> N) -> N {
    // SAFETY: the memory of this CPU, which the caller has lent (see `lend`) and leaves alone until this returns.
    F::scratch().map_or_else(N::default, |scratch| body(unsafe { &mut *scratch }))
}

/// Lends the working memory to a global function, which does not take it as an argument: the compiler must expect that
/// the call reads and writes it.
#[inline(always)]
pub(crate) fn lend<A>(scratch: &mut Scratch<A>) {
    let memory = &raw mut *scratch;
    // SAFETY: a register that becomes what it is. What matters is that the compiler does not know.
    unsafe { asm!("{0} = {0}", in(reg) memory, options(nostack, preserves_flags)) };
}

/// Declares `name::<F>(scratch, …)`, which calls the global function of its family; both run `body::<F>`. With `[ctx]`
/// before the numbers, all of them take the context first.
macro_rules! global {
    ($(#[$doc:meta])* fn $name:ident($([$ctx:ident])? $($argument:ident),*) -> $number:ty = $body:ident, $v4:ident, $v6:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4($($ctx: *mut aya_ebpf::bindings::__sk_buff,)? $($argument: u32),*) -> $number {
            crate::global::in_memory_of_caller::<crate::family::V4, _>(|scratch| {
                $body::<crate::family::V4>($(&aya_ebpf::programs::TcContext::new($ctx),)? scratch, $($argument),*)
            })
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6($($ctx: *mut aya_ebpf::bindings::__sk_buff,)? $($argument: u32),*) -> $number {
            crate::global::in_memory_of_caller::<crate::family::V6, _>(|scratch| {
                $body::<crate::family::V6>($(&aya_ebpf::programs::TcContext::new($ctx),)? scratch, $($argument),*)
            })
        }

        $(#[$doc])*
        #[inline(always)]
        fn $name<F: crate::family::Family>(
            $($ctx: &aya_ebpf::programs::TcContext,)?
            scratch: &mut crate::flow::Scratch<F::Addr>,
            $($argument: u32),*
        ) -> $number {
            crate::global::lend(scratch);
            if F::IS_V6 { $v6($($ctx.skb.skb,)? $($argument),*) } else { $v4($($ctx.skb.skb,)? $($argument),*) }
        }
    };
}

pub(crate) use global;
