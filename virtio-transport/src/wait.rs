//! How a driver waits: the caller's policy, as there is no clock and no scheduler here.

use core::fmt;

/// A waiting policy. It is called between two looks at the device, for as long as the device is not done.
///
/// The policy decides what waiting is: spin, yield to another task, sleep until an interrupt, or give up after a
/// deadline that it reads off the kernel's clock. A closure is a policy:
///
/// ```
/// use virtio_transport::{GaveUp, Wait};
///
/// # let mut now_ns = { let mut t = 0; move || { t += 1_000; t } };
/// let deadline_ns = now_ns() + 2_000_000;
/// let mut policy = || if now_ns() < deadline_ns { Ok(()) } else { Err(GaveUp) };
/// while policy.wait().is_ok() {}
/// ```
pub trait Wait {
    /// Waits a little: until it is worth to look again.
    ///
    /// # Errors
    ///
    /// [`GaveUp`] to wait no longer. What that means is said by the function that took the policy.
    fn wait(&mut self) -> Result<(), GaveUp>;
}

impl<F: FnMut() -> Result<(), GaveUp>> Wait for F {
    #[inline]
    fn wait(&mut self) -> Result<(), GaveUp> {
        self()
    }
}

/// The caller's waiting policy did not want to wait longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaveUp;

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the waiting policy gave up before the device answered")
    }
}

impl core::error::Error for GaveUp {}

/// Spins for as long as it takes. For a device that is trusted to answer, and before a kernel has a clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spin;

impl Wait for Spin {
    #[inline]
    fn wait(&mut self) -> Result<(), GaveUp> {
        core::hint::spin_loop();
        Ok(())
    }
}

/// Spins for a number of looks, then gives up: a bound for a kernel that has no clock yet.
#[derive(Clone, Copy, Debug)]
pub struct SpinLimit {
    /// How many looks are left.
    pub looks: u64,
}

impl Wait for SpinLimit {
    #[inline]
    fn wait(&mut self) -> Result<(), GaveUp> {
        self.looks = self.looks.checked_sub(1).ok_or(GaveUp)?;
        core::hint::spin_loop();
        Ok(())
    }
}
