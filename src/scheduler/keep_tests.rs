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
