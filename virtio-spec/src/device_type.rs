//! Device types: what kind of device answers.

use crate::macros::named_values;

named_values! {
    /// The virtio device id, which says what type of device it is (5 Device Types).
    ///
    /// MMIO devices present it in [`Register::DEVICE_ID`](crate::mmio::Register::DEVICE_ID), PCI devices in their
    /// PCI device id (see [`crate::pci`]). Ids 14, 15 and 37 have no device in virtio 1.4.
    pub struct DeviceType(u32) {
        /// Reserved. Over MMIO it marks an empty slot: a placeholder at a known address, not an error
        /// (4.2.2 MMIO Device Register Layout).
        const INVALID = 0;
        /// Network device (5.1).
        const NETWORK = 1;
        /// Block device (5.2).
        const BLOCK = 2;
        /// Console device (5.3).
        const CONSOLE = 3;
        /// Entropy source (5.4).
        const ENTROPY = 4;
        /// Traditional memory balloon device (5.5).
        const MEMORY_BALLOON_TRADITIONAL = 5;
        /// ioMemory.
        const IO_MEMORY = 6;
        /// rpmsg.
        const RPMSG = 7;
        /// SCSI host device (5.6).
        const SCSI_HOST = 8;
        /// 9P transport.
        const P9_TRANSPORT = 9;
        /// mac80211 wireless network.
        const MAC80211_WLAN = 10;
        /// rproc serial.
        const RPROC_SERIAL = 11;
        /// CAIF.
        const CAIF = 12;
        /// Memory balloon.
        const MEMORY_BALLOON = 13;
        /// GPU device (5.7).
        const GPU = 16;
        /// Real time clock device (5.23).
        const RTC = 17;
        /// Input device (5.8).
        const INPUT = 18;
        /// Socket device (5.10).
        const SOCKET = 19;
        /// Crypto device (5.9).
        const CRYPTO = 20;
        /// Signal distribution module.
        const SIGNAL_DISTRIBUTION = 21;
        /// pstore device.
        const PSTORE = 22;
        /// IOMMU device (5.13).
        const IOMMU = 23;
        /// Memory device (5.15).
        const MEMORY = 24;
        /// Sound device (5.14).
        const SOUND = 25;
        /// File system device (5.11).
        const FILE_SYSTEM = 26;
        /// PMEM device (5.19).
        const PMEM = 27;
        /// RPMB device (5.12).
        const RPMB = 28;
        /// mac80211 simulated wireless device.
        const MAC80211_HWSIM = 29;
        /// Video encoder device.
        const VIDEO_ENCODER = 30;
        /// Video decoder device.
        const VIDEO_DECODER = 31;
        /// SCMI device (5.17).
        const SCMI = 32;
        /// Nitro secure module.
        const NITRO_SECURE_MODULE = 33;
        /// I2C adapter (5.16).
        const I2C_ADAPTER = 34;
        /// Watchdog.
        const WATCHDOG = 35;
        /// CAN device (5.20).
        const CAN = 36;
        /// Parameter server.
        const PARAMETER_SERVER = 38;
        /// Audio policy device.
        const AUDIO_POLICY = 39;
        /// Bluetooth device.
        const BLUETOOTH = 40;
        /// GPIO device (5.18).
        const GPIO = 41;
        /// RDMA device.
        const RDMA = 42;
        /// Camera device.
        const CAMERA = 43;
        /// ISM device.
        const ISM = 44;
        /// SPI controller (5.21).
        const SPI_CONTROLLER = 45;
        /// TEE device.
        const TEE = 46;
        /// CPU balloon device.
        const CPU_BALLOON = 47;
        /// Media device (5.22).
        const MEDIA = 48;
        /// USB controller.
        const USB_CONTROLLER = 49;
    }
}
