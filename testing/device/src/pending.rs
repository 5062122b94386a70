//! A request that the device took and has not completed.

use virtio_spec::block::RequestType;

use crate::chain::Chain;
use crate::range_requests::SectorRange;
use crate::request::Request;

/// A request that the device took and has not completed.
///
/// It is completed by [`BlockDevice::complete`](crate::BlockDevice::complete). One that is dropped is never completed.
#[derive(Clone, Debug)]
pub struct PendingRequest {
    pub(crate) queue: u16,
    pub(crate) chain: Chain,
    pub(crate) request: Request,
    /// The resets of the device and of the queue when it was taken.
    pub(crate) epochs: (u64, u64),
}

impl PendingRequest {
    /// The queue that it came from.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The chain that it came in.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The index of the chain's first descriptor, or in a packed ring the buffer's id.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.chain.id
    }

    /// What it asks for; `None` if it has no whole header.
    #[must_use]
    pub fn request_type(&self) -> Option<RequestType> {
        self.request.request_type
    }

    /// The sector in its header.
    #[must_use]
    pub fn sector(&self) -> u64 {
        self.request.sector
    }

    /// The ranges of a discard, erase or write zeroes request; none of others.
    #[must_use]
    pub fn ranges(&self) -> &[SectorRange] {
        &self.request.ranges
    }

    /// The length of its data in bytes.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.request.data_bytes()
    }
}
