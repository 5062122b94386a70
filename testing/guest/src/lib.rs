//! What the kernel in this package and the host that started it say to each other.
//!
//! The host gives [`Arguments`] on the kernel's command line. The kernel answers with [`Report`]s, one per line of its
//! console, between whatever else it prints for people. Both sides know the [`pattern`] that written files hold, so
//! that neither has to believe the other.
//!
//! The kernel itself is the binary `guest` of this package; start it with `cargo xtask run`.

#![no_std]

extern crate alloc;

mod arguments;
pub mod blocks;
mod checksum;
pub mod dump;
pub mod faults;
mod hex;
pub mod journal;
pub mod pattern;
mod report;
pub mod slices;

pub use arguments::{Arguments, ArgumentsError, MemoryKind, Ring};
pub use checksum::checksum;
pub use hex::hex;
pub use report::{Geometry, PREFIX, Report, ReportError, Topology};
