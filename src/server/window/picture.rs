//! What viewers are sent: the engine after a step as a whole, or what has changed since the picture before it. Everything is ids and
//! counts; texts are [`super::text`]'s.
//!
//! Lists instead of names keep it small: most steps change every running request, and a recording has hundreds of steps.

use super::text::{Texts, TextsNews};
use crate::engine::{FinishReason, FrameOwner, StepTrace, TraceEvent, TraceOwner, TracePlace, TraceRequest, TraceRow};
use serde::Serialize;
use std::collections::BTreeMap;

/// id, place (0 waits, 1 runs, 2 has ended), paused, tokens of the prompt, tokens, computed, reused, preemptions.
type RequestRow = (u64, u8, u8, usize, usize, usize, usize, u32);
/// id, parent, tokens, hits.
type NodeRow = (u32, u32, u32, u32);
/// Kind (0 request, 1 node of the prefix tree, 2 pin), number, logical page.
type OwnerRow = (u8, u64, u32);
/// Layer group, frame, its owners.
type FrameRow = (usize, u32, Vec<OwnerRow>);
/// Request, first position, tokens, 1 for prefill.
type StepRow = (u64, usize, usize, u8);

/// What does not change while an engine is open.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About {
    /// Name of the model.
    pub model: String,
    /// Tokens of a page.
    pub page_tokens: u32,
    /// Whether texts are sent.
    pub with_text: bool,
}

/// Something that happened, with its letter.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum EventRow {
    /// a: request, its tokens, those that were reused. p: request, tokens that were computed, those that are kept.
    Counts(char, u64, usize, usize),
    /// e: request, why, tokens of the prompt, generated tokens.
    End(char, u64, &'static str, usize, usize),
}

/// What a message of either kind has of a step.
#[derive(Debug, Serialize)]
struct Moment {
    /// Milliseconds since somebody began to watch.
    t: u64,
    step: u64,
    /// Steps a second of a paced engine; absent: as fast as it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f32>,
    /// Whether it can be paced.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    paced: bool,
    /// Frames used, cached and free, over all layer groups.
    pages: (usize, usize, usize),
    rows: Vec<StepRow>,
}

/// Everything.
#[derive(Serialize)]
struct Snapshot<'a> {
    #[serde(flatten)]
    about: &'a About,
    #[serde(flatten)]
    moment: Moment,
    /// Frames of each layer group.
    frames: &'a [usize],
    requests: Vec<RequestRow>,
    /// Frames that are not free.
    owners: Vec<FrameRow>,
    nodes: Vec<NodeRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<TextsNews>,
}

/// What has changed.
#[derive(Serialize)]
struct Delta {
    #[serde(flatten)]
    moment: Moment,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventRow>,
    /// Requests that are new or have changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    requests: Vec<RequestRow>,
    /// Requests that are no longer there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<u64>,
    /// Frames that have other owners; without owners: free.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owners: Vec<FrameRow>,
    /// Nodes that are new or have changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeRow>,
    /// Nodes that are no longer there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evicted: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<TextsNews>,
}

/// The engine after a step.
pub(super) struct Picture {
    t: u64,
    step: u64,
    rate: Option<f32>,
    paced: bool,
    pages: (usize, usize, usize),
    rows: Vec<TraceRow>,
    requests: BTreeMap<u64, RequestRow>,
    frames: Vec<usize>,
    /// By group, in the order of frames.
    owners: Vec<Vec<FrameOwner>>,
    nodes: BTreeMap<u32, NodeRow>,
}

impl Picture {
    /// Of a record with detail, at `t`; `pace`: whether the engine is paced, and how.
    pub fn new(record: &StepTrace, t: u64, pace: Option<Option<f32>>) -> Picture {
        let detail = record.detail.as_deref();
        let sorted = |owners: &[FrameOwner]| {
            let mut owners = owners.to_vec();
            owners.sort_unstable_by_key(|owner| (owner.frame, owner.owner));
            owners
        };
        let nodes = detail.iter().flat_map(|d| &d.nodes).map(|n| (n.id, (n.id, n.parent, n.tokens, n.hits)));
        Picture {
            t,
            step: record.step,
            rate: pace.flatten(),
            paced: pace.is_some(),
            pages: (record.pages_used, record.pages_cached, record.pages_free),
            rows: record.rows.clone(),
            requests: detail.iter().flat_map(|d| &d.requests).map(|r| (r.id, request_row(r))).collect(),
            frames: detail.iter().flat_map(|d| &d.groups).map(|group| group.frames).collect(),
            owners: detail.iter().flat_map(|d| &d.groups).map(|group| sorted(&group.owners)).collect(),
            nodes: nodes.collect(),
        }
    }

    fn moment(&self) -> Moment {
        let row = |row: &TraceRow| (row.request_id, row.first, row.count, u8::from(row.prefill));
        let rows = self.rows.iter().map(row).collect();
        Moment { t: self.t, step: self.step, rate: self.rate, paced: self.paced, pages: self.pages, rows }
    }

    /// All of it as JSON.
    pub fn snapshot(&self, about: &About, texts: Option<&Texts>) -> String {
        let snapshot = Snapshot {
            about,
            moment: self.moment(),
            frames: &self.frames,
            requests: self.requests.values().copied().collect(),
            owners: self.changed_frames(None),
            nodes: self.nodes.values().copied().collect(),
            texts: texts.map(Texts::all),
        };
        json(&snapshot)
    }

    /// What has changed since `before`, with what happened meanwhile, as JSON.
    pub fn delta(&self, before: &Picture, events: &[TraceEvent], texts: Option<TextsNews>) -> String {
        let delta = Delta {
            moment: self.moment(),
            events: events.iter().map(event_row).collect(),
            requests: changed(&self.requests, &before.requests),
            gone: missing(&self.requests, &before.requests),
            owners: self.changed_frames(Some(before)),
            nodes: changed(&self.nodes, &before.nodes),
            evicted: missing(&self.nodes, &before.nodes),
            texts,
        };
        json(&delta)
    }

    /// Frames that have other owners than before, in their order; without a picture before: all that are not free.
    fn changed_frames(&self, before: Option<&Picture>) -> Vec<FrameRow> {
        let mut changed = Vec::new();
        for (group, now) in self.owners.iter().enumerate() {
            let before = before.and_then(|before| before.owners.get(group)).map_or(&[][..], Vec::as_slice);
            let mut now = now.chunk_by(|a, b| a.frame == b.frame).peekable();
            let mut before = before.chunk_by(|a, b| a.frame == b.frame).peekable();
            let frame = |owners: Option<&&[FrameOwner]>| owners.and_then(|o| o.first()).map(|owner| owner.frame);
            // The next frame of either.
            while let Some(next) = frame(now.peek()).into_iter().chain(frame(before.peek())).min() {
                let is = now.next_if(|owners| frame(Some(owners)) == Some(next)).unwrap_or_default();
                let was = before.next_if(|owners| frame(Some(owners)) == Some(next)).unwrap_or_default();
                if is != was {
                    changed.push((group, next, is.iter().map(owner_row).collect()));
                }
            }
        }
        changed
    }
}

/// Values that are new or differ.
fn changed<K: Ord, V: PartialEq + Copy>(now: &BTreeMap<K, V>, before: &BTreeMap<K, V>) -> Vec<V> {
    now.iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(_, value)| *value).collect()
}

/// Keys that are no longer there.
fn missing<K: Ord + Copy, V>(now: &BTreeMap<K, V>, before: &BTreeMap<K, V>) -> Vec<K> {
    before.keys().filter(|key| !now.contains_key(key)).copied().collect()
}

fn request_row(r: &TraceRequest) -> RequestRow {
    let place = match r.place {
        TracePlace::Waiting => 0,
        TracePlace::Running => 1,
        TracePlace::Ended => 2,
    };
    (r.id, place, u8::from(r.paused), r.prompt_tokens, r.tokens, r.computed, r.reused, r.preemptions)
}

fn owner_row(owner: &FrameOwner) -> OwnerRow {
    match owner.owner {
        TraceOwner::Request(id) => (0, id, owner.index),
        TraceOwner::Tree(node) => (1, u64::from(node), owner.index),
        TraceOwner::Pin(pin) => (2, u64::from(pin), owner.index),
    }
}

fn event_row(event: &TraceEvent) -> EventRow {
    match *event {
        TraceEvent::Admitted { request_id, tokens, reused } => EventRow::Counts('a', request_id, tokens, reused),
        TraceEvent::Preempted { request_id, computed, kept } => EventRow::Counts('p', request_id, computed, kept),
        TraceEvent::Ended { request_id, finish, prompt_tokens, generated_tokens } => {
            EventRow::End('e', request_id, name(finish), prompt_tokens, generated_tokens)
        }
    }
}

fn name(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::None => "none",
        FinishReason::Eos => "eos",
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancel | FinishReason::Callback => "cancel",
        FinishReason::Deadline => "deadline",
        FinishReason::Close => "close",
        FinishReason::Error => "error",
    }
}

fn json(value: &impl Serialize) -> String {
    // Our own structs, with names for keys, can be written.
    serde_json::to_string(value).unwrap_or_default()
}
