//! Groups that do not keep all pages, rule by rule; [`super::simulation`] has them in all mixtures.

use super::*;
use crate::cache::NO_FRAME;

const PAGE: usize = 4;

/// Two groups, of which one keeps all pages and so decides how many a sequence can have.
fn scheduler(other: Keep, frames: usize) -> Scheduler {
    let groups = vec![GroupCapacity::all(64), GroupCapacity { frames, keep: other }];
    let capacity =
        Capacity { running_max: 4, waiting_max: 9, step_tokens: 64, page_tokens: PAGE, groups, pages_max: 0 };
    Scheduler::new(capacity).expect("a few pages")
}

/// Computes a prompt and generates `answer`; returns the tokens that were cached, and in how many rows the prompt was computed.
fn run(scheduler: &mut Scheduler, prompt: &[u32], answer: &[u32]) -> (usize, usize) {
    let len = prompt.len();
    let handle = scheduler.submit(prompt.to_vec(), len + answer.len() + 1, len - 1, 0).expect("room");
    let (mut batch, mut rows, mut left) = (Batch::default(), 0, answer.iter());
    loop {
        scheduler.schedule(&mut batch);
        let row = batch.rows[0];
        rows += usize::from(row.first < len);
        scheduler.computed(&row);
        scheduler.check().expect("the accounting is right");
        if row.first + row.count < scheduler.get(handle).expect("it runs").tokens.len() {
            continue;
        }
        match left.next() {
            Some(&token) => scheduler.append(handle, token).expect("memory"),
            None => break,
        }
    }
    let cached = scheduler.get(handle).and_then(|s| s.cached_tokens).expect("it was admitted");
    scheduler.finish(handle);
    scheduler.cleanup();
    scheduler.check().expect("the accounting is right");
    (cached, rows)
}

fn tokens(from: u32, count: u32) -> Vec<u32> {
    (from..from + count).collect()
}

#[test]
fn a_window_holds_its_pages_and_no_more() {
    let mut scheduler = scheduler(Keep::Window(6), 12);
    let handle = scheduler.submit(tokens(0, 20), 60, 19, 0).unwrap();
    let mut batch = Batch::default();
    for step in 0..30 {
        scheduler.schedule(&mut batch);
        scheduler.computed(&batch.rows[0]);
        let sequence = scheduler.get(handle).unwrap();
        let kept: Vec<usize> = (0..sequence.tables[1].len()).filter(|&p| sequence.tables[1][p] != NO_FRAME).collect();
        let first = Keep::Window(6).first_needed(sequence.computed, PAGE);
        assert_eq!(kept, (first..sequence.computed.div_ceil(PAGE)).collect::<Vec<_>>(), "step {step}");
        assert!(sequence.tables[0].iter().all(|&page| page != NO_FRAME));
        scheduler.append(handle, 7).unwrap();
    }
}

#[test]
fn a_beginning_is_used_as_far_as_its_window_is_there() {
    let mut scheduler = scheduler(Keep::Window(6), 12);
    let prompt = tokens(0, 22);
    assert_eq!(run(&mut scheduler, &prompt, &[]).0, 0);
    assert_eq!(run(&mut scheduler, &prompt, &[]).0, 20);
    // Another prompt takes the frames that were given back longest ago: those of the first pages.
    assert_eq!(run(&mut scheduler, &tokens(100, 40), &[]).0, 0);
    assert!(run(&mut scheduler, &[&prompt[..16], &[77; 6]].concat(), &[]).0 < 16, "what it needs is gone");
    assert!(run(&mut scheduler, &tokens(100, 40), &[]).0 > 0);
}

#[test]
fn the_next_turn_begins_at_the_end_of_the_answer() {
    let mut scheduler = scheduler(Keep::State, 12);
    let prompt = tokens(0, 22);
    let answer = tokens(1000, 15);
    // Cut where the state is saved: after five pages.
    assert_eq!(run(&mut scheduler, &prompt, &answer), (0, 2));
    let next: Vec<u32> = [&*prompt, &*answer, &[5; 9]].concat();
    assert_eq!(run(&mut scheduler, &next, &[]).0, 36);
    // The end of the prompt is kept, too; what was saved while the answer was generated is not, but for its end.
    assert_eq!(run(&mut scheduler, &[&*prompt, &[6; 9]].concat(), &[]).0, 20);
    assert_eq!(run(&mut scheduler, &[&next[..30], &[6; 9]].concat(), &[]).0, 20);
}

#[test]
fn a_branch_is_saved_when_it_is_met() {
    let mut scheduler = scheduler(Keep::State, 16);
    let persona = tokens(0, 18);
    let question = |n: u32| [&*persona, &*tokens(100 * n, 11)].concat();
    assert_eq!(run(&mut scheduler, &question(1), &[]).0, 0);
    assert_eq!(run(&mut scheduler, &question(2), &[]), (0, 3), "it is cut at the branch and at its end");
    assert_eq!(run(&mut scheduler, &question(3), &[]).0, 16, "now there is a state at the branch");
}

#[test]
fn who_waits_for_anothers_prompt_begins_where_they_part() {
    let mut scheduler = scheduler(Keep::State, 16);
    let persona = tokens(0, 18);
    let question = |n: u32, count: u32| [&*persona, &*tokens(100 * n, count)].concat();
    for (n, count) in [(1, 30), (2, 11), (3, 12)] {
        let prompt = question(n, count);
        let len = prompt.len();
        scheduler.submit(prompt, len + 1, len - 1, 0).expect("room");
    }
    let mut batch = Batch::default();
    scheduler.schedule(&mut batch);
    let rows: Vec<(usize, usize)> = batch.rows.iter().map(|r| (r.first, r.count)).collect();
    assert_eq!(rows, [(0, 16)], "the first one's row ends at the last page that all have");
    scheduler.computed(&batch.rows[0].clone());
    scheduler.schedule(&mut batch);
    let firsts: Vec<usize> = batch.rows.iter().map(|r| r.first).collect();
    assert_eq!(firsts, [16, 16, 16]);
    scheduler.check().expect("the accounting is right");
}

/// A step whose row has these drafts after what `sequence` has; its samples are `sampled`.
fn draft(scheduler: &mut Scheduler, handle: SequenceHandle, drafts: &[u32], sampled: &[u32]) -> Row {
    let mut batch = Batch::default();
    scheduler.offer_drafts(handle, drafts);
    scheduler.schedule(&mut batch);
    let row = batch.rows[0];
    scheduler.computed(&row);
    for (index, &token) in sampled.iter().enumerate() {
        assert_eq!(scheduler.is_unsettled(handle), row.drafts > 0, "sample {index}");
        scheduler.append(handle, token).expect("memory");
        scheduler.check().expect("the accounting is right");
    }
    assert!(!scheduler.is_unsettled(handle));
    row
}

#[test]
fn drafts_are_kept_as_far_as_they_are_sampled() {
    let mut scheduler = scheduler(Keep::Window(6), 12);
    let handle = scheduler.submit(tokens(0, 9), 60, 8, 0).unwrap();
    assert_eq!(scheduler.drafts_max(handle), 0, "it waits");
    draft(&mut scheduler, handle, &[], &[20]);
    let row = draft(&mut scheduler, handle, &[21, 22, 23, 24], &[21, 22, 99]);
    assert_eq!((row.first, row.count, row.drafts, row.logits_from, row.prefill), (9, 5, 4, 9, false));
    let sequence = scheduler.get(handle).unwrap();
    assert_eq!((sequence.computed, sequence.tokens.len(), sequence.logits_from), (12, 13, 12));
    assert_eq!((sequence.drafted, sequence.accepted, sequence.tables[0].len()), (4, 2, 4));
    // A draft as long as there are places; all of it is right.
    let row = draft(&mut scheduler, handle, &[30, 31], &[30, 31, 32]);
    assert_eq!((row.first, row.count), (12, 3));
    assert_eq!(scheduler.get(handle).unwrap().computed, 15);
    // Nobody takes more: what was sampled behind is of no use.
    let mut batch = Batch::default();
    scheduler.offer_drafts(handle, &[40, 41]);
    scheduler.schedule(&mut batch);
    scheduler.computed(&batch.rows[0].clone());
    scheduler.append(handle, 40).unwrap();
    scheduler.set_paused(handle, true);
    assert!(!scheduler.is_unsettled(handle));
    let sequence = scheduler.get(handle).unwrap();
    assert_eq!((sequence.computed, sequence.tokens.len(), sequence.logits_from), (16, 17, 16));
    scheduler.check().expect("the accounting is right");
}

#[test]
fn a_state_sees_again_what_refused_drafts_have_spoilt() {
    let mut scheduler = scheduler(Keep::State, 12);
    let handle = scheduler.submit(tokens(0, 9), 60, 8, 0).unwrap();
    draft(&mut scheduler, handle, &[], &[]);
    draft(&mut scheduler, handle, &[], &[20]);
    // Positions 9, 10 and 11 are the last of a page.
    assert_eq!(scheduler.drafts_max(handle), 2);
    let state = scheduler.get(handle).unwrap().states[1].current;
    let row = draft(&mut scheduler, handle, &[21, 99, 98], &[21, 22]);
    assert_eq!((row.first, row.count, row.drafts), (9, 3, 2));
    let sequence = scheduler.get(handle).unwrap();
    assert_eq!((sequence.computed, sequence.tokens.len(), sequence.states[1].current), (9, 12, state));
    assert_eq!(scheduler.drafts_max(handle), 0, "not before it has seen them");
    let row = draft(&mut scheduler, handle, &[], &[23]);
    assert_eq!((row.first, row.count, row.logits_from, row.prefill), (9, 3, 11, false));
    // The whole row was right: the state after it is kept, and as the end of a page in the tree.
    let row = draft(&mut scheduler, handle, &[24, 25, 26], &[24, 25, 26, 27]);
    assert_eq!((row.first, row.count), (12, 4));
    let sequence = scheduler.get(handle).unwrap();
    assert_eq!((sequence.computed, sequence.tree_pages), (16, 4));
    assert_ne!(sequence.states[1].current, NO_FRAME);
}

#[test]
fn a_pin_keeps_what_its_end_needs() {
    for keep in [Keep::Window(6), Keep::State] {
        let mut scheduler = scheduler(keep, 12);
        let pin = scheduler.pin(tokens(0, 16)).unwrap();
        let mut batch = Batch::default();
        while scheduler.pins_computing() > 0 {
            scheduler.schedule(&mut batch);
            batch.rows.iter().for_each(|row| scheduler.computed(row));
            scheduler.check().unwrap();
        }
        // Others come and go, more than there are frames.
        for n in 1..9 {
            run(&mut scheduler, &tokens(1000 * n, 30), &tokens(5, 7));
        }
        assert_eq!(run(&mut scheduler, &[tokens(0, 16), vec![9; 5]].concat(), &[]).0, 16, "{keep:?}");
        scheduler.unpin(pin);
        scheduler.check().unwrap();
    }
}

#[test]
fn pins_leave_frames_for_ends_and_a_pin_that_loses_its_end_is_given_up() {
    let mut scheduler = scheduler(Keep::Window(6), 12);
    let mut batch = Batch::default();
    let mut pins = Vec::new();
    let refused = loop {
        match scheduler.pin(tokens(1000 * pins.len() as u32, 12)) {
            Ok(pin) => pins.push(pin),
            Err(error) => break error,
        }
        while scheduler.pins_computing() > 0 {
            scheduler.schedule(&mut batch);
            batch.rows.iter().for_each(|row| scheduler.computed(row));
        }
        scheduler.check().unwrap();
    };
    // Each needs the pages of its last five keys.
    assert_eq!((refused.status, pins.len(), refused.available), (Status::Memory, 3, 0), "{refused}");
    // A sequence that has no other way takes a whole pin, not its last page.
    let handle = scheduler.submit(tokens(9000, 250), 255, 249, 0).unwrap();
    while scheduler.get(handle).is_some_and(|s| s.pending() > 0) {
        scheduler.schedule(&mut batch);
        assert!(!batch.rows.is_empty(), "it gets on");
        batch.rows.iter().for_each(|row| scheduler.computed(row));
        scheduler.check().unwrap();
    }
    let left: Vec<usize> = pins.iter().map(|&pin| scheduler.pinned(pin).unwrap().pages()).collect();
    assert!(left.iter().all(|pages| [0, 3].contains(pages)) && left.contains(&0), "{left:?}");
    assert!(scheduler.pin_news().given_up >= 12);
}

#[test]
fn what_has_passed_goes_before_the_ends_of_others() {
    let mut scheduler = scheduler(Keep::Window(6), 30);
    let prompt = tokens(0, 22);
    assert_eq!(run(&mut scheduler, &prompt, &[]).0, 0);
    // A long prompt passes through more frames than there are.
    assert_eq!(run(&mut scheduler, &tokens(100, 160), &[]).0, 0);
    assert_eq!(run(&mut scheduler, &prompt, &[]).0, 20, "the end of the first is still there");
}
