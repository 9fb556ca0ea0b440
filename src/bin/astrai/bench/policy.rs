//! Ways of batching that exist to be compared with continuous batching: composed of the scheduler's phases and rows.

use super::args::PolicyName;
use astrai::scheduler::{Batch, Row, ScheduleFn, Scheduler, SequenceHandle};
use std::collections::HashMap;

impl PolicyName {
    /// What schedules the steps; `None` for continuous batching, the scheduler's own.
    pub fn schedule_fn(self) -> Option<ScheduleFn> {
        match self {
            PolicyName::Continuous => None,
            PolicyName::Static => Some(Box::new(schedule_static)),
            PolicyName::Grouped => Some(schedule_grouped()),
        }
    }
}

/// A batch is admitted together and stays together: sequences that have ended are computed along as padding until the
/// longest has ended, as `generate` on a padded tensor does.
fn schedule_static(scheduler: &mut Scheduler, batch: &mut Batch) {
    scheduler.begin(batch);
    let has_ended = |handle| scheduler.get(handle).is_none_or(|sequence| sequence.finished);
    if scheduler.running().all(has_ended) {
        scheduler.cleanup();
        scheduler.refill();
    }
    // Their newest position and its logits once more, for nobody.
    let ended = scheduler.running().filter_map(|handle| Some((handle, scheduler.get(handle)?)));
    for (sequence, state) in ended.filter(|(_, sequence)| sequence.finished && sequence.computed > 0) {
        if batch.tokens < scheduler.capacity().step_tokens {
            let first = state.computed - 1;
            batch.rows.push(Row { sequence, first, count: 1, logits_from: first, drafts: 0, prefill: false });
            batch.tokens += 1;
        }
    }
    scheduler.decode(batch);
    scheduler.prefill(batch);
}

/// Slots are filled again at once, but a forward pass takes only decode rows of one position, or prefill rows of one
/// beginning and length: prompts first, then the position that has waited longest.
fn schedule_grouped() -> ScheduleFn {
    let mut step = 0u64;
    // The last step in which a sequence had a row.
    let mut served: HashMap<SequenceHandle, u64> = HashMap::new();
    Box::new(move |scheduler, batch| {
        scheduler.begin(batch);
        scheduler.cleanup();
        scheduler.refill();
        step += 1;
        served.retain(|&handle, _| scheduler.get(handle).is_some());
        let sequences = scheduler.running().filter_map(|handle| Some((handle, scheduler.get(handle)?)));
        let can_run = sequences.filter(|(_, sequence)| sequence.can_run());
        let shapes: Vec<_> = can_run.map(|(handle, s)| (handle, (s.computed, s.pending()))).collect();
        let prompt = shapes.iter().find(|(_, (_, pending))| *pending > 1);
        let longest = || shapes.iter().min_by_key(|(handle, _)| served.get(handle).copied().unwrap_or(0));
        let Some(&(_, wanted)) = prompt.or_else(longest) else { return };
        for &(handle, _) in shapes.iter().filter(|(_, shape)| *shape == wanted) {
            scheduler.add_row(handle, batch);
        }
        served.extend(batch.rows.iter().map(|row| (row.sequence, step)));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use astrai::scheduler::{Capacity, GroupCapacity};

    /// Forward passes and tokens generated until all of `lengths` are done.
    fn run_policy(policy: PolicyName, lengths: &[usize], slots: usize) -> (usize, usize) {
        let (running_max, waiting_max, step_tokens) = (slots, 99, 256);
        let capacity = Capacity {
            running_max,
            waiting_max,
            step_tokens,
            page_tokens: 4,
            groups: vec![GroupCapacity::all(4000)],
            pages_max: 0,
        };
        let mut scheduler = Scheduler::new(capacity).unwrap();
        let mut schedule_fn = policy.schedule_fn();
        let mut left = HashMap::new();
        for (i, &length) in lengths.iter().enumerate() {
            let prompt = (0..8).map(|t| 10 * i as u32 + t).collect();
            left.insert(scheduler.submit(prompt, 8 + length, 7, 0).unwrap(), length);
        }
        let (mut batch, mut passes, mut generated) = (Batch::default(), 0, 0);
        loop {
            match &mut schedule_fn {
                Some(schedule_fn) => schedule_fn(&mut scheduler, &mut batch),
                None => scheduler.schedule(&mut batch),
            }
            scheduler.check().unwrap();
            if batch.rows.is_empty() {
                return (passes, generated);
            }
            passes += 1;
            if policy == PolicyName::Grouped {
                let shape = |r: &Row| (r.first, r.count);
                assert!(batch.rows.iter().all(|r| shape(r) == shape(&batch.rows[0])), "{:?}", batch.rows);
            }
            for row in batch.rows.clone() {
                scheduler.computed(&row);
                let padding = scheduler.get(row.sequence).unwrap().finished;
                if padding || row.logits_from == row.first + row.count {
                    continue;
                }
                scheduler.append(row.sequence, 1).unwrap();
                generated += 1;
                let left = left.get_mut(&row.sequence).unwrap();
                *left -= 1;
                if *left == 0 {
                    scheduler.finish(row.sequence);
                }
            }
        }
    }

    #[test]
    fn policies_generate_the_same_in_different_numbers_of_passes() {
        let lengths = [5, 30, 2, 7, 1, 1, 12, 3];
        let total = lengths.iter().sum::<usize>();
        // Four together until the longest is done: 30 passes, then 12.
        assert_eq!(run_policy(PolicyName::Static, &lengths, 4), (42, total));
        let (continuous, generated) = run_policy(PolicyName::Continuous, &lengths, 4);
        assert_eq!(generated, total);
        assert!(continuous <= 31, "nobody waits for a padded slot: {continuous}");
        let (grouped, generated) = run_policy(PolicyName::Grouped, &lengths, 4);
        assert_eq!(generated, total);
        assert!(grouped > continuous, "positions differ, so passes are shared less: {grouped}");
    }
}
