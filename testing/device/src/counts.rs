//! What the device has counted.

/// What the device has counted since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that read sectors, completed.
    pub reads: u64,
    /// Requests that write sectors, completed.
    pub writes: u64,
    /// Flushes, completed.
    pub flushes: u64,
    /// DISCARD requests, completed.
    pub discards: u64,
    /// WRITE_ZEROES requests, completed.
    pub write_zeroes: u64,
    /// SECURE_ERASE requests, completed.
    pub secure_erases: u64,
    /// Ranges in all of those three.
    pub ranges: u64,
    /// ZONE_APPEND requests, completed.
    pub appends: u64,
    /// Requests of other types, completed.
    pub others: u64,
    /// Completed requests, of all types, whose status was not OK.
    pub failures: u64,
    /// Sectors that were read.
    pub sectors_read: u64,
    /// Sectors that were written, also by ZONE_APPEND.
    pub sectors_written: u64,
    /// Notifications by the driver.
    pub notifications: u64,
    /// Notifications that the device had suppressed, or that brought nothing new. No driver must avoid them; a good
    /// one does.
    pub needless_notifications: u64,
    /// Interrupts for used buffers.
    pub interrupts: u64,
    /// Interrupts for configuration changes.
    pub config_interrupts: u64,
    /// Resets that were carried out.
    pub resets: u64,
    /// Reads and writes of registers and configuration.
    pub register_accesses: u64,
    /// The most requests that the device had in hand at a time.
    pub depth: u64,
}

impl Counts {
    /// All requests that were completed.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.reads
            + self.writes
            + self.flushes
            + self.discards
            + self.write_zeroes
            + self.secure_erases
            + self.appends
            + self.others
    }
}
