//! The proof of law 3: every page, node and slot is accounted for.

use super::{Scheduler, Sequence};
use crate::cache::{NO_FRAME, PagePool};
use crate::error::{Error, Result, reserved};

impl Scheduler {
    /// Proves law 3, or says what is wrong.
    pub fn check(&self) -> Result<()> {
        // Counters of each page and node, as a check of a group makes them.
        let pages = self.pools.iter().map(PagePool::total).max().unwrap_or(0);
        reserved::<[u32; 4]>("the counters of a check", pages)?;
        let wrong = |what: String| Error::internal(format!("the scheduler's accounting is wrong: {what}"));
        for (group, pool) in self.pools.iter().enumerate() {
            let owned = self
                .sequences
                .iter()
                .flat_map(|(_, s)| s.tables[group].iter().copied().chain(s.states[group].frames()));
            let owned = owned.chain(self.pinned_frames(group)).filter(|&page| page != NO_FRAME);
            pool.check(owned.chain(self.tree.pages(group))).map_err(|e| wrong(format!("group {group}: {e}")))?;
        }
        self.tree.check(self.running.iter().filter_map(|r| Some(self.sequences.get(*r)?.node))).map_err(wrong)?;
        self.check_pins().map_err(wrong)?;
        if self.slots.len() != self.running.len() {
            return Err(wrong(format!("{} slots for {} running sequences", self.slots.len(), self.running.len())));
        }
        let ended_waiting = self.finished.len() - self.finished_running();
        let listed = self.running.len() + self.waiting.len() + (self.paused - self.paused_running) + ended_waiting;
        if self.sequences.len() != listed {
            return Err(wrong(format!("{} sequences, but {listed} run, wait or have ended", self.sequences.len())));
        }
        let count = |which: fn(&Sequence) -> bool| self.sequences.iter().filter(|(_, s)| which(s)).count();
        let counts = [
            ("paused", self.paused, count(|s| s.paused)),
            ("paused running", self.paused_running, count(|s| s.paused && s.is_running())),
            ("ended", self.finished.len(), count(|s| s.finished)),
            ("ended running", self.finished_running(), count(|s| s.finished && s.is_running())),
        ];
        if let Some((what, counted, are)) = counts.into_iter().find(|(_, counted, are)| counted != are) {
            return Err(wrong(format!("{are} sequences are {what}, {counted} are counted")));
        }
        let ranks = || self.running.iter().filter_map(|r| Some(self.sequences.get(*r)?.rank));
        if !ranks().zip(ranks().skip(1)).all(|(a, b)| a < b) {
            return Err(wrong("running sequences are not in the order of their ranks".into()));
        }
        for (handle, sequence) in self.sequences.iter() {
            sequence.check(self.capacity.page_tokens).map_err(wrong)?;
            let listed = self.running.contains(&handle);
            if listed != sequence.is_running() {
                return Err(wrong(format!("{handle:?} is in state {:?}", sequence.state)));
            }
        }
        Ok(())
    }
}
