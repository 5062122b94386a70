//! A virtio device on a PCI bus: its capabilities, its registers access by access, its interrupts.

mod machine;

use machine::{
    INTERRUPT_DISABLE, Mapped, Node, Pcie, WINDOWS,
    device::{
        self, Access, BAR, BAR_BYTES, COMMON, COMMON_BYTES, COMMON_CFG, CONFIG, CONFIG_BYTES, DEVICE_CFG, ISR, ISR_CFG,
        NOTIFY, NOTIFY_BYTES, NOTIFY_CFG, Queue, TABLE_BAR, VECTORS, capabilities, capability, msix_capability,
    },
};
use virtio_spec::pci::CapabilityType;
use virtio_transport::{
    DeviceStatus, DeviceType, Interface, Interrupt, InterruptStatus, Negotiation, Notifier, QueueConfig, QueueError,
    QueueResetError, Running, Spin, SpinLimit, Transport,
    pci::{CapabilityProblem, Host, MsixError, MsixMessage, Pci, PciAddress, PciError, Window},
    read_config,
};

const VERSION_1: u64 = 1 << 32;
const NOTIFICATION_DATA: u64 = 1 << 38;
const NOTIF_CONFIG_DATA: u64 = 1 << 39;
const RING_RESET: u64 = 1 << 40;

/// A machine with one function, which has addresses.
struct Bench {
    machine: Pcie,
    host: Host<'static, Pcie>,
}

impl Bench {
    fn new(node: Node) -> Self {
        let machine = Pcie::new(vec![node]);
        // SAFETY: there is no memory that a device of this machine could reach.
        let host = unsafe { Host::new(machine.clone(), 0..=0, &WINDOWS) };
        host.assign();
        Self { machine, host }
    }

    fn address(&self) -> PciAddress {
        self.host.functions().next().unwrap().address()
    }

    fn probe(&self) -> Result<Option<Pci<Mapped>>, PciError> {
        let function = self.host.functions().next().unwrap();
        let found = Pci::probe(&function, |region| self.machine.map(region));
        if function.virtio_type().is_some() && self.machine.with(self.address(), |node| node.virtio.is_some()) {
            self.log();
        }
        found
    }

    fn open(&self) -> Pci<Mapped> {
        self.probe().unwrap().unwrap()
    }

    fn use_msix(&self, device: &mut Pci<Mapped>, messages: &[MsixMessage]) -> Result<(), MsixError> {
        device.use_msix(&self.host.functions().next().unwrap(), messages)
    }

    /// The accesses to BAR 4 since the last call.
    fn log(&self) -> Vec<Access> {
        self.machine.device(self.address(), |device| device.log())
    }

    fn device<V>(&self, what: impl FnOnce(&mut device::Device) -> V) -> V {
        self.machine.device(self.address(), what)
    }

    fn run(&self, device: Pci<Mapped>, features: u64) -> Result<Running<Pci<Mapped>>, QueueError> {
        self.device(|device| device.features |= features);
        let negotiation = Negotiation::begin(device, DeviceType::BLOCK, &mut Spin).unwrap();
        let mut setup = negotiation.accept(VERSION_1 | features).unwrap();
        for index in 0..3 {
            setup.enable_queue(&queue(index))?;
        }
        Ok(setup.start())
    }
}

fn queue(index: u16) -> QueueConfig {
    QueueConfig {
        index,
        size: 8,
        descriptor_area: 0x1122_3344_5566_7000,
        driver_area: 0x1122_3344_5566_7080,
        device_area: 0xffff_ffff_0000_0000,
    }
}

fn bench() -> Bench {
    Bench::new(device::block(1))
}

fn r(width: usize, offset: u64, value: u32) -> Access {
    Access('r', width, offset, value)
}

fn w(width: usize, offset: u64, value: u32) -> Access {
    Access('w', width, offset, value)
}

#[test]
fn probing_maps_each_structure_and_touches_none() {
    let bench = bench();
    let function = bench.host.functions().next().unwrap();
    let device = Pci::probe(&function, |region| bench.machine.map(region)).unwrap().unwrap();
    assert_eq!(bench.log(), []);
    assert_eq!((device.device_type(), device.interface()), (DeviceType::BLOCK, Interface::Modern));
    assert_eq!((device.config_bytes(), device.msix_vectors()), (CONFIG_BYTES as usize, VECTORS));
    let bars = bench.machine.with(bench.address(), |node| node.bars());
    let (table, bar) = (bars[0].1, bars[1].1);
    let mapped: Vec<_> =
        bench.machine.0.borrow().mapped.iter().map(|it| (it.address - 0x9_0000_0000, it.bytes)).collect();
    // What a structure has beyond the fields known here is not mapped.
    assert_eq!(
        mapped,
        [(bar, 64), (bar + 0x3000, 0x1000), (bar + 0x1000, 1), (bar + 0x2000, 0x40), (table + 0x800, 16 * 5)]
    );
}

#[test]
fn features_status_and_configuration_with_the_widths_of_their_fields() {
    let bench = bench();
    let mut device = bench.open();
    assert_eq!(device.device_features(), 0x181_3000_0254);
    assert_eq!(bench.log(), [w(32, 0, 0), r(32, 4, 0x3000_0254), w(32, 0, 1), r(32, 4, 0x181)]);
    device.set_driver_features(0x1234_5678_9abc_def0);
    assert_eq!(bench.log(), [w(32, 8, 0), w(32, 12, 0x9abc_def0), w(32, 8, 1), w(32, 12, 0x1234_5678)]);
    device.set_status(DeviceStatus::ACKNOWLEDGE);
    assert_eq!(device.status(), DeviceStatus::ACKNOWLEDGE);
    assert_eq!(bench.log(), [w(8, 20, 1), r(8, 20, 1)]);
    assert_eq!(device.config_generation(), Some(3));
    assert_eq!(bench.log(), [r(8, 21, 3)]);
    device.write_config_u8(0x20, 0xab);
    let value = read_config(&device, |config| Ok((config.u8(0x20)?, config.u16(2)?, config.u64(8)?)));
    assert_eq!(value, Ok((0xab, 0x0302, 0x0f0e_0d0c_0b0a_0908)));
    assert_eq!(
        bench.log(),
        [
            w(8, 0x2020, 0xab),
            r(8, 21, 3),
            r(8, 0x2020, 0xab),
            r(16, 0x2002, 0x302),
            r(32, 0x2008, 0x0b0a_0908),
            r(32, 0x200c, 0x0f0e_0d0c),
            r(8, 21, 3)
        ]
    );
    assert!(read_config(&device, |config| config.u8(CONFIG_BYTES as usize)).is_err());
    assert!(read_config(&device, |config| config.u32(CONFIG_BYTES as usize - 2)).is_err());
}

#[test]
fn a_queue_with_the_pin() {
    let bench = bench();
    let mut device = bench.open();
    assert_eq!((device.max_queue_size(2), device.queue_in_use(2), device.max_queue_size(3)), (256, false, 0));
    bench.log();
    assert_eq!(device.enable_queue(&queue(2)), Ok(()));
    assert_eq!(
        bench.log(),
        [
            w(16, 22, 2),
            r(16, 30, 2),
            w(16, 24, 8),
            w(32, 32, 0x5566_7000),
            w(32, 36, 0x1122_3344),
            w(32, 40, 0x5566_7080),
            w(32, 44, 0x1122_3344),
            w(32, 48, 0),
            w(32, 52, 0xffff_ffff),
            w(16, 28, 1),
            r(16, 28, 1),
        ]
    );
    assert!(device.queue_in_use(2));
    bench.device(|device| device.takes_queues = false);
    assert_eq!(device.enable_queue(&queue(1)), Err(QueueError::NotEnabled { queue: 1 }));
}

#[test]
fn notifications() {
    let bench = bench();
    let device = bench.open();
    let notifier = device.notifier(2, false);
    assert_eq!(bench.log(), [w(16, 22, 2), r(16, 30, 2)]);
    notifier.notify(0x8001);
    assert_eq!(bench.log(), [w(16, 0x3008, 2)]);
    device.notifier(1, true).notify(0x8001);
    assert_eq!(bench.log().last(), Some(&w(32, 0x3004, 0x8001_0001)));

    // With NOTIF_CONFIG_DATA, the device chooses what it hears.
    let running = bench.run(device, NOTIF_CONFIG_DATA).unwrap();
    let notifier = running.notifier(2);
    assert_eq!(bench.log().last(), Some(&r(16, 30, 2)));
    notifier.notify(7);
    assert_eq!(bench.log(), [w(16, 0x3008, 0x702)]);

    let running = bench.run(bench.open(), NOTIFICATION_DATA | NOTIF_CONFIG_DATA).unwrap();
    bench.log();
    running.notifier(0).notify(7);
    assert_eq!(bench.log().last(), Some(&w(32, 0x3000, 0x0007_0700)));
}

#[test]
fn all_queues_may_be_notified_at_one_place() {
    let mut capabilities = capabilities();
    // A region of two bytes, at a place that is a multiple of no more than two.
    capabilities[2] = vec![NOTIFY_CFG_WORD, BAR as u32, 0x3ffe, 2, 0];
    let bench = Bench::new(device::with_capabilities(1, &capabilities));
    let running = bench.run(bench.open(), 0).unwrap();
    bench.log();
    running.notifier(1).notify(0);
    running.notifier(2).notify(0);
    let writes: Vec<_> = bench.log().into_iter().filter(|it| it.0 == 'w' && it.2 >= 0x3000).collect();
    assert_eq!(writes, [w(16, 0x3ffe, 1), w(16, 0x3ffe, 2)]);
    // But not with 32 bits.
    let error = bench.run(bench.open(), NOTIFICATION_DATA).unwrap_err();
    assert_eq!(error, QueueError::NotifyOutside { queue: 0, offset: 0, bytes: 2 });
}

const NOTIFY_CFG_WORD: u32 = 0x0214_0009;

#[test]
fn a_place_for_notifications_outside_of_their_structure_is_an_error_before_the_device_knows_the_queue() {
    for (multiplier, notify_off, offset) in [
        (4, 0x400, 0x1000),
        (u32::MAX, 0xffff, 0xfffe_ffff_0001),
        (0x1_0001, 0xffff, 0xffff_ffff),
        // Inside, but not a multiple of 2.
        (1, 1, 1),
    ] {
        let mut capabilities = capabilities();
        capabilities[2][4] = multiplier;
        let bench = Bench::new(device::with_capabilities(1, &capabilities));
        bench.device(|device| device.queues[1].notify_off = notify_off);
        let mut device = bench.open();
        let error = device.enable_queue(&queue(1)).unwrap_err();
        assert_eq!(error, QueueError::NotifyOutside { queue: 1, offset, bytes: 0x1000 });
        assert!(error.to_string().contains(&format!("{offset:#x}")), "{error}");
        assert_eq!(bench.device(|device| (device.queues[1].enable, device.queues[1].areas)), (0, [0; 6]));
        // And a notifier for it reaches nothing.
        bench.log();
        device.notifier(1, false).notify(1);
        assert_eq!(bench.log(), [w(16, 22, 1), r(16, 30, notify_off.into())]);
    }
}

#[test]
fn reading_the_reason_of_the_pin_acknowledges_it() {
    let bench = bench();
    let interrupt = bench.open().interrupt();
    for (isr, causes) in [
        (0, InterruptStatus::empty()),
        (1, InterruptStatus::USED_BUFFER),
        (2, InterruptStatus::CONFIGURATION_CHANGE),
        (0xff, InterruptStatus::all()),
    ] {
        bench.device(|device| device.isr = isr);
        assert_eq!(interrupt.acknowledge(), causes);
        assert_eq!(bench.log(), [r(8, 0x1000, isr.into())]);
        assert_eq!(bench.device(|device| device.isr), 0);
    }
    // Vectors mean nothing to a pin.
    bench.device(|device| device.isr = 1);
    assert_eq!(interrupt.for_vector(0).acknowledge(), InterruptStatus::USED_BUFFER);
}

fn message(number: u32) -> MsixMessage {
    MsixMessage { address: 0x12_2800_0000 + u64::from(number), data: 0x100 + number }
}

fn messages(count: u32) -> Vec<MsixMessage> {
    (0..count).map(message).collect()
}

#[test]
fn a_message_for_each_queue() {
    let bench = bench();
    let mut device = bench.open();
    bench.use_msix(&mut device, &messages(4)).unwrap();
    let table = bench.device(|device| device.table);
    for (number, entry) in (0..).zip(table.chunks_exact(4)) {
        let wanted = if number < 4 { [0x2800_0000 + number, 0x12, 0x100 + number, 0] } else { [0; 4] };
        assert_eq!(entry, wanted);
    }
    // Enabled, not masked; and the pin is switched off.
    let (control, command) = bench.machine.with(bench.address(), |node| (node.space[16] >> 30, node.space[1]));
    assert_eq!((control, command & INTERRUPT_DISABLE), (0b10, INTERRUPT_DISABLE));

    let running = bench.run(device, 0).unwrap();
    assert_eq!(bench.device(|device| device.config_vector), 0);
    let vectors = || bench.device(|device| device.queues.iter().map(|queue| queue.vector).collect::<Vec<_>>());
    assert_eq!(vectors(), [1, 2, 3]);

    // A message says why it came by its vector, and the device is not asked.
    bench.log();
    let interrupt = running.interrupt();
    assert_eq!(interrupt.acknowledge(), InterruptStatus::all());
    assert_eq!(interrupt.clone().for_vector(0).acknowledge(), InterruptStatus::CONFIGURATION_CHANGE);
    assert_eq!(interrupt.for_vector(2).acknowledge(), InterruptStatus::USED_BUFFER);
    assert_eq!(bench.log(), []);

    // After a reset the device knows no vectors any more; it is told again.
    let device = running.reset(&mut Spin).unwrap();
    assert_eq!(vectors(), [0xffff; 3]);
    bench.run(device, 0).unwrap();
    assert_eq!((vectors(), bench.device(|device| device.config_vector)), (vec![1, 2, 3], 0));

    // Who looks at the function anew begins with the pin.
    let device = bench.open();
    let (control, command) = bench.machine.with(bench.address(), |node| (node.space[16] >> 31, node.space[1]));
    assert_eq!((control, command & INTERRUPT_DISABLE), (0, 0));
    bench.run(device, 0).unwrap();
    assert_eq!(vectors(), [0xffff; 3]);
}

#[test]
fn fewer_messages_than_queues_are_shared() {
    for (count, wanted) in [(1, [0, 0, 0]), (2, [1, 1, 1]), (3, [1, 2, 1])] {
        let bench = bench();
        let mut device = bench.open();
        bench.use_msix(&mut device, &messages(count)).unwrap();
        let running = bench.run(device, 0).unwrap();
        let vectors: Vec<_> = bench.device(|device| device.queues.iter().map(|queue| queue.vector).collect());
        assert_eq!(vectors, wanted, "{count} messages");
        if count == 1 {
            assert_eq!(running.interrupt().for_vector(0).acknowledge(), InterruptStatus::all());
        }
    }
}

#[test]
fn a_vector_that_the_device_does_not_take_is_an_error_before_it_knows_the_queue() {
    for (room, queue) in [(0, None), (1, Some(0)), (2, Some(1))] {
        let bench = bench();
        bench.device(|device| device.vectors_taken = room);
        let mut device = bench.open();
        bench.use_msix(&mut device, &messages(4)).unwrap();
        let error = bench.run(device, 0).unwrap_err();
        assert_eq!(error, QueueError::NoVector { queue, vector: queue.map_or(0, |queue| queue + 1) });
        let told = bench.device(|device| device.queues.iter().filter(|queue| queue.areas != [0; 6]).count());
        assert_eq!(told, usize::from(queue.unwrap_or(0)));
        // The driver has given up, and the host can see it.
        assert_eq!(bench.device(|device| device.status & 0x80), 0x80);
    }
}

#[test]
fn messages_that_the_device_cannot_have() {
    let bench = bench();
    let mut device = bench.open();
    let address = bench.address();
    let wrong = |found| MsixError::WrongCount { address, found, max: VECTORS };
    assert_eq!(bench.use_msix(&mut device, &[]), Err(wrong(0)));
    assert_eq!(bench.use_msix(&mut device, &messages(6)), Err(wrong(6)));
    assert_eq!(wrong(6).to_string(), "virtio function 0000:00:01.0: 6 messages, expected from 1 to 5");

    let other = Bench::new(device::block(9));
    let error = other.use_msix(&mut device, &messages(1)).unwrap_err();
    assert_eq!(error, MsixError::WrongFunction { expected: address, found: other.address() });

    // No capability, or a table that is not in its BAR: the pin is left.
    for damaged in
        [msix_capability(VECTORS, TABLE_BAR as u8, 0xff0), msix_capability(1, 0, 0), msix_capability(1, 7, 0)]
    {
        let mut capabilities = capabilities();
        capabilities[0] = damaged;
        let bench = Bench::new(device::with_capabilities(1, &capabilities));
        let mut device = bench.open();
        assert_eq!(device.msix_vectors(), 0);
        assert_eq!(bench.use_msix(&mut device, &messages(1)), Err(MsixError::NotSupported { address }));
    }
    let bench = Bench::new(device::with_capabilities(1, &capabilities()[1..]));
    assert_eq!(bench.open().msix_vectors(), 0);
}

/// What probing says when one capability of a good device is another.
fn with(index: usize, words: Vec<u32>) -> Result<Option<Pci<Mapped>>, PciError> {
    let mut capabilities = capabilities();
    capabilities[index] = words;
    Bench::new(device::with_capabilities(1, &capabilities)).probe()
}

#[test]
fn capabilities_that_lead_nowhere() {
    let bar = BAR as u8;
    let bytes = BAR_BYTES;
    use CapabilityProblem::{CapabilityTooShort, NoMemoryBar, OutsideBar, ReservedBar, StructureTooShort, Unaligned};
    let shorter = |mut words: Vec<u32>, cap_len: u32| {
        words[0] = words[0] & 0xff00_ffff | cap_len << 16;
        words
    };
    let outside = |offset, length| OutsideBar { bar, offset, length, bytes };
    let common = |bar, offset, length| capability(COMMON_CFG, bar, offset, length);
    for (index, words, problem) in [
        (5, shorter(common(bar, 0, 64), 15), CapabilityTooShort { bytes: 15, needed: 16 }),
        (5, shorter(common(bar, 0, 64), 0), CapabilityTooShort { bytes: 0, needed: 16 }),
        (5, common(bar, 0, 55), StructureTooShort { bytes: 55, needed: 56 }),
        (5, common(6, 0, 64), ReservedBar { bar: 6 }),
        (5, common(255, 0, 64), ReservedBar { bar: 255 }),
        (5, common(0, 0, 64), NoMemoryBar { bar: 0 }),
        (5, common(3, 0, 64), NoMemoryBar { bar: 3 }),
        // The upper half of a BAR is no BAR.
        (5, common(5, 0, 64), NoMemoryBar { bar: 5 }),
        (5, common(bar, 0x3fe0, 64), outside(0x3fe0, 64)),
        (5, common(bar, u32::MAX - 3, 64), outside(0xffff_fffc, 64)),
        (5, common(bar, 0, u32::MAX), outside(0, 0xffff_ffff)),
        (5, common(bar, u32::MAX, u32::MAX), outside(0xffff_ffff, 0xffff_ffff)),
        (5, common(bar, 2, 64), Unaligned { offset: 2, align: 4 }),
        (2, shorter(capability(NOTIFY_CFG, bar, NOTIFY, 4), 16), CapabilityTooShort { bytes: 16, needed: 20 }),
        (2, capability(NOTIFY_CFG, bar, NOTIFY, 1), StructureTooShort { bytes: 1, needed: 2 }),
        (2, capability(NOTIFY_CFG, bar, NOTIFY + 1, 4), Unaligned { offset: NOTIFY + 1, align: 2 }),
        (4, capability(ISR_CFG, bar, ISR, 0), StructureTooShort { bytes: 0, needed: 1 }),
        (4, capability(ISR_CFG, bar, 0x4000, 1), outside(0x4000, 1)),
    ] {
        let structure = match index {
            2 => CapabilityType::NOTIFY_CFG,
            4 => CapabilityType::ISR_CFG,
            _ => CapabilityType::COMMON_CFG,
        };
        let address = PciAddress::new(0, 0, 1, 0);
        let error = with(index, words).unwrap_err();
        assert_eq!(error, PciError::Missing { address, structure, problem: Some(problem) });
        let text = error.to_string();
        assert!(text.starts_with("virtio function 0000:00:01.0: no usable capability for "), "{text}");
        assert!(text.ends_with(&problem.to_string()), "{text}");
    }
}

#[test]
fn a_device_configuration_that_leads_nowhere_is_none() {
    for words in [capability(DEVICE_CFG, 6, 0, 8), capability(DEVICE_CFG, BAR as u8, CONFIG + 2, 8)] {
        let device = with(3, words).unwrap().unwrap();
        assert_eq!(device.config_bytes(), 0);
        assert!(read_config(&device, |config| config.u8(0)).is_err());
    }
}

#[test]
fn the_first_capability_that_can_be_used_counts() {
    let common = |bar, offset| capability(COMMON_CFG, bar, offset, COMMON_BYTES);
    // In I/O ports, in a BAR that is none, outside; then a good one, and another that is not looked at.
    let mut list = vec![
        common(0, 0),
        common(9, 0),
        common(BAR as u8, 0x4000),
        common(BAR as u8, COMMON),
        common(BAR as u8, 0x1000),
    ];
    list.push(capability(NOTIFY_CFG, BAR as u8, NOTIFY, NOTIFY_BYTES));
    list.push(capability(ISR_CFG, BAR as u8, ISR, 1));
    let bench = Bench::new(device::with_capabilities(1, &list));
    assert_eq!(bench.open().device_features(), 0x181_3000_0254);
}

#[test]
fn a_legacy_only_device_says_what_to_do() {
    for capabilities in [vec![], vec![msix_capability(1, TABLE_BAR as u8, 0)]] {
        let error = Bench::new(device::with_capabilities(1, &capabilities)).probe().unwrap_err();
        let address = PciAddress::new(0, 0, 1, 0);
        assert_eq!(error, PciError::Missing { address, structure: CapabilityType::COMMON_CFG, problem: None });
        assert!(error.to_string().contains("disable-modern=off"), "{error}");
    }
}

#[test]
fn an_isr_at_an_odd_place() {
    let mut capabilities = capabilities();
    capabilities[4] = capability(ISR_CFG, BAR as u8, 0x1003, 1);
    let bench = Bench::new(device::with_capabilities(1, &capabilities));
    let device = bench.open();
    // What is mapped begins at a multiple of 4, and has that byte in it.
    let mapped = bench.machine.0.borrow().mapped[2];
    assert_eq!((mapped.address & 0xfff, mapped.bytes), (0, 4));
    drop(device);
}

#[test]
fn functions_that_are_not_for_this() {
    assert!(Bench::new(Node::new(1, 0x8086, 0x1042)).probe().unwrap().is_none());
    let mut bridge = Node::bridge(1, vec![]);
    bridge.space[0] = 0x1042_1af4;
    let error = Bench::new(bridge).probe().unwrap_err();
    assert_eq!(error, PciError::NotADevice { address: PciAddress::new(0, 0, 1, 0) });
}

#[test]
fn without_an_address_or_a_mapping() {
    let machine = Pcie::new(vec![device::block(1)]);
    // SAFETY: as above.
    let host = unsafe { Host::new(machine.clone(), 0..=0, &WINDOWS) };
    let function = host.functions().next().unwrap();
    let problem = |error: PciError| match error {
        PciError::Missing { problem, .. } => problem,
        other => panic!("{other}"),
    };
    let error = Pci::probe(&function, |region| machine.map(region)).unwrap_err();
    assert_eq!(problem(error), Some(CapabilityProblem::NoAddress { bar: 4 }));
    assert!(error.to_string().contains("Host::assign"), "{error}");

    host.assign();
    let error = Pci::<Mapped>::probe(&function, |_| None).unwrap_err();
    assert!(matches!(problem(error), Some(CapabilityProblem::NotMapped { .. })), "{error}");
    // Less than was asked for.
    let error =
        Pci::probe(&function, |region| machine.map(&virtio_transport::Region { bytes: region.bytes - 1, ..*region }));
    assert!(matches!(problem(error.unwrap_err()), Some(CapabilityProblem::NotMapped { .. })));

    // Firmware has put it where the host bridge forwards nothing.
    let machine = Pcie::new(vec![device::block(1).at(1, 0x4000_0000).at(4, 0x5000_0000)]);
    // SAFETY: as above.
    let host = unsafe { Host::new(machine.clone(), 0..=0, &WINDOWS) };
    let error = Pci::probe(&host.functions().next().unwrap(), |region| machine.map(region)).unwrap_err();
    assert_eq!(problem(error), Some(CapabilityProblem::Unreachable { bar: 4, address: 0x5000_0000 }));

    // The window ends in the middle of the BAR.
    let short = [Window { bytes: 0x3000, ..WINDOWS[0] }];
    let machine = Pcie::new(vec![device::block(1).at(1, 0x8000_0000).at(4, 0x4000_0000)]);
    // SAFETY: as above.
    let host = unsafe { Host::new(machine.clone(), 0..=0, &short) };
    let error = Pci::probe(&host.functions().next().unwrap(), |region| machine.map(region)).unwrap_err();
    assert_eq!(problem(error), Some(CapabilityProblem::Unreachable { bar: 4, address: 0x4000_0000 }));
}

#[test]
fn features_whose_registers_are_missing_are_not_offered() {
    for (length, features) in [(56, 0), (57, 0), (58, NOTIF_CONFIG_DATA), (60, NOTIF_CONFIG_DATA | RING_RESET)] {
        let mut capabilities = capabilities();
        capabilities[5] = capability(COMMON_CFG, BAR as u8, COMMON, length);
        let bench = Bench::new(device::with_capabilities(1, &capabilities));
        let negotiation = Negotiation::begin(bench.open(), DeviceType::BLOCK, &mut Spin).unwrap();
        assert_eq!(negotiation.offered() & (NOTIF_CONFIG_DATA | RING_RESET), features, "{length} bytes");
    }
}

#[test]
fn one_queue_is_reset_and_enabled_again() {
    let bench = bench();
    let mut running = bench.run(bench.open(), RING_RESET).unwrap();
    bench.log();
    assert_eq!(running.reset_queue(1, &mut Spin), Ok(()));
    assert_eq!(
        bench.log(),
        [
            w(16, 22, 1),
            w(16, 58, 1),
            w(16, 22, 1),
            r(16, 58, 1),
            w(16, 22, 1),
            r(16, 58, 1),
            w(16, 22, 1),
            r(16, 58, 0),
            w(16, 22, 1),
            r(16, 28, 0),
        ]
    );
    assert_eq!(running.enable_queue(&queue(2)), Err(QueueError::InUse { queue: 2 }));
    assert_eq!(running.enable_queue(&queue(1)), Ok(()));
    let states: Vec<_> = bench.device(|device| device.queues.iter().map(|queue: &Queue| queue.enable).collect());
    assert_eq!(states, [1, 1, 1]);
}

#[test]
fn a_queue_that_is_not_reset() {
    let bench = bench();
    bench.device(|device| device.reset_looks = 4);
    let mut running = bench.run(bench.open(), RING_RESET).unwrap();
    assert_eq!(running.reset_queue(0, &mut SpinLimit { looks: 3 }), Err(QueueResetError::TimedOut { queue: 0 }));

    bench.device(|device| device.ends_queues = false);
    let error = running.reset_queue(1, &mut Spin).unwrap_err();
    assert_eq!(error, QueueResetError::StillInUse { queue: 1 });
    assert!(error.to_string().contains("still enabled"), "{error}");

    let mut running = bench.run(bench.open(), 0).unwrap();
    bench.log();
    assert_eq!(running.reset_queue(0, &mut Spin), Err(QueueResetError::NotNegotiated));
    assert_eq!(bench.log(), []);
}
