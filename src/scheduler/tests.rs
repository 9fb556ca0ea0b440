//! The scheduler's rules, one by one; [`super::simulation`] runs them all together.

use super::*;

#[test]
fn a_lone_request_runs_to_its_end_in_chunks() {
    let capacity = Capacity { waiting_max: 2, ..capacity(2, 8, 8) };
    let mut scheduler = Scheduler::new(capacity).unwrap();
    let handle = scheduler.submit((0..19).collect(), 21, 18, 0).unwrap();
    let mut batch = Batch::default();
    let mut seen = Vec::new();
    for _ in 0..5 {
        scheduler.schedule(&mut batch);
        for row in batch.rows.clone() {
            seen.push((row.first, row.count, row.logits_from));
            scheduler.computed(&row);
            if row.logits_from < row.first + row.count {
                scheduler.append(handle, 7).unwrap();
            }
        }
    }
    assert_eq!(seen, [(0, 8, 8), (8, 8, 16), (16, 3, 18), (19, 1, 19), (20, 1, 20)]);
}

fn capacity(running_max: usize, step_tokens: usize, frames: usize) -> Capacity {
    Capacity {
        running_max,
        waiting_max: 99,
        step_tokens,
        page_tokens: 4,
        groups: vec![GroupCapacity::all(frames)],
        pages_max: 0,
    }
}

/// Runs until `handles` have each sampled one token; returns tokens computed.
fn run_to_first_token(scheduler: &mut Scheduler, handles: &[SequenceHandle]) -> usize {
    let (mut batch, mut computed, mut sampled) = (Batch::default(), 0, 0);
    while sampled < handles.len() {
        scheduler.schedule(&mut batch);
        scheduler.check().unwrap();
        computed += batch.tokens;
        for row in batch.rows.clone() {
            scheduler.computed(&row);
            if row.logits_from < row.first + row.count {
                scheduler.append(row.sequence, 1).unwrap();
                scheduler.finish(row.sequence);
                sampled += 1;
            }
        }
    }
    computed
}

/// The most searches of the prefix tree that refill makes in a step, while 64 sequences with one beginning of `shared` tokens
/// come and go.
fn searches_of_a_refill(shared: u32) -> u64 {
    let frames = 5 * (shared as usize / 4 + 10);
    let mut scheduler = Scheduler::new(capacity(4, 64, frames)).unwrap();
    for i in 0..64 {
        let prompt: Vec<u32> = (0..shared).chain([1_000_000 + i, 7]).collect();
        let len = prompt.len();
        scheduler.submit(prompt, len + 2, len - 1, 0).unwrap();
    }
    let (mut batch, mut most) = (Batch::default(), 0);
    for _ in 0..200 {
        scheduler.begin(&mut batch);
        scheduler.cleanup();
        let (before, running) = (scheduler.tree.looks.get(), scheduler.running.len());
        scheduler.refill();
        // Whoever is admitted gets its pages one by one, once.
        let shared_now: usize =
            scheduler.running.iter().skip(running).map(|h| scheduler.get(*h).unwrap().tree_pages + 1).sum();
        most = most.max(scheduler.tree.looks.get() - before - shared_now as u64);
        scheduler.decode(&mut batch);
        scheduler.prefill(&mut batch);
        for row in batch.rows.clone() {
            scheduler.computed(&row);
            if row.logits_from < row.first + row.count {
                scheduler.append(row.sequence, 1).unwrap();
                scheduler.finish(row.sequence);
            }
        }
    }
    scheduler.check().unwrap();
    most
}

#[test]
fn refill_does_not_depend_on_how_long_the_waiting_are() {
    let [short, long] = [1_000, 100_000].map(searches_of_a_refill);
    // A step computes 16 pages, which each of those looked at finds in a few searches; nobody walks 25,000 of them.
    assert!(short > 0 && long <= 2 * short && long < 64 * 20, "{short} and {long} searches in a step");
}

#[test]
fn simultaneous_cold_arrivals_compute_a_shared_prefix_once() {
    let mut scheduler = Scheduler::new(capacity(64, 256, 600)).unwrap();
    let handles: Vec<SequenceHandle> = (0..64)
        .map(|i| {
            let prompt = (0..100).chain([200 + i, 300 + i, 5]).collect();
            scheduler.submit(prompt, 120, 102, 0).unwrap()
        })
        .collect();
    // 103 tokens for the first; everyone else begins after the 25 full pages they share.
    assert_eq!(run_to_first_token(&mut scheduler, &handles), 103 + 63 * 3);
    assert_eq!(scheduler.counters().prefix_tokens_hit, 63 * 100);
}

#[test]
fn the_next_turn_of_a_conversation_starts_from_its_own_pages() {
    let mut scheduler = Scheduler::new(capacity(2, 64, 100)).unwrap();
    let first = scheduler.submit((0..41).collect(), 60, 40, 0).unwrap();
    assert_eq!(run_to_first_token(&mut scheduler, &[first]), 41);
    let second = scheduler.submit((0..50).collect(), 60, 49, 0).unwrap();
    assert_eq!(run_to_first_token(&mut scheduler, &[second]), 10);
    assert_eq!(scheduler.get(second).unwrap().cached_tokens, Some(40));
    // The same prompt once more: its last token is always computed, so the hit ends a page earlier where they meet.
    let third = scheduler.submit((0..48).collect(), 60, 47, 0).unwrap();
    assert_eq!(run_to_first_token(&mut scheduler, &[third]), 4);
}

#[test]
fn cached_pages_give_way_to_new_sequences() {
    let mut scheduler = Scheduler::new(capacity(2, 64, 12)).unwrap();
    for round in 0..20u32 {
        let prompt: Vec<u32> = (0..40).map(|i| i * 100 + round).collect();
        let handle = scheduler.submit(prompt, 42, 39, 0).unwrap();
        assert_eq!(run_to_first_token(&mut scheduler, &[handle]), 40, "round {round}");
    }
    assert!(scheduler.counters().evictions > 100);
    assert_eq!(scheduler.counters().preemptions, 0);
}

#[test]
fn a_higher_priority_is_admitted_first() {
    let mut scheduler = Scheduler::new(capacity(1, 64, 100)).unwrap();
    let mut batch = Batch::default();
    let handles: Vec<SequenceHandle> =
        [0, 5, -1, 5].iter().map(|&p| scheduler.submit(vec![p as u32 & 7, 2], 5, 1, p).unwrap()).collect();
    let mut order = Vec::new();
    for _ in 0..4 {
        scheduler.schedule(&mut batch);
        scheduler.check().unwrap();
        order.push(handles.iter().position(|h| *h == batch.rows[0].sequence).unwrap());
        scheduler.finish(batch.rows[0].sequence);
    }
    assert_eq!(order, [1, 3, 0, 2], "by priority, then by arrival");
}

#[test]
fn what_neither_runs_nor_waits_is_refused() {
    let capacity = Capacity { waiting_max: 1, ..capacity(1, 8, 8) };
    let mut scheduler = Scheduler::new(capacity).unwrap();
    let handle = scheduler.submit(vec![1], 2, 0, 0).unwrap();
    scheduler.submit(vec![1], 2, 0, 0).unwrap();
    assert_eq!(scheduler.submit(vec![1], 2, 0, 0).unwrap_err().status, Status::QueueFull, "one may run and one wait");
    scheduler.finish(handle);
    scheduler.submit(vec![1], 2, 0, 0).unwrap();
}

#[test]
fn within_a_bucket_the_longest_cached_prefix_is_admitted_first() {
    let mut scheduler = Scheduler::new(capacity(1, 64, 100)).unwrap();
    let first = scheduler.submit((0..40).collect(), 50, 39, 0).unwrap();
    run_to_first_token(&mut scheduler, &[first]);
    let prompt = |shared: u32| (0..shared).chain(900 + shared..950).collect::<Vec<u32>>();
    let lengths = [8, 0, 32, 16];
    let handles: Vec<SequenceHandle> =
        lengths.iter().map(|&n| scheduler.submit(prompt(n), 60, 45, 0).unwrap()).collect();
    let mut batch = Batch::default();
    let mut order = Vec::new();
    for _ in 0..4 {
        scheduler.schedule(&mut batch);
        order.push(lengths[handles.iter().position(|h| *h == batch.rows[0].sequence).unwrap()]);
        scheduler.finish(batch.rows[0].sequence);
    }
    assert_eq!(order, [32, 16, 8, 0]);
}

/// A sequence of low priority and without a cached prefix, against an endless stream of better ones.
#[test]
fn nobody_starves() {
    for (priority, better) in [(0, 0), (-5, 5), (i32::MIN, i32::MAX)] {
        let mut scheduler = Scheduler::new(capacity(2, 64, 100)).unwrap();
        let mut batch = Batch::default();
        let cached: Vec<u32> = (0..40).collect();
        let warm = scheduler.submit(cached.clone(), 50, 39, better).unwrap();
        run_to_first_token(&mut scheduler, &[warm]);
        (0..8).for_each(|_| _ = scheduler.submit(cached.clone(), 50, 39, better).unwrap());
        let poor = scheduler.submit((500..540).collect(), 50, 39, priority).unwrap();
        let mut overtaken_by = 0;
        let mut seen = std::collections::HashSet::new();
        while !scheduler.get(poor).unwrap().is_running() {
            while scheduler.counts().1 < 64 {
                scheduler.submit(cached.clone(), 50, 39, better).unwrap();
            }
            scheduler.schedule(&mut batch);
            for row in batch.rows.clone() {
                let later =
                    scheduler.get(row.sequence).unwrap().rank.arrival() > scheduler.get(poor).unwrap().rank.arrival();
                overtaken_by += usize::from(row.sequence != poor && later && seen.insert(row.sequence));
                scheduler.computed(&row);
                scheduler.finish(row.sequence);
            }
            assert!(overtaken_by <= limits::OVERTAKEN_MAX + limits::AGE_BUCKET_ARRIVALS, "priority {priority}");
        }
        // Those that came before it count as admissions too.
        let counts = priority == better || overtaken_by + 16 >= limits::OVERTAKEN_MAX;
        assert!(counts, "until then the priority counts: {overtaken_by}");
    }
}

#[test]
fn who_ranks_last_gives_way_and_who_is_paused_before() {
    // Three sequences of three pages each in a pool of nine; whoever grows first needs somebody's pages.
    for (paused, priorities, expected) in
        [(None, [0, 0, 0], 2), (None, [-1, 0, 0], 0), (Some(1), [0, 0, 0], 1), (None, [0, -7, -7], 2)]
    {
        let mut scheduler = Scheduler::new(capacity(3, 64, 9)).unwrap();
        let mut batch = Batch::default();
        let handles: Vec<SequenceHandle> = (0..3)
            .map(|i| scheduler.submit((0..10).map(|t| t + 100 * i as u32).collect(), 30, 9, priorities[i]).unwrap())
            .collect();
        for _ in 0..4 {
            scheduler.schedule(&mut batch);
            scheduler.check().unwrap();
            for row in batch.rows.clone() {
                scheduler.computed(&row);
                scheduler.append(row.sequence, 7).unwrap();
            }
            if let Some(at) = paused {
                scheduler.set_paused(handles[at], true);
            }
        }
        let preempted: Vec<u32> = handles.iter().map(|h| scheduler.get(*h).unwrap().preemptions).collect();
        assert_eq!(preempted.iter().position(|&n| n > 0), Some(expected), "{priorities:?} {preempted:?}");
        assert!(preempted.iter().filter(|&&n| n > 0).count() == 1, "{preempted:?}");
    }
}

#[test]
fn any_number_of_stalled_sequences_keeps_nobody_out() {
    let mut scheduler = Scheduler::new(Capacity { waiting_max: 999, ..capacity(4, 64, 100) }).unwrap();
    let mut batch = Batch::default();
    let stalled: Vec<SequenceHandle> = (0..3 * limits::REFILL_SCAN_MAX as u32)
        .map(|i| {
            let handle = scheduler.submit(vec![i, 1, 2], 20, 2, 9).unwrap();
            while !scheduler.get(handle).unwrap().is_running() {
                scheduler.schedule(&mut batch);
                assert!(!batch.rows.is_empty(), "sequence {i} is kept out");
            }
            scheduler.set_paused(handle, true);
            handle
        })
        .collect();
    scheduler.check().unwrap();
    let reader = scheduler.submit(vec![7; 5], 20, 4, 0).unwrap();
    run_to_first_token(&mut scheduler, &[reader]);
    assert_eq!(scheduler.counts().2, stalled.len());
    // Those that are read again run again.
    scheduler.set_paused(stalled[5], false);
    run_to_first_token(&mut scheduler, &[stalled[5]]);
    stalled.iter().for_each(|&handle| scheduler.finish(handle));
    scheduler.schedule(&mut batch);
    scheduler.check().unwrap();
    assert_eq!((scheduler.counts(), scheduler.pages().0), ((0, 0, 0), 0));
}

#[test]
fn a_long_prompt_of_low_priority_is_computed_under_any_load() {
    let mut scheduler = Scheduler::new(capacity(4, 16, 2000)).unwrap();
    let mut batch = Batch::default();
    let poor = scheduler.submit(vec![5; 400], 410, 399, -9).unwrap();
    scheduler.schedule(&mut batch);
    batch.rows.iter().for_each(|row| scheduler.computed(row));
    let (mut steps, mut next) = (0, 0);
    while scheduler.get(poor).unwrap().pending() > 0 {
        while scheduler.counts().1 < 4 {
            next += 1;
            scheduler.submit((0..100).map(|t| t * 1000 + next).collect(), 110, 99, 9).unwrap();
        }
        scheduler.schedule(&mut batch);
        for row in batch.rows.clone() {
            scheduler.computed(&row);
            if row.sequence != poor && row.logits_from < row.first + row.count {
                scheduler.finish(row.sequence);
            }
        }
        steps += 1;
        assert!(steps <= 400 / 16 * (limits::UNSERVED_STEPS_MAX + 2), "no row for it, or too few");
    }
    assert!(steps > 400 / 16, "the others come first all the same");
}

#[test]
fn waits_add_up_over_preemptions() {
    let mut queue = Queue::default();
    let mut slots = Slots::new(1).unwrap();
    let handle = slots.insert(()).unwrap();
    let rank = Rank::new(-3, 0);
    let mut waited = 0;
    for _ in 0..4 {
        let since = queue.insert(rank, handle, waited);
        for _ in 0..limits::OVERTAKEN_MAX / 4 {
            assert!(queue.promote().is_none());
            queue.count_admission();
        }
        waited = queue.remove(rank, since);
    }
    queue.insert(rank, handle, waited);
    assert!(queue.promote().is_some_and(|(h, rank)| h == handle && rank.is_overdue()));
    assert!(queue.promote().is_none());
}

/// Of one whose tokens depend on later ones, a step has all rows or none, and no other gets a page of it.
#[test]
fn what_is_computed_at_once_is_in_one_step_and_shares_nothing() {
    let mut random = 7u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    // Pages for one of the longest, and half of another.
    let mut scheduler = Scheduler::new(capacity(5, 32, 12)).unwrap();
    let (mut batch, mut left, mut idle) = (Batch::default(), 300, 0);
    while left > 0 {
        for _ in 0..below(3).min(left) {
            let len = 1 + below(32) as usize;
            let handle = scheduler.submit((0..len as u32).collect(), len, len, below(3) as i32).unwrap();
            scheduler.set_computes(handle, Computes::AtOnce);
        }
        scheduler.schedule(&mut batch);
        scheduler.check().unwrap();
        assert!(batch.tokens <= 32);
        idle = if batch.rows.is_empty() { idle + 1 } else { 0 };
        assert!(idle < 100, "nothing runs");
        for row in batch.rows.clone() {
            let sequence = scheduler.get(row.sequence).unwrap();
            assert_eq!((row.first, row.count, row.logits_from), (0, sequence.prompt_len, sequence.prompt_len));
            scheduler.computed(&row);
            scheduler.finish(row.sequence);
            left = left.saturating_sub(1);
        }
    }
    scheduler.cleanup();
    assert_eq!((scheduler.pages().1, scheduler.counters().prefix_tokens_hit), (0, 0));
}

#[test]
fn what_computes_all_takes_nothing_from_the_tree_and_leaves_its_pages_there() {
    let mut scheduler = Scheduler::new(capacity(4, 64, 32)).unwrap();
    let mut batch = Batch::default();
    for (computes, cached) in [(Computes::All, 0), (Computes::All, 0), (Computes::Missing, 16)] {
        let handle = scheduler.submit((0..18).collect(), 18, 18, 0).unwrap();
        scheduler.set_computes(handle, computes);
        scheduler.schedule(&mut batch);
        assert_eq!((batch.rows[0].first, batch.rows[0].count), (cached, 18 - cached));
        scheduler.computed(&batch.rows[0].clone());
        scheduler.finish(handle);
        scheduler.check().unwrap();
    }
    scheduler.cleanup();
    assert_eq!(scheduler.pages().1, 4);
}
