//! `virtio_mmio.device=` parameters: as machine monitors write them, and as people do.

use proptest::{prelude::*, test_runner::RngSeed};
use virtio_transport::{CommandLine, MmioParameter, ParameterProblem, Region};

fn device(bytes: u64, address: u64, interrupt: u32, id: Option<i32>) -> MmioParameter {
    MmioParameter { region: Region { address, bytes }, interrupt, id }
}

fn found(line: &str) -> Vec<Result<MmioParameter, ParameterProblem>> {
    CommandLine(line).virtio_mmio().map(|device| device.map_err(|error| error.problem)).collect()
}

#[test]
fn what_monitors_write() {
    let qemu = "virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=512@0xfeb00c00:11";
    assert_eq!(found(qemu), [Ok(device(512, 0xfeb0_0e00, 12, None)), Ok(device(512, 0xfeb0_0c00, 11, None))]);
    let firecracker = "reboot=k panic=1 pci=off root=/dev/vda rw virtio_mmio.device=4K@0xd0000000:5";
    assert_eq!(found(firecracker), [Ok(device(4096, 0xd000_0000, 5, None))]);
}

#[test]
fn every_form_that_linux_takes() {
    for (text, wanted) in [
        ("0x100@0x100b0000:48", device(0x100, 0x100b_0000, 48, None)),
        ("1K@0x1001e000:74", device(1024, 0x1001_e000, 74, None)),
        ("2m@4096:1:7", device(2 << 20, 4096, 1, Some(7))),
        ("1G@0x100000000:33:-1", device(1 << 30, 1 << 32, 33, Some(-1))),
        ("010@020:10", device(8, 16, 10, None)),
        ("0x1e@0:4294967295", device(0x1e, 0, u32::MAX, None)),
        ("0x1K@0x1000:3", device(1024, 0x1000, 3, None)),
        ("1E@0:3", device(1 << 60, 0, 3, None)),
    ] {
        assert_eq!(found(&format!("virtio_mmio.device={text}")), [Ok(wanted)], "{text}");
    }
}

#[test]
fn words_are_those_of_linux() {
    let wanted = [Ok(device(512, 0x1000, 2, None))];
    for line in [
        "  \tvirtio_mmio.device=512@0x1000:2\n",
        "virtio-mmio.device=512@0x1000:2",
        "\"virtio_mmio.device=512@0x1000:2\"",
        "virtio_mmio.device=\"512@0x1000:2\"",
        "virtio_mmio.device=\"512@0x1000:2",
        "a=\"b virtio_mmio.device=1@1:1\" virtio_mmio.device=512@0x1000:2 c",
        "virtio_mmio.device=512@0x1000:2 -- virtio_mmio.device=1@1:1",
        "virtio_mmio.device virtio_mmio.devices=1 xvirtio_mmio.device=2 virtio_mmio.device=512@0x1000:2",
    ] {
        assert_eq!(found(line), wanted, "{line}");
    }
    assert_eq!(found(""), []);
    assert_eq!(found("quiet"), []);
}

#[test]
fn errors_name_the_parameter_and_what_is_wrong() {
    use ParameterProblem::{Address, Id, Interrupt, NoAddress, NoInterrupt, Size};
    for (text, problem) in [
        ("", NoAddress),
        ("4K", NoAddress),
        ("4K@0x1000", NoInterrupt),
        ("@0x1000:1", Size),
        ("0@0x1000:1", Size),
        ("4X@0x1000:1", Size),
        ("-4@0x1000:1", Size),
        ("16E@0x1000:1", Size),
        ("4K@:1", Address),
        ("4K@0x:1", Address),
        ("4K@+5:1", Address),
        ("4K@0xffffffffffffff00:1", Address),
        ("4K@0x1000:", Interrupt),
        ("4K@0x1000:0", Interrupt),
        ("4K@0x1000:0x5", Interrupt),
        ("4K@0x1000:4294967296", Interrupt),
        ("4K@0x1000:1:", Id),
        ("4K@0x1000:1:2:3", Id),
    ] {
        let line = format!("virtio_mmio.device={text} virtio_mmio.device=1@0:1");
        assert_eq!(found(&line), [Err(problem), Ok(device(1, 0, 1, None))], "{text}");
    }
    let error = CommandLine("virtio_mmio.device=4K@0x1000:0").virtio_mmio().next().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "command line: virtio_mmio.device=4K@0x1000:0: the interrupt is no decimal number from 1 on; expected \
         <size>@<address>:<interrupt>[:<id>], such as 4K@0xd0000000:5"
    );
}

/// The same cases on every run. Miri checks each access, slowly; the fast run is there for the cases.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        rng_seed: RngSeed::Fixed(0x5eed),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Any text has an end, and none panics.
    #[test]
    fn no_line_is_too_odd(line in "[virtomdece_.=@:x0-9KMGTPEé\" -]{0,80}") {
        prop_assert!(found(&line).len() <= line.len());
        let ours = format!("virtio_mmio.device={line}");
        prop_assert!(found(&ours).len() <= line.len() + 1);
    }

    /// What is written down is what is read.
    #[test]
    fn there_and_back(bytes in 1_u64..1 << 40, address in 0_u64..1 << 60, interrupt in 1_u32.., id in any::<Option<i32>>()) {
        let tail = id.map_or(String::new(), |id| format!(":{id}"));
        let line = format!("virtio_mmio.device={bytes:#x}@{address}:{interrupt}{tail}");
        prop_assert_eq!(found(&line), [Ok(device(bytes, address, interrupt, id))]);
    }
}
