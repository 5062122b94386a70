//! Hands the linker script to the linker, for the bare-metal kernel alone.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR for build scripts");
        println!("cargo::rustc-link-arg-bins=-T{folder}/link.ld");
    }
}
