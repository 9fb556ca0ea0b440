//! The threads of the CPU backend.
//!
//! [`Pool::run`] hands out tasks `0..count`; the calling thread works too. A worker that has nothing to do spins for
//! a moment and then sleeps, so an idle engine costs nothing; after [`Pool::rest`] it sleeps at once. A worker that wakes late simply finds nothing left: the
//! caller waits for tasks, not for workers, so a descheduled worker never holds up a step.
//!
//! Which thread runs a task is not fixed; results do not depend on it because a task writes only its own output.

use crate::error::Result;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use crossbeam_utils::CachePadded;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Spins of a worker before it sleeps, roughly 20 µs.
const SPINS: u32 = 4000;
/// Bits of [`Shared::ticket`] that count the tasks not yet taken; the rest number the job.
const LEFT_BITS: u32 = 24;
const LEFT_MASK: u64 = (1 << LEFT_BITS) - 1;

type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// One call of `run`, on the caller's stack.
struct Job<'a> {
    task: Task<'a>,
    count: usize,
}

struct Shared {
    /// Job number and tasks left. Taking a task is one compare-and-swap that fails when the job is over, so a taker
    /// holds an unfinished task of the current job, which keeps that job alive.
    ticket: CachePadded<AtomicU64>,
    /// The current job.
    job: AtomicPtr<Job<'static>>,
    /// Tasks of the current job that are finished.
    done: CachePadded<AtomicUsize>,
    sleepers: AtomicUsize,
    panicked: AtomicBool,
    /// No job comes soon: spinning for one is a waste.
    rest: AtomicBool,
    stop: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// Takes and runs tasks until none is left.
    fn work(&self, thread: usize) {
        loop {
            let mut ticket = self.ticket.load(Ordering::Acquire);
            loop {
                if ticket & LEFT_MASK == 0 {
                    return;
                }
                match self.ticket.compare_exchange_weak(ticket, ticket - 1, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => break,
                    Err(now) => ticket = now,
                }
            }
            // SAFETY: we hold a task that is not done, so `run` is still waiting and its Job alive; the pointer was
            // stored before the ticket whose value we swapped.
            let job = unsafe { &*self.job.load(Ordering::Acquire) };
            let index = job.count - (ticket & LEFT_MASK) as usize;
            if catch_unwind(AssertUnwindSafe(|| (job.task)(index, thread))).is_err() {
                self.panicked.store(true, Ordering::Release);
            }
            self.done.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn serve(&self, thread: usize) {
        while !self.stop.load(Ordering::Acquire) {
            let mut idle = true;
            for _ in 0..SPINS {
                if self.ticket.load(Ordering::Acquire) & LEFT_MASK != 0 {
                    idle = false;
                    break;
                }
                if self.rest.load(Ordering::Relaxed) {
                    break;
                }
                std::hint::spin_loop();
            }
            if idle {
                self.doze();
            }
            self.work(thread);
        }
    }

    fn doze(&self) {
        let mut guard = self.sleep.lock().unwrap_or_else(|e| e.into_inner());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.ticket.load(Ordering::SeqCst) & LEFT_MASK == 0 && !self.stop.load(Ordering::SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(|e| e.into_inner());
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_sleepers(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = self.sleep.lock().unwrap_or_else(|e| e.into_inner());
            self.wake.notify_all();
        }
    }
}

/// A fixed set of worker threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle>,
}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] being one of them.
    pub fn new(threads: usize, options: ThreadOptions) -> Result<Pool> {
        let shared = Arc::new(Shared {
            ticket: CachePadded::new(AtomicU64::new(0)),
            job: AtomicPtr::new(std::ptr::null_mut()),
            done: CachePadded::new(AtomicUsize::new(0)),
            sleepers: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Pool { shared, workers: Vec::new() };
        for index in 1..threads.max(1) {
            let shared = pool.shared.clone();
            pool.workers.push(thread::spawn(&format!("cpu{index}"), options, move || shared.serve(index))?);
        }
        Ok(pool)
    }

    /// Threads that take part, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Sends workers that have nothing to do to sleep, until the next [`Pool::run`].
    pub fn rest(&mut self) {
        self.shared.rest.store(true, Ordering::Relaxed);
    }

    /// Runs `task(index, thread)` once for every index below `count`, and returns when all are done. `thread` is
    /// below [`Pool::threads`] and unique among the tasks running at one time. A panic in a task continues here.
    pub fn run(&mut self, count: usize, task: Task) {
        if self.workers.is_empty() || count <= 1 {
            (0..count).for_each(|index| task(index, 0));
            return;
        }
        assert!(count as u64 <= LEFT_MASK, "{count} tasks are more than a job can number");
        let job = Job { task, count };
        let shared = &*self.shared;
        shared.rest.store(false, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        // The lifetime is erased; the wait below ends only when no thread can use the job any more.
        shared.job.store((&raw const job).cast_mut().cast(), Ordering::Release);
        let number = (shared.ticket.load(Ordering::Relaxed) >> LEFT_BITS).wrapping_add(1);
        shared.ticket.store(number << LEFT_BITS | count as u64, Ordering::SeqCst);
        shared.wake_sleepers();
        shared.work(0);
        let mut spins = 0u32;
        while shared.done.load(Ordering::Acquire) < count {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if shared.panicked.swap(false, Ordering::AcqRel) {
            resume_unwind(Box::new("a task of the CPU pool panicked"));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = self.shared.sleep.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.wake.notify_all();
        }
        self.workers.drain(..).for_each(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once_on_any_number_of_threads() {
        for threads in 1..=4 {
            let mut pool = Pool::new(threads, ThreadOptions::default()).unwrap();
            for count in [0, 1, 2, 3, 7, 64, 1000] {
                let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(count, &|index, thread| {
                        assert!(thread < threads);
                        hits[index].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 50), "{threads} threads, {count} tasks");
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives() {
        let mut pool = Pool::new(3, ThreadOptions::default()).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, &|index, _| assert_ne!(index, 57));
        }));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(100, &|index, _| {
            sum.fetch_add(index, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}
