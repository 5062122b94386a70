//! The halves of 64-bit words.

/// Replaces the low half.
pub(crate) fn set_low(word: &mut u64, value: u32) {
    *word = *word & !u64::from(u32::MAX) | u64::from(value);
}

/// Replaces the high half.
pub(crate) fn set_high(word: &mut u64, value: u32) {
    *word = *word & u64::from(u32::MAX) | u64::from(value) << 32;
}
