//! The scheduler at work for a model that computes nothing: every sequence gets a token a step.

use astrai::scheduler::{Batch, Capacity, GroupCapacity, Scheduler, SequenceHandle};

/// Scheduler, batch and a fake model's next token.
pub struct Fake {
    pub scheduler: Scheduler,
    pub batch: Batch,
    next: u32,
}

impl Fake {
    /// `running` sequences whose prompts of `prompt_len` tokens have been computed, in a pool of `frames` pages of 16.
    pub fn warmed_up(running: usize, prompt_len: usize, frames: usize) -> Fake {
        let capacity = Capacity {
            running_max: running,
            waiting_max: running,
            step_tokens: 8192,
            page_tokens: 16,
            groups: vec![GroupCapacity::all(frames)],
            pages_max: frames,
        };
        let scheduler = Scheduler::new(capacity).expect("the accounting fits into memory");
        let mut fake = Fake { scheduler, batch: Batch::default(), next: 0 };
        for i in 0..running as u32 {
            let prompt = (0..prompt_len as u32).map(|t| t * 1009 + i).collect();
            fake.scheduler.submit(prompt, prompt_len + 2200, prompt_len - 1, 0).expect("it fits");
        }
        // Until everyone decodes, and for a while longer: vectors grow to their working size.
        while fake.batch.rows.len() < running || fake.batch.tokens > running {
            fake.step();
        }
        (0..64).for_each(|_| fake.step());
        fake
    }

    /// Plans a step, "computes" it and appends a token to every sequence.
    pub fn step(&mut self) {
        self.scheduler.schedule(&mut self.batch);
        for row in &self.batch.rows {
            self.scheduler.computed(row);
            if row.logits_from < row.first + row.count {
                self.next = self.next.wrapping_mul(1664525).wrapping_add(1013904223);
                self.scheduler.append(row.sequence, self.next).unwrap();
            }
        }
    }

    /// The running sequences of the last step.
    #[allow(dead_code, reason = "not every user of this module asks")]
    pub fn handles(&self) -> Vec<SequenceHandle> {
        self.batch.rows.iter().map(|r| r.sequence).collect()
    }
}
