//! A small kernel for QEMU's riscv64 `virt` machine that is shaped like Alien: `cargo xtask run --demo alien`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is a kernel for a riscv64 machine. `cargo xtask run --demo alien` builds and starts it.");
}
