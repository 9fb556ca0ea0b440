//! Ways of batching that exist to be compared with continuous batching: composed of the scheduler's phases and rows.

use super::args::PolicyName;
use astrai::scheduler::{BatchPlan, PlanFn, Row, Scheduler, SequenceHandle};
use std::collections::HashMap;

impl PolicyName {
    /// What plans the steps; `None` for continuous batching, the scheduler's own.
    pub fn planner(self) -> Option<PlanFn> {
        match self {
            PolicyName::Continuous => None,
            PolicyName::Static => Some(Box::new(plan_static)),
            PolicyName::Grouped => Some(plan_grouped()),
        }
    }
}

/// A batch is admitted together and stays together: sequences that have ended are computed along as padding until the
/// longest has ended, as `generate` on a padded tensor does.
fn plan_static(scheduler: &mut Scheduler, plan: &mut BatchPlan) {
    scheduler.begin(plan);
    let has_ended = |handle| scheduler.get(handle).is_none_or(|sequence| sequence.finished);
    if scheduler.running().all(has_ended) {
        scheduler.cleanup();
        scheduler.refill();
    }
    // Their newest position and its logits once more, for nobody.
    let ended = scheduler.running().filter_map(|handle| Some((handle, scheduler.get(handle)?)));
    for (sequence, state) in ended.filter(|(_, sequence)| sequence.finished && sequence.computed > 0) {
        if plan.tokens < scheduler.capacity().step_tokens {
            let first = state.computed - 1;
            plan.rows.push(Row { sequence, first, count: 1, logits_from: first });
            plan.tokens += 1;
        }
    }
    scheduler.decode(plan);
    scheduler.prefill(plan);
}

/// Slots are filled again at once, but a forward pass takes only decode rows of one position, or prefill rows of one
/// beginning and length: prompts first, then the position that has waited longest.
fn plan_grouped() -> PlanFn {
    let mut step = 0u64;
    // The last step in which a sequence had a row.
    let mut served: HashMap<SequenceHandle, u64> = HashMap::new();
    Box::new(move |scheduler, plan| {
        scheduler.begin(plan);
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
            scheduler.add_row(handle, plan);
        }
        served.extend(plan.rows.iter().map(|row| (row.sequence, step)));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use astrai::scheduler::Capacity;

    /// Forward passes and tokens generated until all of `lengths` are done.
    fn run_policy(policy: PolicyName, lengths: &[usize], slots: usize) -> (usize, usize) {
        let (running_max, waiting_max, step_tokens) = (slots, 99, 256);
        let capacity = Capacity { running_max, waiting_max, step_tokens, page_tokens: 4, frames: vec![4000] };
        let mut scheduler = Scheduler::new(capacity).unwrap();
        let mut planner = policy.planner();
        let mut left = HashMap::new();
        for (i, &length) in lengths.iter().enumerate() {
            let prompt = (0..8).map(|t| 10 * i as u32 + t).collect();
            left.insert(scheduler.submit(prompt, 8 + length, 7, 0).unwrap(), length);
        }
        let (mut plan, mut passes, mut generated) = (BatchPlan::default(), 0, 0);
        loop {
            match &mut planner {
                Some(planner) => planner(&mut scheduler, &mut plan),
                None => scheduler.plan(&mut plan),
            }
            scheduler.check().unwrap();
            if plan.rows.is_empty() {
                return (passes, generated);
            }
            passes += 1;
            if policy == PolicyName::Grouped {
                let shape = |r: &Row| (r.first, r.count);
                assert!(plan.rows.iter().all(|r| shape(r) == shape(&plan.rows[0])), "{:?}", plan.rows);
            }
            for row in plan.rows.clone() {
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
