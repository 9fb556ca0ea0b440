//! A thread pool for work that is split into many equal tasks: the kernels of a step, the weights of a model.
//!
//! [`Pool::run`] distributes tasks `0..count` over the workers and the calling thread. An idle worker spins for a
//! moment and then sleeps, so an idle engine uses no CPU time; after [`Pool::rest`] it sleeps at once. The caller waits
//! until all tasks are done, not for each worker, so a worker that is descheduled or wakes late does not delay a step.
//!
//! Which thread runs a task is not fixed; results do not depend on it because a task writes only its own output.

use super::thread::{self, JoinHandle, ThreadOptions};
use crate::error::Result;
use crossbeam_utils::CachePadded;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Iterations that a worker spins before it sleeps, about 20 µs.
const SPINS: u32 = 4000;
/// Low bits of [`Shared::ticket`], which count the tasks not yet taken; the high bits hold the job number.
const LEFT_BITS: u32 = 24;
const LEFT_MASK: u64 = (1 << LEFT_BITS) - 1;

type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// One call of [`Pool::run`]; lives on the caller's stack.
struct Job<'a> {
    task: Task<'a>,
    count: usize,
}

struct Shared {
    /// Job number and number of tasks left. A thread takes a task by a compare-and-swap, which fails once the job is
    /// over. A thread that takes a task thus holds an unfinished task of the current job, which keeps the job alive.
    ticket: CachePadded<AtomicU64>,
    /// The current job; only dereferenced by a thread that holds one of its tasks.
    job: AtomicPtr<Job<'static>>,
    /// Number of finished tasks of the current job.
    done: CachePadded<AtomicUsize>,
    sleepers: AtomicUsize,
    panicked: AtomicBool,
    /// Set by [`Pool::rest`]: idle workers sleep at once instead of spinning. Cleared by the next job.
    rest: AtomicBool,
    stop: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// Takes and runs tasks until none are left.
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
            // SAFETY: this thread holds an unfinished task, so `run` is still waiting and its `Job` is alive; the
            // pointer was stored before the ticket value that was swapped.
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

    /// Number of threads, the caller of [`Pool::run`] included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Makes idle workers sleep until the next [`Pool::run`] instead of spinning.
    pub fn rest(&mut self) {
        self.shared.rest.store(true, Ordering::Relaxed);
    }

    /// Runs `task(index, part, thread)` for consecutive parts of `data` of `len` elements each, the last perhaps of fewer;
    /// otherwise as [`Pool::run`].
    pub fn run_parts<T: Send>(&mut self, data: &mut [T], len: usize, task: &(dyn Fn(usize, &mut [T], usize) + Sync)) {
        let (count, all) = (data.len(), Parts(data.as_mut_ptr()));
        self.run(count.div_ceil(len), &|index, thread| {
            let first = index * len;
            // SAFETY: the part lies inside `data`, which is borrowed for this call, and no other task has it.
            task(index, unsafe { std::slice::from_raw_parts_mut(all.at(first), len.min(count - first)) }, thread);
        });
    }

    /// Runs `task(index, thread)` once for every index below `count` and returns when all are done. `thread` is below
    /// [`Pool::threads`] and unique among the tasks running at one time. A panic in a task is propagated to the caller.
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

/// The start of data whose parts are written by different tasks.
struct Parts<T>(*mut T);

// SAFETY: tasks access disjoint elements, which may be sent to their threads.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// A method, so that closures capture the whole `Parts`.
    fn at(&self, element: usize) -> *mut T {
        self.0.wrapping_add(element)
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
    fn every_part_is_written_by_its_own_task() {
        for (count, len) in [(0, 3), (1, 3), (9, 3), (10, 3), (1000, 7)] {
            let mut pool = Pool::new(3, ThreadOptions::default()).unwrap();
            let mut data = vec![usize::MAX; count];
            pool.run_parts(&mut data, len, &|index, part, thread| {
                assert!(thread < 3 && (part.len() == len || index == count / len));
                part.iter_mut().enumerate().for_each(|(i, to)| *to = index * len + i);
            });
            assert!(data.iter().enumerate().all(|(i, at)| i == *at), "{count} by {len}");
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
