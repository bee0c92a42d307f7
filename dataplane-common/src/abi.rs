//! The macro that declares a map key or value.

/// Declares a map key or value: `repr(C)`, its exact size, and a compile-time proof that it has no padding
/// (`IntoBytes`) and that every bit pattern is a valid value (`FromBytes`).
macro_rules! abi {
    ($(#[$meta:meta])* pub struct $name:ident = $size:literal {
        $($(#[$field_meta:meta])* pub $field:ident : $ty:ty),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty),+ }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}
