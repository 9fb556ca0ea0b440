//! A step of the scheduler allocates nothing in steady state: counted by an allocator that wraps the system's.

mod fake;

use fake::Fake;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a plain thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(mut work: impl FnMut()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 1);
}

/// 256 sequences of 2,000 tokens and more: full pages enter the tree and new ones are taken all the time.
#[test]
fn a_step_allocates_nothing() {
    let mut fake = Fake::warmed_up(256, 2000, 256 * 200);
    let before = fake.scheduler.pages().0;
    assert_eq!(allocations(|| (0..512).for_each(|_| fake.step())), 0);
    let taken = fake.scheduler.pages().0 - before;
    assert_eq!(taken, 256 * 512 / 16, "every sequence filled 32 pages meanwhile");
    fake.scheduler.check().unwrap();
}

/// The same where every new page has to be evicted from the tree first.
#[test]
fn eviction_allocates_nothing() {
    let mut fake = Fake::warmed_up(16, 256, 16 * 80);
    for handle in fake.handles() {
        fake.scheduler.finish(handle);
    }
    for i in 0..16u32 {
        let prompt: Vec<u32> = (0..256).map(|t| t * 2003 + i).collect();
        fake.scheduler.submit(prompt, 2456, 255, 0).unwrap();
    }
    let cached = |fake: &Fake| fake.scheduler.pages().1;
    while fake.scheduler.pages().2 > 0 || fake.plan.tokens != 16 {
        fake.step();
    }
    let evicted = fake.scheduler.counters().evictions;
    assert!(cached(&fake) > 64);
    assert_eq!(allocations(|| (0..32).for_each(|_| fake.step())), 0);
    assert!(fake.scheduler.counters().evictions >= evicted + 16, "the pool was meant to be full");
}
