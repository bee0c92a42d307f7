//! Global functions: the verifier walks each once for any argument, where it walks another subprogram again for each
//! call and each state that a caller may be in. What it does not learn of a caller, they must not need: they take the
//! working memory and numbers, where it is needed the context, and return a number.

/// Declares `name::<F>(scratch, …)`, which calls the global function of its family; both run `body::<F>`. With `[ctx]`
/// before the numbers, all of them take the context first.
macro_rules! global {
    ($(#[$doc:meta])* fn $name:ident($([$ctx:ident])? $($argument:ident),*) -> $number:ty = $body:ident, $v4:ident, $v6:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4(
            $($ctx: *mut aya_ebpf::bindings::__sk_buff,)?
            scratch: *mut crate::flow::Scratch<dataplane_common::net::AddrV4>,
            $($argument: u32),*
        ) -> $number {
            // SAFETY: null, or what the caller below borrows.
            unsafe { scratch.as_mut() }
                .map_or(0, |scratch| $body::<crate::family::V4>($(&aya_ebpf::programs::TcContext::new($ctx),)? scratch, $($argument),*))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6(
            $($ctx: *mut aya_ebpf::bindings::__sk_buff,)?
            scratch: *mut crate::flow::Scratch<dataplane_common::net::AddrV6>,
            $($argument: u32),*
        ) -> $number {
            // SAFETY: null, or what the caller below borrows.
            unsafe { scratch.as_mut() }
                .map_or(0, |scratch| $body::<crate::family::V6>($(&aya_ebpf::programs::TcContext::new($ctx),)? scratch, $($argument),*))
        }

        $(#[$doc])*
        #[inline(always)]
        fn $name<F: crate::family::Family>(
            $($ctx: &aya_ebpf::programs::TcContext,)?
            scratch: &mut crate::flow::Scratch<F::Addr>,
            $($argument: u32),*
        ) -> $number {
            let memory = &raw mut *scratch;
            // The family's own type of memory, behind a cast that does nothing.
            if F::IS_V6 {
                $v6($($ctx.skb.skb,)? memory.cast(), $($argument),*)
            } else {
                $v4($($ctx.skb.skb,)? memory.cast(), $($argument),*)
            }
        }
    };
}

pub(crate) use global;
