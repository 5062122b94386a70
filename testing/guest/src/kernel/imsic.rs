//! The interrupt controller for messages, an IMSIC (RISC-V Advanced Interrupt Architecture, chapter 3): a file for each
//! hart, in which a device makes interrupts pending by writing their number to an address.

use core::{
    arch::asm,
    sync::atomic::{AtomicUsize, Ordering},
};

use fdt::Fdt;
use virtio_transport::pci::MsixMessage;

/// Where the files of supervisor mode are; 0 on a machine that has none.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// How far the files of two harts are apart.
const FILE_BYTES: usize = 0x1000;
/// The external interrupt of supervisor mode, by which the tree tells its files from those of machine mode.
const SUPERVISOR_EXTERNAL: u32 = 9;

/// What can be reached behind `siselect` and `sireg`.
const EIDELIVERY: usize = 0x70;
const EITHRESHOLD: usize = 0x72;
/// A bit for each interrupt, 64 in every second register.
const EIE: [usize; 4] = [0xc0, 0xc2, 0xc4, 0xc6];

/// Finds it in the device tree.
pub(super) fn set_up(tree: &Fdt<'_>) {
    let is_ours = |node: &fdt::node::FdtNode<'_, '_>| {
        let compatible = node.compatible().is_some_and(|names| names.all().any(|name| name == "riscv,imsics"));
        let parents = node.property("interrupts-extended").map(|property| property.value).unwrap_or_default();
        // Pairs: the hart's own controller, and the interrupt there.
        compatible && parents.get(4..8) == Some(&SUPERVISOR_EXTERNAL.to_be_bytes())
    };
    let node = tree.all_nodes().find(is_ours);
    let region = node.and_then(|node| node.reg()?.next());
    BASE.store(region.map_or(0, |region| region.starting_address.addr()), Ordering::Relaxed);
}

/// Whether the machine has one.
pub(super) fn is_present() -> bool {
    BASE.load(Ordering::Relaxed) != 0
}

/// Lets this hart have messages, on a machine that has them.
pub(super) fn switch_on() {
    if is_present() {
        write(EITHRESHOLD, 0);
        EIE.into_iter().for_each(|register| write(register, !0));
        write(EIDELIVERY, 1);
    }
}

/// What a device writes, and where, to interrupt a hart.
pub(super) fn message(hart: usize, number: u32) -> MsixMessage {
    MsixMessage { address: (BASE.load(Ordering::Relaxed) + hart * FILE_BYTES) as u64, data: number }
}

/// Takes an interrupt that is pending for this hart, if there is one.
pub(super) fn claim() -> Option<u32> {
    let top: usize;
    // SAFETY: `stopei`; the write takes what the read has found. Only called on a machine that has it.
    unsafe { asm!("csrrw {}, 0x15c, zero", out(reg) top, options(nostack)) };
    let number = (top >> 16) as u32;
    (number != 0).then_some(number)
}

/// Writes a register of this hart's file.
fn write(register: usize, value: usize) {
    // SAFETY: `siselect` and `sireg`, which touch no memory. Interrupt handlers do not use them, so nothing comes between.
    unsafe { asm!("csrw 0x150, {}", "csrw 0x151, {}", in(reg) register, in(reg) value, options(nostack)) };
}
