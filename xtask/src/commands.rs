//! One module per command.

pub(crate) mod bench;
pub(crate) mod matrix;
pub(crate) mod miri;
pub(crate) mod power_cuts;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod test;
