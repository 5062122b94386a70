//! Threads of the kernel. They run until they say otherwise: nothing but [`switch_away`] leaves one.

use alloc::{boxed::Box, collections::VecDeque, sync::Arc};
use core::{
    arch::global_asm,
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::{bail, ensure};

use super::{
    super::time::Deadline,
    interrupts::Off,
    masked::Masked,
    memory::{STACK_BYTES, STACK_COUNT, stack_bottom},
};

/// What a thread has in the processor while others run: what a called function must leave as it was.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Context {
    /// Where it goes on.
    ra: usize,
    sp: usize,
    /// s0 to s11.
    saved: [usize; 12],
    /// fs0 to fs11.
    saved_float: [u64; 12],
}

/// A thread.
pub(crate) struct Thread {
    number: usize,
    context: UnsafeCell<Context>,
    work: Masked<Option<Box<dyn FnOnce() + Send>>>,
    done: AtomicBool,
    /// How often it was left.
    switches: AtomicU64,
}

// SAFETY: the context is touched by whoever switches, and there is one processor.
unsafe impl Sync for Thread {}
// SAFETY: likewise.
unsafe impl Send for Thread {}

struct Scheduler {
    ready: VecDeque<Arc<Thread>>,
    current: Option<Arc<Thread>>,
    /// How many there were, and how many have not ended.
    spawned: usize,
    alive: usize,
}

static SCHEDULER: Masked<Scheduler> =
    Masked::new(Scheduler { ready: VecDeque::new(), current: None, spawned: 0, alive: 0 });

/// The loop that picks the next thread, and what it has in the processor meanwhile.
struct Idle(UnsafeCell<Context>);

// SAFETY: touched by whoever switches, and there is one processor.
unsafe impl Sync for Idle {}

static IDLE: Idle = Idle(UnsafeCell::new(Context { ra: 0, sp: 0, saved: [0; 12], saved_float: [0; 12] }));

impl Thread {
    /// The lowest address of its stack.
    pub(crate) fn stack_bottom(&self) -> usize {
        stack_bottom(self.number)
    }

    /// How often it was left.
    pub(crate) fn switches(&self) -> u64 {
        self.switches.load(Ordering::Relaxed)
    }

    /// What [`switch_away`] takes.
    pub(crate) fn context(&self) -> *mut Context {
        self.context.get()
    }
}

/// Makes a thread, which begins when its turn comes.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let work: Box<dyn FnOnce() + Send> = Box::new(work);
    let thread = SCHEDULER.with(|scheduler| {
        ensure!(scheduler.spawned < STACK_COUNT, "all {STACK_COUNT} stacks are in use");
        let number = scheduler.spawned;
        scheduler.spawned += 1;
        scheduler.alive += 1;
        let context =
            Context { ra: begin as *const () as usize, sp: stack_bottom(number) + STACK_BYTES, ..Context::default() };
        Ok(Arc::new(Thread {
            number,
            context: UnsafeCell::new(context),
            work: Masked::new(Some(work)),
            done: AtomicBool::new(false),
            switches: AtomicU64::new(0),
        }))
    })?;
    make_ready(thread);
    Ok(())
}

/// The thread that runs; `None` while the kernel boots.
pub(crate) fn current() -> Option<Arc<Thread>> {
    SCHEDULER.with(|scheduler| scheduler.current.clone())
}

/// Lets a thread have its turn after those that are ready. An interrupt handler may do this.
pub(crate) fn make_ready(thread: Arc<Thread>) {
    SCHEDULER.with(|scheduler| scheduler.ready.push_back(thread));
}

/// Leaves the thread that runs, whose context this is, for another one. It goes on when somebody has
/// [made it ready](make_ready), which may have happened already.
///
/// No cell or lock is held meanwhile, and interrupts are on.
pub(crate) fn switch_away(context: *mut Context) {
    assert!(riscv::register::sstatus::read().sie(), "a thread was left with interrupts off");
    SCHEDULER.with(|scheduler| {
        if let Some(thread) = &scheduler.current {
            thread.switches.fetch_add(1, Ordering::Relaxed);
        }
    });
    // SAFETY: the context is that of the thread that runs, and the idle loop waits in its own.
    unsafe { switch(context, IDLE.0.get()) };
}

/// Lets the others that are ready run first.
#[allow(dead_code, reason = "not every kernel yields")]
pub(crate) fn yield_now() {
    if let Some(thread) = current() {
        let context = thread.context();
        make_ready(thread);
        switch_away(context);
    }
}

/// Runs threads until all have ended.
///
/// # Errors
///
/// Nobody was ready for so long that nobody will ever be: a wake-up was lost.
pub(crate) fn run() -> anyhow::Result<()> {
    loop {
        let next = SCHEDULER.with(|scheduler| {
            scheduler.current = scheduler.ready.pop_front();
            scheduler.current.clone()
        });
        if let Some(thread) = next {
            // SAFETY: the thread does not run, so its context is complete, and nobody else touches it.
            unsafe { switch(IDLE.0.get(), thread.context()) };
            if thread.done.load(Ordering::Relaxed) {
                SCHEDULER.with(|scheduler| scheduler.alive -= 1);
            }
            continue;
        }
        let alive = SCHEDULER.with(|scheduler| scheduler.alive);
        if alive == 0 {
            return Ok(());
        }
        sleep(alive)?;
    }
}

/// Sleeps until a thread is ready.
fn sleep(alive: usize) -> anyhow::Result<()> {
    let deadline = Deadline::patient();
    // The timer's interrupt ends the sleep, too.
    deadline.arm();
    loop {
        {
            // With interrupts off, one that comes between the look and the sleep stays pending and ends the sleep.
            let _off = Off::new();
            if SCHEDULER.with(|scheduler| !scheduler.ready.is_empty()) {
                return Ok(());
            }
            if deadline.has_passed() {
                bail!("{alive} threads sleep, and nothing has woken one of them for too long: a wake-up was lost");
            }
            riscv::asm::wfi();
        }
    }
}

/// The first function of each thread.
extern "C" fn begin() -> ! {
    // Interrupts are on, as they are in the idle loop, which has switched here.
    if let Some(thread) = current() {
        if let Some(work) = thread.work.with(Option::take) {
            work();
        }
        thread.done.store(true, Ordering::Relaxed);
        let context = thread.context();
        // The idle loop has another count of it.
        drop(thread);
        switch_away(context);
    }
    unreachable!("a thread that has ended was made ready")
}

unsafe extern "C" {
    /// Puts what is in the processor into `from`, and takes what is in `to`. Returns when somebody switches back.
    ///
    /// Both are valid, and `to` is that of a thread that does not run.
    fn switch(from: *mut Context, to: *const Context);
}

global_asm!(
    ".pushsection .text.switch, \"ax\"",
    ".globl switch",
    "switch:",
    "    sd   ra, 0(a0)",
    "    sd   sp, 8(a0)",
    "    sd   s0, 16(a0)",
    "    sd   s1, 24(a0)",
    "    sd   s2, 32(a0)",
    "    sd   s3, 40(a0)",
    "    sd   s4, 48(a0)",
    "    sd   s5, 56(a0)",
    "    sd   s6, 64(a0)",
    "    sd   s7, 72(a0)",
    "    sd   s8, 80(a0)",
    "    sd   s9, 88(a0)",
    "    sd   s10, 96(a0)",
    "    sd   s11, 104(a0)",
    "    fsd  fs0, 112(a0)",
    "    fsd  fs1, 120(a0)",
    "    fsd  fs2, 128(a0)",
    "    fsd  fs3, 136(a0)",
    "    fsd  fs4, 144(a0)",
    "    fsd  fs5, 152(a0)",
    "    fsd  fs6, 160(a0)",
    "    fsd  fs7, 168(a0)",
    "    fsd  fs8, 176(a0)",
    "    fsd  fs9, 184(a0)",
    "    fsd  fs10, 192(a0)",
    "    fsd  fs11, 200(a0)",
    "    ld   ra, 0(a1)",
    "    ld   sp, 8(a1)",
    "    ld   s0, 16(a1)",
    "    ld   s1, 24(a1)",
    "    ld   s2, 32(a1)",
    "    ld   s3, 40(a1)",
    "    ld   s4, 48(a1)",
    "    ld   s5, 56(a1)",
    "    ld   s6, 64(a1)",
    "    ld   s7, 72(a1)",
    "    ld   s8, 80(a1)",
    "    ld   s9, 88(a1)",
    "    ld   s10, 96(a1)",
    "    ld   s11, 104(a1)",
    "    fld  fs0, 112(a1)",
    "    fld  fs1, 120(a1)",
    "    fld  fs2, 128(a1)",
    "    fld  fs3, 136(a1)",
    "    fld  fs4, 144(a1)",
    "    fld  fs5, 152(a1)",
    "    fld  fs6, 160(a1)",
    "    fld  fs7, 168(a1)",
    "    fld  fs8, 176(a1)",
    "    fld  fs9, 184(a1)",
    "    fld  fs10, 192(a1)",
    "    fld  fs11, 200(a1)",
    "    ret",
    ".popsection",
);
