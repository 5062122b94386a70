//! What tests need of every memory.

use virtqueue::Memory;

#[cfg(not(miri))]
use crate::bounce_memory::BounceMemory;
use crate::device_memory::DeviceMemory;
use crate::iommu_memory::IommuMemory;
use crate::scatter_memory::ScatterMemory;

/// A memory for tests that run on all of them.
pub trait TestMemory: Memory + DeviceMemory + Clone + 'static {
    /// Makes one allocation fail: the next one for 0, the one after it for 1, and so on.
    fn fail_allocation(&self, calls: u32);
    /// How many allocations were not freed yet.
    fn outstanding(&self) -> usize;
    /// Panics if something went wrong, or if something is left: allocations or mappings.
    #[track_caller]
    fn assert_clean(&self);
}

macro_rules! test_memory {
    ($Memory:ty) => {
        impl TestMemory for $Memory {
            fn fail_allocation(&self, calls: u32) {
                <$Memory>::fail_allocation(self, calls);
            }

            fn outstanding(&self) -> usize {
                <$Memory>::outstanding(self)
            }

            #[track_caller]
            fn assert_clean(&self) {
                <$Memory>::assert_clean(self);
            }
        }
    };
}

test_memory!(ScatterMemory);
test_memory!(IommuMemory);
#[cfg(not(miri))]
test_memory!(BounceMemory);
