//! The system's allocator, which counts what goes through it and refuses blocks beyond a size where a test says so.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

thread_local! {
    /// Blocks that this thread has allocated or moved.
    static OF_THREAD: Cell<u64> = const { Cell::new(0) };
    /// The thread is inside a call that receives events.
    static IS_READER: Cell<bool> = const { Cell::new(false) };
}

/// Blocks that all threads have allocated or moved.
static OF_ALL: AtomicU64 = AtomicU64::new(0);
/// Bytes in use, and the most that were since [`most`] began; each block with what an allocator adds to it.
static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// Bytes of the largest block that is given.
static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Whether allocations of the engine's threads and of its readers are counted now, and how many there were.
static WATCHED: AtomicBool = AtomicBool::new(false);
static OF_ENGINES: AtomicU64 = AtomicU64::new(0);
static OF_READERS: AtomicU64 = AtomicU64::new(0);

/// Notes a new block of that size; whether it may be given.
fn begin(bytes: usize) -> bool {
    OF_THREAD.set(OF_THREAD.get() + 1);
    OF_ALL.fetch_add(1, Relaxed);
    if WATCHED.load(SeqCst) {
        if IS_READER.get() || is_thread(b"astrai-dispatch\0") {
            OF_READERS.fetch_add(1, SeqCst);
        } else if is_thread(b"astrai-engine\0") {
            OF_ENGINES.fetch_add(1, SeqCst);
        }
    }
    if bytes > LARGEST.load(Relaxed) {
        return false;
    }
    let used = USED.fetch_add(taken(bytes), Relaxed) + taken(bytes);
    MOST.fetch_max(used, Relaxed);
    true
}

/// Notes that a block of that size is gone.
fn end(bytes: usize) {
    USED.fetch_sub(taken(bytes), Relaxed);
}

fn taken(bytes: usize) -> usize {
    bytes.next_multiple_of(16) + 16
}

/// By its name, which it has had since before the counting began.
#[cfg(target_os = "linux")]
fn is_thread(named: &[u8]) -> bool {
    let mut name = [0u8; 16];
    // SAFETY: writes at most the given length.
    let got = unsafe { libc::pthread_getname_np(libc::pthread_self(), name.as_mut_ptr().cast(), name.len()) };
    got == 0 && name.starts_with(named)
}

#[cfg(not(target_os = "linux"))]
fn is_thread(_named: &[u8]) -> bool {
    false
}

// SAFETY: every call goes to the system's allocator unchanged, or is refused as an allocator may; counting touches numbers.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !begin(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        end(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    /// Old and new block are in use at once, as where it has to be moved.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !begin(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        let moved = unsafe { System.realloc(block, layout, size) };
        end(if moved.is_null() { size } else { layout.size() });
        moved
    }
}

/// Blocks that this thread allocates during `work`.
pub fn of_thread(mut work: impl FnMut()) -> u64 {
    let before = OF_THREAD.get();
    work();
    OF_THREAD.get() - before
}

/// Blocks that all threads allocate during `work`; to be asked in a process of one test.
pub fn of_all(work: impl FnOnce()) -> u64 {
    let before = OF_ALL.load(Relaxed);
    work();
    OF_ALL.load(Relaxed) - before
}

/// Runs `work`; allocations of the engine thread and of those who receive events meanwhile.
pub fn watch(work: impl FnOnce()) -> (u64, u64) {
    OF_ENGINES.store(0, SeqCst);
    OF_READERS.store(0, SeqCst);
    WATCHED.store(true, SeqCst);
    work();
    WATCHED.store(false, SeqCst);
    (OF_ENGINES.load(SeqCst), OF_READERS.load(SeqCst))
}

/// A call that receives events.
pub fn receive<R>(call: impl FnOnce() -> R) -> R {
    IS_READER.set(true);
    let got = call();
    IS_READER.set(false);
    got
}

/// The most bytes that were in use more than before; to be asked in a process of one test.
pub fn most<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = USED.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = work();
    (MOST.load(Relaxed) - before, result)
}

/// What is still in use of the bytes that `work` allocated.
pub fn kept<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = USED.load(Relaxed);
    let result = work();
    (USED.load(Relaxed) - before, result)
}

/// What `work` gives while blocks of more than `largest` bytes are refused; in a process of one test.
pub fn refusing<R>(largest: usize, work: impl FnOnce() -> R) -> R {
    LARGEST.store(largest, Relaxed);
    let result = work();
    LARGEST.store(usize::MAX, Relaxed);
    result
}
