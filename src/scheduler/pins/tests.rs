//! Pins in the weightless simulation: the accounting after every step, and that every accepted request still finishes.

use super::super::{Batch, Capacity, GroupCapacity};
use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

fn scheduler(running_max: usize, frames: usize) -> Scheduler {
    let capacity = Capacity {
        running_max,
        waiting_max: 99,
        step_tokens: 24,
        page_tokens: 4,
        groups: vec![GroupCapacity::all(frames); 2],
        pages_max: 0,
    };
    Scheduler::new(capacity).unwrap()
}

/// One step: every row is computed, and each sequence whose newest token was reached samples one. Returns the tokens of
/// the batch.
fn step(
    scheduler: &mut Scheduler,
    batch: &mut Batch,
    sampled: &mut dyn FnMut(&mut Scheduler, SequenceHandle),
) -> usize {
    scheduler.schedule(batch);
    scheduler.check().unwrap();
    for row in batch.rows.clone() {
        scheduler.computed(&row);
        if row.logits_from < row.first + row.count {
            scheduler.append(row.sequence, 1).unwrap();
            sampled(scheduler, row.sequence);
        }
    }
    scheduler.check().unwrap();
    batch.tokens
}

/// Steps until nothing can run; returns the tokens computed.
fn settle(scheduler: &mut Scheduler) -> usize {
    let (mut batch, mut computed) = (Batch::default(), 0);
    loop {
        match step(scheduler, &mut batch, &mut |s, handle| s.finish(handle)) {
            0 => return computed,
            tokens => computed += tokens,
        }
    }
}

fn pinned(scheduler: &Scheduler, pin: SequenceHandle) -> usize {
    scheduler.pinned(pin).unwrap().tokens().len()
}

/// A request that samples once; returns what it computed and what the tree had.
fn request(scheduler: &mut Scheduler, prompt: Vec<u32>) -> (usize, usize) {
    let len = prompt.len();
    let before = scheduler.counters().prefix_tokens_hit;
    scheduler.submit(prompt, len + 1, len - 1, 0).unwrap();
    let computed = settle(scheduler);
    (computed, (scheduler.counters().prefix_tokens_hit - before) as usize)
}

#[test]
fn whole_pages_are_computed_once_and_stay() {
    let mut s = scheduler(2, 24);
    let pin = s.pin((0..42).collect()).unwrap();
    assert!(!s.pinned(pin).unwrap().is_ready());
    assert_eq!(s.pins_computing(), 1);
    assert_eq!(settle(&mut s), 40, "the last two tokens are no page");
    assert!(s.pinned(pin).unwrap().is_ready() && s.pins_computing() == 0);
    assert_eq!((pinned(&s, pin), s.counts()), (40, (0, 0, 0)));
    assert_eq!(s.pages().0, 2 * 10, "pinned pages are used, not cached");
    // Traffic that fills the pool many times over.
    for round in 1..20u32 {
        assert_eq!(request(&mut s, (0..40).map(|i| i + 1000 * round).collect()), (40, 0));
    }
    assert!(s.counters().evictions > 200);
    assert_eq!(request(&mut s, (0..45).collect()), (5, 40));
    s.unpin(pin);
    s.unpin(pin);
    assert_eq!(s.pages().0, 0);
    for round in 1..9u32 {
        request(&mut s, (0..40).map(|i| i + 1000 * round).collect());
    }
    assert_eq!(request(&mut s, (0..45).collect()), (45, 0), "it could be evicted again");
}

#[test]
fn what_is_there_already_is_pinned_at_once() {
    let mut s = scheduler(2, 40);
    assert_eq!(request(&mut s, (0..41).collect()), (41, 0));
    let pin = s.pin((0..40).collect()).unwrap();
    assert!(s.pinned(pin).unwrap().is_ready());
    assert_eq!((pinned(&s, pin), s.pin_news()), (40, PinNews { changed: true, given_up: 0 }));
    let none = s.pin(vec![1, 2, 3]).unwrap();
    assert!(s.pinned(none).unwrap().is_ready() && pinned(&s, none) == 0);
    s.check().unwrap();
    // A pin that waits for somebody else's computation ends without a row of its own, and leaves no slot taken.
    let prompt: Vec<u32> = (500..541).collect();
    s.submit(prompt.clone(), 42, 40, 0).unwrap();
    let late = s.pin(prompt).unwrap();
    let after = s.submit((900..920).collect(), 21, 19, 0).unwrap();
    assert_eq!(settle(&mut s), 41 + 20);
    assert!(s.pinned(late).unwrap().is_ready() && s.get(after).is_none());
    assert_eq!(s.counts(), (0, 0, 0));
}

#[test]
fn a_pin_can_be_cancelled_while_it_is_computed() {
    let mut s = scheduler(2, 40);
    let pin = s.pin((0..60).collect()).unwrap();
    step(&mut s, &mut Batch::default(), &mut |_, _| ());
    s.unpin(pin);
    assert_eq!(settle(&mut s), 0);
    assert!(s.pinned(pin).is_none());
    assert_eq!((s.counts(), s.pages().0, s.pages().1), ((0, 0, 0), 0, 2 * 6), "what was computed is cached");
}

#[test]
fn pins_have_their_share_and_the_refusal_has_numbers() {
    let mut s = scheduler(2, 20);
    let first = s.pin((0..24).collect()).unwrap();
    // 4 of 10 pages are left; 3 of these 8 are the first pin's.
    let error = s.pin((0..12).chain(100..120).collect()).unwrap_err();
    assert_eq!((error.status, error.unit, error.needed, error.available), (Status::Memory, Unit::Tokens, 20, 16));
    let second = s.pin((0..12).chain(100..116).collect()).unwrap();
    settle(&mut s);
    assert_eq!((pinned(&s, first), pinned(&s, second), s.pages().0), (24, 28, 2 * 10));
    s.unpin(first);
    s.pin((0..12).chain(200..212).collect()).map(|_| ()).unwrap();
    settle(&mut s);
    for i in s.pins.slots.len()..limits::PINS_MAX {
        s.pin(vec![i as u32]).unwrap();
    }
    assert_eq!(s.pin(vec![1]).unwrap_err().status, Status::QueueFull);
}

#[test]
fn the_pin_met_longest_ago_gives_way_to_the_only_request_that_is_left() {
    let mut s = scheduler(3, 20);
    let (a, b) = (s.pin((0..20).collect()).unwrap(), s.pin((100..120).collect()).unwrap());
    settle(&mut s);
    assert_eq!(request(&mut s, (0..22).collect()), (2, 20), "a is met after b");
    s.pin_news();
    // 20 pages in all: the request is accepted, but needs 17 while the pins hold 10.
    let long = s.submit((1000..1068).collect(), 68, 67, 0).unwrap();
    assert_eq!(settle(&mut s), 68);
    assert!(s.get(long).is_none());
    assert_eq!((pinned(&s, a), pinned(&s, b)), (12, 0), "first all of b, then the deepest pages of a");
    assert_eq!(s.pin_news(), PinNews { changed: true, given_up: 28 });
    assert_eq!(request(&mut s, (0..22).collect()).1, 12);
}

#[test]
fn pins_give_nothing_while_somebody_else_can_run() {
    let mut s = scheduler(3, 20);
    let pin = s.pin((0..40).collect()).unwrap();
    settle(&mut s);
    // Three that need 6 pages each, with 10 left: they take turns.
    for i in 1..4u32 {
        s.submit((0..20).map(|t| t + 1000 * i).collect(), 24, 19, 0).unwrap();
    }
    let mut batch = Batch::default();
    while step(&mut s, &mut batch, &mut |s, h| {
        if s.get(h).is_some_and(|q| q.tokens.len() >= 24) {
            s.finish(h)
        }
    }) > 0
    {}
    assert_eq!((pinned(&s, pin), s.counts()), (40, (0, 0, 0)));
}

#[test]
fn a_restored_prefix_is_adopted_whole_or_not_at_all() {
    let mut s = scheduler(2, 24);
    request(&mut s, (0..16).collect());
    let (pin, there) = s.adopt((0..40).collect()).unwrap();
    assert_eq!((there, s.pinned(pin).unwrap().pages(), pinned(&s, pin)), (4, 10, 16));
    s.check().unwrap();
    assert!(!s.pinned(pin).unwrap().is_ready());
    s.adopted(pin);
    s.check().unwrap();
    assert_eq!(pinned(&s, pin), 40);
    assert_eq!(request(&mut s, (0..44).collect()), (4, 40));
    s.unpin(pin);
    // Running sequences keep what they have: 3 pages are left beside 21, and nothing was evicted for nothing.
    let held = s.submit((500..582).collect(), 90, 81, 0).unwrap();
    let mut batch = Batch::default();
    while s.get(held).is_some_and(|q| q.tokens.len() < 83) {
        step(&mut s, &mut batch, &mut |_, _| ());
    }
    let before = (s.pages(), s.counters());
    let error = s.adopt((900..920).collect()).unwrap_err();
    assert_eq!((error.status, error.needed, error.available), (Status::Memory, 20, 12));
    assert_eq!((s.pages(), s.counters()), before);
    // Two that restore the same thing share it in the end; one that is dropped half way leaves nothing.
    s.finish(held);
    settle(&mut s);
    let (a, b) = (s.adopt((70..86).collect()).unwrap().0, s.adopt((70..86).collect()).unwrap().0);
    let c = s.adopt((70..82).collect()).unwrap().0;
    s.unpin(c);
    s.adopted(a);
    s.adopted(b);
    s.adopted(c);
    s.check().unwrap();
    assert_eq!((pinned(&s, a), pinned(&s, b), s.pages().0), (16, 16, 2 * 4));
}

struct Live {
    handle: SequenceHandle,
    len_max: usize,
}

/// Random requests, pins and restores. At the end nothing new comes, pins stay, and every request must reach its length.
fn simulate(seed: u64, steps: usize, frames: usize) -> (u64, usize) {
    let mut random = Random(seed);
    let mut s = scheduler(6, frames);
    let (mut live, mut pins, mut given_up): (Vec<Live>, Vec<SequenceHandle>, usize) = Default::default();
    let mut batch = Batch::default();
    let mut quiet = 0;
    for at in 0.. {
        if at < steps {
            while random.below(3) == 0 {
                let prompt: Vec<u32> = (0..1 + random.below(40)).map(|_| random.below(2) as u32).collect();
                let len_max = (prompt.len() + 1 + random.below(frames * 2)).min(frames * 4);
                let from = prompt.len() - 1;
                live.extend(s.submit(prompt, len_max, from, 0).map(|handle| Live { handle, len_max }));
            }
            let tokens: Vec<u32> = (0..random.below(30)).map(|_| random.below(2) as u32).collect();
            match random.below(12) {
                0 => pins.extend(s.pin(tokens)),
                1 => pins.extend(s.adopt(tokens).map(|(pin, _)| pin)),
                2 if !pins.is_empty() => s.adopted(pins[random.below(pins.len())]),
                3 if !pins.is_empty() => s.unpin(pins.swap_remove(random.below(pins.len()))),
                4 if !live.is_empty() => s.finish(live.swap_remove(random.below(live.len())).handle),
                5 if !live.is_empty() => {
                    let of = random.below(live.len());
                    s.set_paused(live[of].handle, random.below(2) == 0);
                }
                _ => {}
            }
        } else if at == steps {
            live.iter().for_each(|l| s.set_paused(l.handle, false));
        }
        let computed = step(&mut s, &mut batch, &mut |s, handle| {
            let of = live.iter().position(|l| l.handle == handle).expect("only live sequences sample");
            if s.get(handle).unwrap().tokens.len() >= live[of].len_max {
                s.finish(live.swap_remove(of).handle);
            }
        });
        given_up += s.pin_news().given_up;
        quiet = if computed == 0 { quiet + 1 } else { 0 };
        if at > steps && (live.is_empty() || quiet > 2) {
            break;
        }
        assert!(at < steps * 50, "seed {seed}: {} requests never end", live.len());
    }
    assert!(live.is_empty(), "seed {seed}: {} requests are stuck", live.len());
    settle(&mut s);
    assert_eq!(s.pins_computing(), 0, "seed {seed}");
    let held = pins.len();
    pins.into_iter().for_each(|pin| s.unpin(pin));
    s.check().unwrap();
    assert_eq!((s.pages().0, s.counts()), (0, (0, 0, 0)), "seed {seed}: everything came back");
    (given_up as u64, held)
}

#[test]
fn random_pins_keep_the_books_right_and_stop_no_request() {
    let seed = std::env::var("ASTRAI_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let (mut given_up, mut held) = (0, 0);
    for seed in seed..seed + 8 {
        let (a, b) = simulate(seed, 1500, 14);
        let (_, c) = simulate(seed, 500, 120);
        (given_up, held) = (given_up + a, held + b + c);
    }
    assert!(given_up > 100, "the small pool was meant to need pinned pages, {given_up} tokens were given up");
    assert!(held > 50, "pins were meant to be there at the end, there were {held}");
}
