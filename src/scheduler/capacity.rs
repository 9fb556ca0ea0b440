//! What a scheduler may use.

use crate::cache::Keep;

/// What a scheduler may use.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// Sequences running at once.
    pub running_max: usize,
    /// Sequences waiting.
    pub waiting_max: usize,
    /// Tokens of a step.
    pub step_tokens: usize,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// The layer groups.
    pub groups: Vec<GroupCapacity>,
    /// Pages that one sequence may have, where no group keeps them all.
    pub pages_max: usize,
}

/// What a layer group may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupCapacity {
    /// Page frames.
    pub frames: usize,
    /// What has to be kept of what was computed.
    pub keep: Keep,
}

impl GroupCapacity {
    /// A group that keeps every page.
    pub fn all(frames: usize) -> GroupCapacity {
        GroupCapacity { frames, keep: Keep::All }
    }
}

impl Capacity {
    /// Pages that one sequence can have: those of the smallest group that keeps all.
    pub fn pages(&self) -> usize {
        let whole = self.groups.iter().filter(|group| group.keep == Keep::All);
        whole.map(|group| group.frames).min().unwrap_or(self.pages_max)
    }

    /// Pages that the prefix tree may have: more than sequences and pins use at one time.
    pub(super) fn tree_pages(&self) -> usize {
        let all = self.groups.iter().any(|group| group.keep == Keep::All);
        if all { self.pages() } else { self.pages_max * (self.running_max + 1) }
    }
}
