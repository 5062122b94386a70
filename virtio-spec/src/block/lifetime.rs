//! How worn the device's storage is.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

use crate::macros::{assert_layout, named_values};

/// The answer to a GET_LIFETIME request (5.2.6 Device Operation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Lifetime {
    /// [`PreEolInfo`]: how many of the reserved blocks are consumed.
    pub pre_eol_info: U16,
    /// [`LifetimeEstimate`]: wear of the SLC cells.
    pub device_lifetime_est_typ_a: U16,
    /// [`LifetimeEstimate`]: wear of the MLC cells.
    pub device_lifetime_est_typ_b: U16,
}

assert_layout!(Lifetime, size 6, {
    pre_eol_info: 0, device_lifetime_est_typ_a: 2, device_lifetime_est_typ_b: 4,
});

named_values! {
    /// How many of the reserved blocks are consumed; other values are reserved (5.2.6).
    pub struct PreEolInfo(u16) {
        /// Not known.
        const UNDEFINED = 0;
        /// Less than 80 %.
        const NORMAL = 1;
        /// 80 %.
        const WARNING = 2;
        /// 90 %.
        const URGENT = 3;
    }
}

named_values! {
    /// How much of the estimated lifetime is used (5.2.6).
    ///
    /// A value n from 1 to 10 means up to n times 10 %; values above 11 are reserved.
    pub struct LifetimeEstimate(u16) {
        /// Not known.
        const UNDEFINED = 0;
        /// All of it, and more.
        const EXCEEDED = 11;
    }
}
