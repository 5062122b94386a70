//! The forms that a queue's ring has, and the device's end of each.
#![allow(unused_macros, reason = "each file of tests uses a part of it")]

use std::sync::Arc;

use testing_device::{
    DeviceMemory, DeviceRing, PackedDeviceRing, RawEvent, RawPackedDescriptor, RawPackedRing, RawRing, RingMover,
    RingSetup, Violation,
};
use virtqueue::{Either, Packed, RingFormat, Split};

/// A form of the ring in which a test runs.
pub(crate) trait Form: 'static {
    type Format: RingFormat + 'static;
    type Device: DeviceEnd + 'static;
    /// RING_PACKED was negotiated.
    const PACKED: bool;
}

/// A queue that may have a ring of either form, on a device that has negotiated a split one.
pub(crate) struct EitherSplit;

/// A queue that may have a ring of either form, on a device that has negotiated a packed one.
pub(crate) struct EitherPacked;

impl Form for Split {
    type Format = Split;
    type Device = DeviceRing;
    const PACKED: bool = false;
}

impl Form for Packed {
    type Format = Packed;
    type Device = PackedDeviceRing;
    const PACKED: bool = true;
}

impl Form for EitherSplit {
    type Format = Either;
    type Device = DeviceRing;
    const PACKED: bool = false;
}

impl Form for EitherPacked {
    type Format = Either;
    type Device = PackedDeviceRing;
    const PACKED: bool = true;
}

/// The device's end of a ring.
pub(crate) trait DeviceEnd: RingMover + Sized {
    type Raw;
    fn new(memory: Arc<dyn DeviceMemory>, setup: RingSetup) -> Self;
    fn raw(&self) -> &Self::Raw;
    fn setup(&self) -> &RingSetup;
    fn violations(&self) -> &[Violation];

    /// Panics if what a driver has to initialise with zeroes has something else in it.
    #[track_caller]
    fn assert_zeroed(&self);
}

impl DeviceEnd for DeviceRing {
    type Raw = RawRing;

    fn new(memory: Arc<dyn DeviceMemory>, setup: RingSetup) -> Self {
        Self::new(memory, setup)
    }

    fn raw(&self) -> &RawRing {
        self.raw()
    }

    fn setup(&self) -> &RingSetup {
        self.raw().setup()
    }

    fn violations(&self) -> &[Violation] {
        self.violations()
    }

    fn assert_zeroed(&self) {
        let raw = self.raw();
        let fields = [raw.available_idx(), raw.used_idx(), raw.used_flags(), raw.avail_event()];
        assert_eq!(fields, [Ok(0); 4]);
    }
}

impl DeviceEnd for PackedDeviceRing {
    type Raw = RawPackedRing;

    fn new(memory: Arc<dyn DeviceMemory>, setup: RingSetup) -> Self {
        Self::new(memory, setup)
    }

    fn raw(&self) -> &RawPackedRing {
        self.raw()
    }

    fn setup(&self) -> &RingSetup {
        self.raw().setup()
    }

    fn violations(&self) -> &[Violation] {
        self.violations()
    }

    fn assert_zeroed(&self) {
        for offset in 0..self.setup().size {
            let zero = RawPackedDescriptor { address: 0, bytes: 0, id: 0, flags: 0 };
            assert_eq!(self.raw().descriptor(offset), Ok(zero), "descriptor {offset}");
        }
        assert_eq!(self.raw().device_event(), Ok(RawEvent::default()));
    }
}

/// Makes a test of each function for each form of the ring. A function may have attributes.
macro_rules! in_every_form {
    ($($tests:tt)*) => {
        crate::common::forms::tests_in!(split, virtqueue::Split, $($tests)*);
        crate::common::forms::tests_in!(packed, virtqueue::Packed, $($tests)*);
        // Under Miri, which is slow, `Either` is shown with the packed ring alone.
        #[cfg(not(miri))]
        crate::common::forms::tests_in!(either_split, crate::common::EitherSplit, $($tests)*);
        crate::common::forms::tests_in!(either_packed, crate::common::EitherPacked, $($tests)*);
    };
}

/// Makes a test of each function for both packed rings.
macro_rules! in_packed_forms {
    ($($tests:tt)*) => {
        crate::common::forms::tests_in!(packed, virtqueue::Packed, $($tests)*);
        #[cfg(not(miri))]
        crate::common::forms::tests_in!(either_packed, crate::common::EitherPacked, $($tests)*);
    };
}

macro_rules! tests_in {
    ($module:ident, $Form:ty, $($(#[$attribute:meta])* $test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                $(#[$attribute])*
                fn $test() {
                    super::$test::<$Form>();
                }
            )*
        }
    };
}

#[allow(unused_imports, reason = "each file of tests uses a part of it")]
pub(crate) use {in_every_form, in_packed_forms, tests_in};
