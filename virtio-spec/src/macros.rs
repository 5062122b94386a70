//! The two macros that keep every number and every shape of this crate in one form.

/// Defines a newtype over an integer whose values the specification names, and prints those names.
///
/// An enum would not do: a device may present any value, and a value without a name is still a value.
macro_rules! named_values {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident($Inner:ty) {
            $($(#[$doc:meta])* const $NAME:ident = $value:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $Name(pub $Inner);

        impl $Name {
            $($(#[$doc])* pub const $NAME: Self = Self($value);)*

            /// Every value that has a name here, with that name, in the order of definition.
            pub const NAMED: &'static [(&'static str, Self)] =
                &[$((stringify!($NAME), Self::$NAME)),*];

            /// The name of this value as spelled here, or `None` if it has none.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($NAME)),)*
                    _ => None,
                }
            }
        }

        /// The value's name, or the type and the number in hexadecimal.
        impl ::core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($Name), "({:#x})"), self.0),
                }
            }
        }

        /// The same as `Debug`.
        impl ::core::fmt::Display for $Name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Debug::fmt(self, f)
            }
        }
    };
}

/// Asserts at compile time the size of a structure and the offset of *every* one of its fields, in bytes.
///
/// The closure destructures the structure, so that a field that is left out here does not compile.
macro_rules! assert_layout {
    ($Struct:ident, size $size:literal, { $($field:ident: $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(::core::mem::size_of::<$Struct>() == $size);
            assert!(::core::mem::align_of::<$Struct>() == 1);
            $(assert!(::core::mem::offset_of!($Struct, $field) == $offset);)*
        };
        const _: fn($Struct) = |$Struct { $($field: _),* }| {};
    };
}

pub(crate) use {assert_layout, named_values};
