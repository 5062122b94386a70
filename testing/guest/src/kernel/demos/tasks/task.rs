//! What one task does to its own blocks.

use core::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use anyhow::{bail, ensure};
use testing_guest::{checksum, pattern};
use virtio_blk::Failed;

use super::{
    BLOCK_SECTORS, BLOCKS,
    hart::Shared,
    page::{Page, Sheet},
};

/// A task and its blocks. Block by block it knows how often it has written it, and so what must be there.
pub(super) struct Task {
    shared: &'static Shared,
    first_block: u64,
    versions: [u64; BLOCKS as usize],
    /// One for a request that is dropped, and one for another meanwhile.
    sheets: [&'static Sheet; 2],
    random: Random,
}

/// How a race of two requests ended: the other one was dropped.
enum First<A, B> {
    Left(A),
    Right(B),
}

impl Task {
    pub(super) fn new(shared: &'static Shared, first_block: u64, sheets: [&'static Sheet; 2]) -> Self {
        let random = Random(checksum(first_block, &shared.seed.to_le_bytes()) | 1);
        // The disk is new: zeros.
        Self { shared, first_block, versions: [0; BLOCKS as usize], sheets, random }
    }

    /// Does what the task is for, then adds up what is on the disk.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        for _ in 0..self.shared.rounds {
            let at = self.random.below(BLOCKS);
            match self.random.below(16) {
                0..7 => self.write(at).await?,
                7..14 => self.verify(at).await?,
                14 => self.drop_soon(at).await?,
                _ => self.drop_late(at).await?,
            }
        }
        for at in 0..BLOCKS {
            let page = self.verified(at).await?;
            let mut counts = self.shared.counts.borrow_mut();
            counts.checksum = counts.checksum.wrapping_add(checksum(self.first_block + at, &page));
        }
        Ok(())
    }

    /// Writes the next version of a block.
    async fn write(&mut self, at: u64) -> anyhow::Result<()> {
        let version = self.version(at) + 1;
        let page = self.filled(at, version).await;
        let written = self.shared.disk.write(self.sector(at), page).await;
        self.done(at, written)?;
        self.set_version(at, version);
        Ok(())
    }

    /// Reads a block and compares it.
    async fn verify(&self, at: u64) -> anyhow::Result<()> {
        self.verified(at).await.map(drop)
    }

    async fn verified(&self, at: u64) -> anyhow::Result<Page> {
        let page = self.read(at).await?;
        self.compare(at, &page, self.version(at), self.version(at))?;
        Ok(page)
    }

    async fn read(&self, at: u64) -> anyhow::Result<Page> {
        let page = self.blank(0).await;
        let read = self.shared.disk.read(self.sector(at), page).await;
        self.done(at, read)
    }

    /// Writes or reads a block, and drops the request after it was polled once, or a few times more.
    async fn drop_soon(&mut self, at: u64) -> anyhow::Result<()> {
        let writes = self.random.below(2) == 0;
        let turns = self.random.below(4);
        let version = self.version(at) + u64::from(writes);
        let finished = if writes {
            let page = self.filled(at, version).await;
            poll_for(self.shared.disk.write(self.sector(at), page), turns).await
        } else {
            poll_for(self.shared.disk.read(self.sector(at), self.blank(0).await), turns).await
        };
        match finished {
            Some(result) => drop(self.done(at, result)?),
            None => self.count_dropped(writes),
        }
        self.settle(at, version).await
    }

    /// Writes a block and reads another one; as soon as one of the two is done, drops the other.
    async fn drop_late(&mut self, at: u64) -> anyhow::Result<()> {
        let other = (at + 1) % BLOCKS;
        let version = self.version(at) + 1;
        let page = self.filled(at, version).await;
        let write = self.shared.disk.write(self.sector(at), page);
        let read = self.shared.disk.read(self.sector(other), self.blank(1).await);
        match race(read, write).await {
            First::Left(read) => {
                let page = self.done(other, read)?;
                self.compare(other, &page, self.version(other), self.version(other))?;
                self.count_dropped(true);
            }
            First::Right(written) => {
                drop(self.done(at, written)?);
                self.count_dropped(false);
            }
        }
        drop(self.sheets[1].take().await);
        self.settle(at, version).await
    }

    /// Finds out what became of a write that may have been dropped, and goes on from there.
    async fn settle(&mut self, at: u64, version: u64) -> anyhow::Result<()> {
        // The page is back only when the device is done with the request: a write that was dropped cannot happen any
        // more, and overwrite what comes now.
        drop(self.sheets[0].take().await);
        let old_version = self.version(at);
        let page = self.read(at).await?;
        let (new, old) = self.compare(at, &page, version, old_version)?;
        drop(page);
        if version != old_version {
            let mut counts = self.shared.counts.borrow_mut();
            counts.new_sectors += new;
            counts.old_sectors += old;
        }
        self.set_version(at, if new > 0 { version } else { old_version });
        // What happened in part, or by the toss of a coin what happened, is written anew.
        if (new > 0 && old > 0) || self.random.below(2) == 0 {
            self.write(at).await?;
        }
        Ok(())
    }

    /// Checks that each sector of a block is that of a version or of an older one. Returns how many are the one, and
    /// how many the other.
    fn compare(&self, at: u64, found: &[u8], version: u64, old_version: u64) -> anyhow::Result<(u64, u64)> {
        let mut wanted = self.shared.wanted.borrow_mut();
        self.fill(at, version, &mut *wanted);
        let new = equal_sectors(found, &*wanted);
        self.fill(at, old_version, &mut *wanted);
        let old = equal_sectors(found, &*wanted);
        for (sector, (new, old)) in (self.sector(at)..).zip(new.into_iter().zip(old)) {
            ensure!(new || old, "sector {sector} is neither version {version} nor {old_version} of its contents");
        }
        let new = new.into_iter().filter(|new| *new).count() as u64;
        Ok((new, BLOCK_SECTORS - new))
    }

    /// Takes the first page, with the contents of a version in it.
    async fn filled(&self, at: u64, version: u64) -> Page {
        let mut page = self.sheets[0].take().await;
        self.fill(at, version, &mut page);
        page
    }

    /// Takes a page with nothing in it that could be read from the disk.
    async fn blank(&self, sheet: usize) -> Page {
        let mut page = self.sheets[sheet % 2].take().await;
        page.fill(0xee);
        page
    }

    /// What a block holds in a version: each one is different everywhere.
    fn fill(&self, at: u64, version: u64, bytes: &mut [u8]) {
        match version {
            0 => bytes.fill(0),
            _ => pattern::fill(checksum(self.first_block + at, &(self.shared.seed ^ version).to_le_bytes()), bytes),
        }
    }

    /// Counts a request that has ended.
    fn done(&self, at: u64, result: Result<Page, Failed<Page>>) -> anyhow::Result<Page> {
        match result {
            Ok(page) => {
                self.shared.counts.borrow_mut().requests += 1;
                Ok(page)
            }
            Err(failed) => bail!("block at sector {}: {}", self.sector(at), failed.error),
        }
    }

    fn count_dropped(&self, write: bool) {
        let mut counts = self.shared.counts.borrow_mut();
        counts.dropped += 1;
        counts.dropped_writes += u64::from(write);
    }

    fn sector(&self, at: u64) -> u64 {
        (self.first_block + at) * BLOCK_SECTORS
    }

    fn version(&self, at: u64) -> u64 {
        self.versions[at as usize]
    }

    fn set_version(&mut self, at: u64, version: u64) {
        self.versions[at as usize] = version;
    }
}

/// Which sectors of two blocks are the same.
fn equal_sectors(one: &[u8], other: &[u8]) -> [bool; BLOCK_SECTORS as usize] {
    let mut equal = [false; BLOCK_SECTORS as usize];
    for ((equal, one), other) in equal.iter_mut().zip(one.chunks(512)).zip(other.chunks(512)) {
        *equal = one == other;
    }
    equal
}

/// Polls a future once, and a few times more as soon as it is this task's turn again. `None`: it was not ready, and is
/// dropped.
async fn poll_for<F: Future + Unpin>(mut future: F, mut turns: u64) -> Option<F::Output> {
    poll_fn(|context| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
            return Poll::Ready(Some(output));
        }
        if turns == 0 {
            return Poll::Ready(None);
        }
        turns -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Waits for one of two futures, and drops the other. Both are polled each time: one that waits in line for room in the
/// queue, and is not polled when its turn comes, would hold up the other.
async fn race<A: Future + Unpin, B: Future + Unpin>(mut left: A, mut right: B) -> First<A::Output, B::Output> {
    poll_fn(|context| {
        if let Poll::Ready(output) = Pin::new(&mut left).poll(context) {
            return Poll::Ready(First::Left(output));
        }
        Pin::new(&mut right).poll(context).map(First::Right)
    })
    .await
}

/// Numbers that look random: Marsaglia's xorshift, with a seed that is not 0.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % limit
    }
}
