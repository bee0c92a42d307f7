//! Global functions: the verifier walks each once for any argument, where it walks another subprogram again for each
//! call and each state that a caller may be in. What it does not learn of a caller, they must not need: they take the
//! working memory and numbers, and return a number.

/// Declares `name::<F>(scratch, …)`, which calls the global function of its family; both run `body::<F>`.
macro_rules! global {
    ($(#[$doc:meta])* fn $name:ident($($argument:ident),*) -> $number:ty = $body:ident, $v4:ident, $v6:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4(
            scratch: *mut crate::flow::Scratch<dataplane_common::net::AddrV4>,
            $($argument: u32),*
        ) -> $number {
            // SAFETY: null, or what the caller below borrows.
            unsafe { scratch.as_mut() }
                .map_or(0, |scratch| $body::<crate::family::V4>(scratch, $($argument),*))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6(
            scratch: *mut crate::flow::Scratch<dataplane_common::net::AddrV6>,
            $($argument: u32),*
        ) -> $number {
            // SAFETY: null, or what the caller below borrows.
            unsafe { scratch.as_mut() }
                .map_or(0, |scratch| $body::<crate::family::V6>(scratch, $($argument),*))
        }

        $(#[$doc])*
        #[inline(always)]
        fn $name<F: crate::family::Family>(
            scratch: &mut crate::flow::Scratch<F::Addr>,
            $($argument: u32),*
        ) -> $number {
            let memory = &raw mut *scratch;
            // The family's own type of memory, behind a cast that does nothing.
            if F::IS_V6 { $v6(memory.cast(), $($argument),*) } else { $v4(memory.cast(), $($argument),*) }
        }
    };
}

pub(crate) use global;
