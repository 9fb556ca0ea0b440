//! What each layer group of a model keeps, and how many page frames it gets.
//!
//! A group that keeps all pages has as many frames as memory allows. One that keeps a window has what the running sequences hold
//! at a time and a step adds, and as much again for the ends of what the prefix cache has. One that keeps a state has two frames
//! for each sequence that runs with pages of a whole context, of which a step reads one and writes the other, and one for each
//! [`STATE_TOKENS`] tokens of the others' pages, but no more bytes than those take: the states of the prefix cache, which give way to
//! sequences that are shorter and more.

use crate::backend::FrameContent;
use crate::cache::Keep;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::Architecture;
use crate::model::architecture::LayerGroup;
use crate::scheduler::GroupCapacity;

/// The prefix cache has a state for so many tokens: about one for each turn of a conversation.
const STATE_TOKENS: usize = 1024;

/// What a group keeps.
pub(super) fn keep_of(group: &LayerGroup) -> Keep {
    match (group.content, group.window) {
        (FrameContent::State, _) => Keep::State,
        (_, Some(window)) => Keep::Window(window as usize),
        (_, None) => Keep::All,
    }
}

/// A layer group in a memory plan.
#[derive(Clone, Copy, Debug)]
struct GroupSize {
    keep: Keep,
    frame_bytes: u64,
    /// The most frames that it can use.
    frames_max: usize,
}

impl GroupSize {
    fn is_paged(&self) -> bool {
        self.keep != Keep::State
    }
}

/// The layer groups in a memory plan.
#[derive(Clone, Debug)]
pub(super) struct GroupSizes {
    groups: Vec<GroupSize>,
    page_tokens: usize,
    running_max: usize,
    /// Longest sequence, in tokens.
    context: usize,
}

impl GroupSizes {
    /// Those of a model. A step has `step_tokens` tokens of at most `running_max` sequences of up to `context` tokens.
    ///
    /// # Errors
    /// `Format` when a page is larger than can be addressed.
    pub fn of(
        a: &Architecture,
        page_tokens: usize,
        kv: DType,
        running_max: usize,
        step_tokens: usize,
        context: usize,
    ) -> Result<GroupSizes> {
        let size = |group: &LayerGroup| {
            let frame_bytes = group.shape(1, page_tokens, kv).frame_bytes().ok_or_else(too_large)? as u64;
            let keep = keep_of(group);
            let frames_max = match keep {
                Keep::All | Keep::State => usize::MAX,
                Keep::Window(_) => {
                    let held = running_max.saturating_mul(keep.pages_max(page_tokens));
                    held.saturating_mul(2).saturating_add(step_tokens.div_ceil(page_tokens) + running_max)
                }
            };
            Ok(GroupSize { keep, frame_bytes, frames_max })
        };
        let groups = a.groups().iter().map(size).collect::<Result<_>>()?;
        Ok(GroupSizes { groups, page_tokens, running_max, context: context.max(1) })
    }

    /// Bytes of a page in all groups that have pages.
    ///
    /// # Errors
    /// `Format` when it is larger than can be addressed.
    pub fn page_bytes(&self) -> Result<u64> {
        let sum = |sum: u64, group: &GroupSize| sum.checked_add(group.frame_bytes);
        self.groups.iter().filter(|group| group.is_paged()).try_fold(0, sum).ok_or_else(too_large)
    }

    /// Bytes of a frame of each group.
    pub fn frame_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.frame_bytes).fold(0, u64::saturating_add)
    }

    /// What the groups may use when those that keep all have `frames` frames.
    pub fn capacities(&self, frames: usize) -> impl Iterator<Item = GroupCapacity> + '_ {
        self.groups.iter().map(move |group| GroupCapacity { frames: self.frames_of(group, frames), keep: group.keep })
    }

    fn frames_of(&self, group: &GroupSize, frames: usize) -> usize {
        if group.is_paged() {
            return frames.min(group.frames_max);
        }
        let tokens = frames.saturating_mul(self.page_tokens);
        let running = tokens.div_ceil(self.context).clamp(1, self.running_max.max(1));
        let pages = self.bytes_of(frames, GroupSize::is_paged).unwrap_or(u64::MAX) / group.frame_bytes.max(1);
        let saved = tokens.div_ceil(STATE_TOKENS).min(usize::try_from(pages).unwrap_or(usize::MAX)).max(1);
        (2 * running).saturating_add(saved)
    }

    /// Tokens of the group with the most pages then.
    pub fn tokens(&self, frames: usize) -> u64 {
        let paged = self.groups.iter().filter(|group| group.is_paged());
        let most = paged.map(|group| self.frames_of(group, frames)).max().unwrap_or(0);
        (most as u64).saturating_mul(self.page_tokens as u64)
    }

    /// Bytes of all frames then; `None` for more than can be addressed.
    pub fn bytes(&self, frames: usize) -> Option<u64> {
        self.bytes_of(frames, |_| true)
    }

    /// Bytes of the frames with states.
    pub fn state_bytes(&self, frames: usize) -> u64 {
        self.bytes_of(frames, |group| !group.is_paged()).unwrap_or(u64::MAX)
    }

    fn bytes_of(&self, frames: usize, counts: impl Fn(&GroupSize) -> bool) -> Option<u64> {
        let each = self.groups.iter().filter(|group| counts(group));
        each.map(|group| group.frame_bytes.checked_mul(self.frames_of(group, frames) as u64))
            .try_fold(0u64, |sum, bytes| sum.checked_add(bytes?))
    }

    /// The most frames, up to `wanted`, that so many bytes hold.
    pub fn affordable(&self, bytes: u64, wanted: usize) -> usize {
        let fits = |frames: usize| self.bytes(frames).is_some_and(|taken| taken <= bytes);
        if fits(wanted) {
            return wanted;
        }
        // `there` frames fit, `beyond` do not.
        let (mut there, mut beyond) = (0, wanted);
        while beyond - there > 1 {
            let middle = there + (beyond - there) / 2;
            if fits(middle) { there = middle } else { beyond = middle }
        }
        there
    }
}

pub(super) fn too_large() -> Error {
    Error::format("config.json describes KV pages larger than this machine can address")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gemma 3 1B has 4 layers that see all and 22 with a window of 512.
    #[test]
    fn windows_take_a_part_of_what_full_pages_take() {
        let config = serde_json::json!({"model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": 1152,
            "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
            "head_dim": 256, "max_position_embeddings": 32_768, "sliding_window": 512});
        let config = crate::model::config::Config::new(&config, "the test");
        let (family, model_type) =
            crate::model::families::find(&serde_json::json!({"model_type": "gemma3_text"}), "the test").unwrap();
        let architecture = (family.architecture)(&config, &model_type).unwrap();
        let sizes = GroupSizes::of(&architecture, 16, DType::Bf16, 8, 512, 32_768).unwrap();
        let frames = 8 * 32_768 / 16;
        let part = sizes.bytes(frames).unwrap() as f64 / (sizes.page_bytes().unwrap() as f64 * frames as f64);
        // 4 of 26 layers whole, and of the others 600 of 16,384 frames.
        assert!((part - 0.185).abs() < 0.005, "{part} of what full pages take");
    }

    #[test]
    fn what_memory_holds_is_found_to_the_frame() {
        let size = |keep, frame_bytes, frames_max| GroupSize { keep, frame_bytes, frames_max };
        let of = |groups| GroupSizes { groups, page_tokens: 16, running_max: 3, context: 512 };
        let groups = of(vec![size(Keep::All, 10, usize::MAX), size(Keep::Window(8), 100, 7)]);
        for wanted in [1, 6, 7, 8, 50] {
            for bytes in 0..1500 {
                let most = (0..=wanted).rev().find(|&f| f as u64 * 10 + f.min(7) as u64 * 100 <= bytes).unwrap();
                assert_eq!(groups.affordable(bytes, wanted), most, "{bytes} bytes, {wanted} wanted");
            }
        }
        let states = of(vec![size(Keep::All, 10, usize::MAX), size(Keep::State, 1000, usize::MAX)]);
        // Two states for each of up to three sequences of 32 pages; one for each 64 pages begun, but for no fewer than 100.
        for (frames, held) in [(1, 3), (32, 3), (33, 5), (64, 5), (65, 7), (199, 7), (200, 8), (640, 12)] {
            let (least, pages) = (1000 * held + 10 * frames, frames as usize);
            assert_eq!((states.state_bytes(pages), states.bytes(pages)), (1000 * held, Some(least)), "{frames} pages");
            assert_eq!(
                (states.affordable(least, 9999) >= pages, states.affordable(least - 1, pages) < pages),
                (true, true)
            );
            assert_eq!((states.tokens(pages), states.page_bytes().unwrap()), (16 * frames, 10));
        }
        let windows = of(vec![size(Keep::Window(8), 100, 7)]);
        assert_eq!((windows.affordable(700, 9999), windows.affordable(699, 9999)), (9999, 6));
    }
}
