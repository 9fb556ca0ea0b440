//! Law 1 on every model, on all targets of the process: storms, and the cases that must not wait for a storm's luck.

use super::*;
use crate::support::models;
use crate::support::models::fixture;
use crate::support::random::{rounds, seed};
use crate::support::target;
use std::path::Path;

/// Every fixture has a context of 256 tokens.
fn tiny(dir: &Path, target: Target, jobs: usize) -> Place {
    Place { dir: dir.into(), target, prompt_max: 200, jobs }
}

fn storyteller(target: Target, jobs: usize) -> Place {
    let dir = models::storyteller();
    Place { dir, target, prompt_max: 600, jobs }
}

pub fn a_token_never_depends_on_its_neighbours(models: &[PathBuf], jobs: usize) -> Tally {
    let seed = seed();
    let mut tally = Tally::default();
    for round in 0..rounds() {
        for (index, dir) in models.iter().enumerate() {
            for target in target::all() {
                tally.add(storm(&tiny(dir, target, jobs), seed + round * 100 + index as u64));
            }
        }
    }
    println!("{tally:?}");
    tally
}

pub fn the_storyteller_obeys_law_one_too(jobs: usize) {
    let seed = seed();
    let mut tally = Tally::default();
    for round in 0..rounds() {
        for (index, target) in target::all().into_iter().enumerate() {
            tally.add(storm(&storyteller(target, jobs), seed + round * 100 + index as u64));
        }
    }
    // A few requests of one round need not be of every kind; the tiny models' are, and those of the next test.
    println!("{tally:?}");
    assert!(tally.finished > 0, "{tally:?}");
}

/// Preemption, hits, stalls and a cancel on the storyteller, which do not wait for luck: two readers stall with four fifths of
/// the pages, of which there are 10 `size`, and a third request needs more than the rest.
pub fn the_storyteller_is_preempted_and_nobody_can_see_it(size: usize) {
    let seed = seed();
    for (index, target) in target::all().into_iter().enumerate() {
        let (place, mut random) = (storyteller(target, 4), Random(seed + index as u64));
        let shape = Shape {
            running: 4,
            step_tokens: 70,
            page_tokens: 16,
            pages: 10 * size as u64,
            poll: false,
            drafts: Drafts::None,
            ..Shape::random(&mut random, 1, &place)
        };
        let crowd = shape.open(&place);
        let vocab = crowd.info().vocab_size as usize;
        let mut job = |len: usize, queue_tokens: usize| {
            let mut storming = Storming::generating(&mut random, &place, vocab);
            (storming.way, storming.fate) = (Way::Pull, Fate::Runs);
            storming.job.prompt = (0..len).map(|_| random.below(vocab) as u32).collect();
            let options = &mut storming.job.options;
            (options.deadline_ms, options.queue_tokens, options.max_tokens) = (0, queue_tokens as u32, Some(20));
            options.prompt_logprobs = false;
            storming.stop_tokens.clear();
            storming
        };
        let (lazy, greedy) = ([job(62 * size, 1), job(62 * size, 1)], job(100 * size, 1000));
        let stalled: Vec<Running> = (1..)
            .zip(&lazy)
            .map(|(count, storming)| {
                let running = storming.submit(&crowd);
                while crowd.stats().unwrap().stalled < count {
                    std::thread::yield_now();
                }
                running
            })
            .collect();
        assert_eq!(crowd.stats().unwrap().preemptions, 0);
        let alone = |storming: &Storming| answer(&storming.alone(&shape.open_cold(&place)));
        let want = alone(&greedy);
        assert_eq!(answer(&drain(&greedy.submit(&crowd).request)), want);
        assert!(crowd.stats().unwrap().preemptions > 0);
        // It begins with what is cached now.
        let hits = crowd.stats().unwrap().prefix_tokens_hit;
        assert_eq!(answer(&drain(&greedy.submit(&crowd).request)), want);
        assert!(crowd.stats().unwrap().prefix_tokens_hit > hits);
        // One is cancelled before it read anything, the other one reads everything.
        stalled[0].request.cancel();
        let events = drain(&stalled[0].request);
        assert_eq!((events.len(), events[0].finish, events[0].tokens.len()), (1, FinishReason::Cancel, 0));
        assert_eq!(answer(&drain(&stalled[1].request)), alone(&lazy[1]));
        crowd.check().unwrap();
        assert_eq!(crowd.stats().unwrap().pages_used, 0);
    }
}

/// A whole batch of 64 at once, whose prompts of every length from 1 on are cut into pieces.
pub fn sixty_four_at_once_are_each_as_if_alone(generated: u32) {
    let seed = seed();
    for (index, target) in target::all().into_iter().enumerate() {
        let (place, mut random) = (tiny(&fixture("llama"), target, 64), Random(seed + index as u64));
        let shape = Shape {
            running: 64,
            step_tokens: 200,
            page_tokens: 16,
            pages: 64 * 6,
            poll: false,
            drafts: Drafts::None,
            ..Shape::random(&mut random, 1, &place)
        };
        let (crowd, alone) = (shape.open(&place), shape.open_cold(&place));
        let vocab = crowd.info().vocab_size as usize;
        let jobs: Vec<Job> = (0..64)
            .map(|i| {
                let mut job = Storming::generating(&mut random, &place, vocab).job;
                job.prompt = (0..=i).map(|_| random.below(vocab) as u32).collect();
                let options = &mut job.options;
                (options.deadline_ms, options.queue_tokens, options.max_tokens) = (0, 1000, Some(generated));
                (options.priority, options.prompt_logprobs, options.defer) = (0, false, false);
                job
            })
            .collect();
        // All of them are there before the first step.
        assert!(crowd.pause(None).unwrap());
        let requests: Vec<Request> = jobs.iter().map(|job| job.submit(&crowd, Sink::Pull)).collect();
        crowd.resume().unwrap();
        let answers: Vec<Answer> = requests.iter().map(|request| answer(&drain(request))).collect();
        let pieces: u64 = (1..=64u64).sum::<u64>() / 100;
        let steps = crowd.stats().unwrap().steps;
        assert!(steps <= u64::from(generated) + pieces, "{steps} steps: they were not in one batch");
        for (job, got) in jobs.iter().zip(answers) {
            let want = answer(&drain(&job.submit(&alone, Sink::Pull)));
            assert_eq!(got, want, "{target:?}, prompt of {}, {:?}", job.prompt.len(), job.options);
            alone.clear_cache().unwrap();
        }
    }
}

/// Law 6: engines side by side, of one model and of several, on one device and on several, give what each would give alone.
pub fn engines_side_by_side_do_not_notice_each_other(models: [&str; 3], targets: [Target; 3], jobs: usize) {
    let seed = seed();
    for round in 0..rounds() {
        std::thread::scope(|scope| {
            for (index, (model, target)) in models.into_iter().zip(targets).enumerate() {
                scope.spawn(move || storm(&tiny(&fixture(model), target, jobs), seed + round * 100 + index as u64));
            }
        });
    }
}

/// A cancel in the middle of a long prompt, on purpose, until it has happened; its neighbour does not notice.
pub fn a_cancel_in_the_middle_of_a_prompt_gives_everything_back(times: u32) {
    let options = EngineOptions { threads: 1, max_running: 2, step_tokens: 1, ..target::fastest().options() };
    let engine = Engine::open(&fixture("llama"), options).unwrap();
    let job = |first: u32, n: u32| Job {
        prompt: (0..240).map(|i| (first + i * 7) % 128).collect(),
        options: RequestOptions { max_tokens: Some(n), ignore_eos: true, ..RequestOptions::default() },
    };
    let want = answer(&drain(&job(5, 10).submit(&engine, Sink::Pull)));
    let mut in_prefill = 0;
    for first in 0..200 {
        if in_prefill == times {
            break;
        }
        let steps = engine.stats().unwrap().steps;
        // Each begins differently, so that none is in the cache.
        let request = job(first, 10).submit(&engine, Sink::Pull);
        let neighbour = job(5, 10).submit(&engine, Sink::Pull);
        while engine.stats().unwrap().steps < steps + 20 {
            std::hint::spin_loop();
        }
        request.cancel();
        let events = drain(&request);
        let last = events.last().unwrap();
        let usage = last.usage.unwrap();
        in_prefill += u32::from(last.finish == FinishReason::Cancel && usage.generated_tokens == 0);
        assert_eq!(answer(&drain(&neighbour)), want);
        engine.check().unwrap();
        assert_eq!(engine.stats().unwrap().pages_used, 0);
    }
    assert_eq!(in_prefill, times, "no cancel met its request in the middle of the prompt");
}
