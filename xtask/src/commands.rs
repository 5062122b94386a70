//! One module per command.

pub(crate) mod miri;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod test;
