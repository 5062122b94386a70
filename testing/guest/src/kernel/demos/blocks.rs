//! A disk without a file system: every kind of transfer, of a ring of any form and size. The kernel knows at each moment
//! what the disk must hold, and so does the host.

use alloc::{boxed::Box, format, vec, vec::Vec};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use testing_guest::{
    Arguments, MemoryKind, Report,
    blocks::{BATCH_REQUESTS, DISCARDED, DISK_SECTORS, ZEROED, initial_seed},
    hex, pattern,
};
use virtio_blk::{Error, Features, Operation, SectorRange, Unmap};
use virtio_transport::Wait;
use virtqueue::Memory;

use crate::kernel::{
    bounce::BounceMemory,
    devices::{self, DiskPlace},
    interrupts::asleep,
    memory::KernelMemory,
    time::patiently,
};

type Buffer = Box<[u8]>;
type Disk<M> = devices::Disk<M, Buffer>;

/// How much one call reads.
const LARGE_BYTES: usize = 1 << 20;

/// Reads and writes the machine's first disk.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    let places = devices::find_disks(device_tree)?;
    let place = places.first().context("the machine has no disk")?;
    match arguments.memory {
        MemoryKind::Direct => visit(arguments, place, KernelMemory),
        MemoryKind::Bounce => {
            let memory = BounceMemory::new()?;
            visit(arguments, place, memory).map(|()| memory.report())
        }
    }
}

fn visit(arguments: &Arguments, place: &DiskPlace<'_>, memory: impl Memory) -> anyhow::Result<()> {
    let mut disk: Disk<_> = place.open(arguments, memory)?;
    place.describe(&mut disk)?;
    place.use_interrupts(&mut disk)?;
    let capacity_sectors = disk.info().capacity_sectors;
    ensure!(capacity_sectors == DISK_SECTORS, "the disk has {capacity_sectors} sectors, expected {DISK_SECTORS}");

    let contents = pattern::bytes(initial_seed(arguments.seed), DISK_SECTORS as usize * 512);
    let mut trial = Trial { disk, contents, next_seed: arguments.seed };
    trial.compare_all()?;
    trial.write_in_pieces()?;
    trial.write_at_once()?;
    trial.write_in_a_batch()?;
    trial.write_zeroes()?;
    trial.discard()?;
    devices::flush(&mut trial.disk)?;
    trial.compare_all()?;
    if let Err(error) = trial.disk.shutdown(&mut patiently()) {
        bail!("shutting the driver down: {error}");
    }
    Ok(())
}

/// A disk, and what it must hold.
struct Trial<M: Memory> {
    disk: Disk<M>,
    contents: Vec<u8>,
    /// Where the pattern starts that is written next.
    next_seed: u64,
}

impl<M: Memory> Trial<M> {
    /// The sectors of a block.
    fn block_sectors(&self) -> u64 {
        u64::from(self.disk.info().block_bytes) / 512
    }

    /// What the disk must hold in these sectors.
    fn wanted(&mut self, first_sector: u64, sectors: u64) -> anyhow::Result<&mut [u8]> {
        let range = first_sector as usize * 512..(first_sector + sectors) as usize * 512;
        self.contents.get_mut(range).context("sectors that are not on the disk")
    }

    /// New contents for these sectors, which are going to be written.
    fn renew(&mut self, first_sector: u64, sectors: u64) -> anyhow::Result<Vec<u8>> {
        let seed = self.next_seed;
        self.next_seed = seed.wrapping_add(1);
        let new = pattern::bytes(seed, sectors as usize * 512);
        self.wanted(first_sector, sectors)?.copy_from_slice(&new);
        report!(Report::Region { first_sector, sectors, seed });
        Ok(new)
    }

    /// One block; then blocks from and to buffers of odd lengths, which lie anywhere in memory.
    fn write_in_pieces(&mut self) -> anyhow::Result<()> {
        let (first, sectors) = (8, self.block_sectors());
        let contents = self.renew(first, sectors)?;
        self.disk.write(first, &contents, &mut asleep()).context("writing one block")?;

        let (first, sectors) = (512, 64);
        let contents = self.renew(first, sectors)?;
        let mut rest = contents.as_slice();
        let mut pieces = Vec::new();
        // Two for a block at the most: the smallest queue has no room for more.
        for bytes in [2049, 4095, 6001] {
            let (piece, others) = rest.split_at(bytes);
            pieces.push(piece);
            rest = others;
        }
        pieces.push(rest);
        self.disk.write_vectored(first, &pieces, &mut asleep()).context("writing buffers of odd lengths")?;

        let mut found = vec![0; contents.len()];
        let (start, end) = found.split_at_mut(12_345);
        self.disk.read_vectored(first, &mut [start, end], &mut asleep()).context("reading to two buffers")?;
        ensure!(found == contents, "what was written from buffers of odd lengths reads back otherwise");
        Ok(())
    }

    /// More than a request has room for, and then a part of the same once more.
    fn write_at_once(&mut self) -> anyhow::Result<()> {
        for (first, sectors) in [(1024, 1200), (1024 + 256, 8)] {
            let contents = self.renew(first, sectors)?;
            self.disk
                .write(first, &contents, &mut asleep())
                .with_context(|| format!("writing {sectors} sectors at sector {first}"))?;
        }
        Ok(())
    }

    /// Many requests of one block, as many at once as the queue takes; then they are read back in the same way.
    fn write_in_a_batch(&mut self) -> anyhow::Result<()> {
        /// Neighbours are far apart in time, so that the device does not turn them into one request.
        const STRIDE: u64 = 7;
        let first_sector = DISK_SECTORS / 2;
        let block_sectors = self.block_sectors();
        let contents = self.renew(first_sector, BATCH_REQUESTS * block_sectors)?;
        let blocks = contents.chunks_exact(block_sectors as usize * 512).zip(0..);
        let mut blocks: Vec<(u64, Buffer)> =
            blocks.map(|(block, index)| (first_sector + index * block_sectors, block.into())).collect();
        blocks.sort_by_key(|(sector, _)| (sector / block_sectors * STRIDE % BATCH_REQUESTS, *sector));

        let depth = self.batch(Operation::Write, blocks.clone())?.0;
        let emptied = blocks.iter().map(|(sector, block)| (*sector, vec![0; block.len()].into())).collect();
        let (_, mut found) = self.batch(Operation::Read, emptied)?;
        found.sort();
        blocks.sort();
        ensure!(found == blocks, "blocks that were written in a batch read back otherwise");

        // With a table of its own, a request takes one entry of the ring; without, one for each of its three parts.
        let size = self.disk.queue().size();
        let wanted = if self.disk.info().features.contains(Features::INDIRECT_DESC) { size } else { size / 3 };
        ensure!(
            depth == wanted,
            "up to {depth} requests were in flight, expected {wanted} in a queue of {size} entries"
        );
        println!("{BATCH_REQUESTS} blocks written and read by requests of their own, up to {depth} in flight");
        Ok(())
    }

    /// Makes sectors read as zeroes, with and without leave to free them; the last call is for several ranges.
    fn write_zeroes(&mut self) -> anyhow::Result<()> {
        let [first, second, others @ ..] = ZEROED.map(SectorRange::from);
        for (ranges, unmap) in [(&[first][..], Unmap::Never), (&[second], Unmap::Allowed), (&others, Unmap::Never)] {
            self.disk
                .write_zeroes(ranges, unmap, &mut asleep())
                .with_context(|| format!("writing zeroes to {ranges:?}"))?;
            for SectorRange { sector, sectors } in ranges.iter().copied() {
                self.wanted(sector, sectors)?.fill(0);
                report!(Report::Zeroed { first_sector: sector, sectors });
            }
        }
        Ok(())
    }

    /// Discards sectors: each holds what it did, or zeroes. The host knows which.
    fn discard(&mut self) -> anyhow::Result<()> {
        let range = SectorRange::from(DISCARDED);
        let SectorRange { sector: first_sector, sectors } = range;
        self.disk.discard(&[range], &mut asleep()).context("discarding")?;
        report!(Report::Discarded { first_sector, sectors });

        let mut found = vec![0; sectors as usize * 512];
        self.disk.read(first_sector, &mut found, &mut asleep()).context("reading what was discarded")?;
        let wanted = self.wanted(first_sector, sectors)?;
        for ((found, before), sector) in found.chunks(512).zip(wanted.chunks(512)).zip(first_sector..) {
            let zeroes = found.iter().all(|byte| *byte == 0);
            ensure!(zeroes || found == before, "sector {sector}, which was discarded, holds something else");
        }
        wanted.copy_from_slice(&found);
        Ok(())
    }

    /// Does many requests. Returns how many were in flight at the most, and the sectors and buffers.
    fn batch(
        &mut self,
        operation: Operation,
        requests: Vec<(u64, Buffer)>,
    ) -> anyhow::Result<(u16, Vec<(u64, Buffer)>)> {
        let queue = self.disk.queue();
        let mut done = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        let mut next = requests.next();
        let mut depth = 0;
        let mut wait = asleep();
        while next.is_some() || queue.in_flight() > 0 {
            while let Some((sector, buffer)) = next.take() {
                let submitted = match operation {
                    Operation::Write => queue.submit_write(sector, buffer),
                    _ => queue.submit_read(sector, buffer),
                };
                match submitted {
                    Ok(_) => next = requests.next(),
                    Err(rejected) if rejected.error == Error::QueueFull => {
                        next = Some((sector, rejected.buffer));
                        break;
                    }
                    Err(rejected) => return Err(rejected.error).context("submitting"),
                }
            }
            depth = depth.max(queue.in_flight());
            queue.commit();
            let before = done.len();
            while let Some(completion) = queue.poll()? {
                completion.result.with_context(|| format!("the {operation} of sector {}", completion.sector))?;
                done.push((completion.sector, completion.buffer.context("a request has its buffer")?));
            }
            if done.len() == before {
                wait.wait().context("waiting for the device")?;
            }
        }
        Ok((depth, done))
    }

    /// Reads the whole disk.
    fn compare_all(&mut self) -> anyhow::Result<()> {
        let mut found = vec![0; self.contents.len()];
        for (part, index) in found.chunks_mut(LARGE_BYTES).zip(0..) {
            let sector = index * (LARGE_BYTES as u64 / 512);
            self.disk.read(sector, part, &mut asleep()).with_context(|| format!("reading at sector {sector}"))?;
        }
        let differs = found.iter().zip(&self.contents).position(|(found, wanted)| found != wanted);
        if let Some(byte) = differs {
            bail!("byte {byte} of the disk is {:02x?}, expected {:02x?}", found.get(byte), self.contents.get(byte));
        }
        report!(Report::WholeDisk { bytes: found.len() as u64, sha256: hex(&Sha256::digest(&found)) });
        Ok(())
    }
}
