//! The detail of traces against the scheduler, over random traffic with shared prefixes, preemption, pins and several layer groups.

use super::*;
use crate::engine::{FinishReason, TraceGroup};
use crate::scheduler::{Capacity, GroupCapacity, Scheduler};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// What a reader who has the first record and the differences knows.
#[derive(Default)]
struct Replay {
    /// By group and frame: owners with their logical pages.
    frames: BTreeMap<(usize, u32), BTreeSet<(TraceOwner, u32)>>,
    /// Requests with a slot: pages in each group.
    running: BTreeMap<u64, usize>,
    preempted: u64,
    admitted: u64,
    ended: u64,
}

impl Replay {
    /// Takes over a record by what differs from the last one, and holds both to the rules of owners.
    fn add(&mut self, step: &StepTrace, page_tokens: usize) {
        let detail = step.detail.as_ref().expect("each record has a detail");
        assert_eq!(detail.events_lost, 0);
        let mut begun = BTreeMap::new();
        for event in &detail.events {
            match *event {
                TraceEvent::Admitted { request_id, tokens, reused } => {
                    assert!(reused % page_tokens == 0 && reused <= tokens, "{event:?}");
                    assert_eq!(self.running.insert(request_id, 0), None, "{event:?}");
                    begun.insert(request_id, reused);
                    self.admitted += 1;
                }
                TraceEvent::Preempted { request_id, computed, kept } => {
                    assert!(kept <= computed, "{event:?}");
                    assert!(self.running.remove(&request_id).is_some(), "{event:?}");
                    begun.remove(&request_id);
                    self.preempted += 1;
                }
                TraceEvent::Ended { request_id, .. } => {
                    // One that waited owned nothing.
                    self.running.remove(&request_id);
                    self.ended += 1;
                }
            }
        }
        // One that has ended has its slot until the next step.
        let of = |place| detail.requests.iter().filter(move |r| r.place == place).map(|r| r.id);
        let running = self.running.keys().copied().filter(|id| !of(TracePlace::Ended).any(|ended| ended == *id));
        assert!(running.eq(of(TracePlace::Running).collect::<BTreeSet<u64>>()), "events tell who runs");
        for (group, now) in detail.groups.iter().enumerate() {
            self.add_group(group, now);
        }
        for request in detail.requests.iter().filter(|r| r.place == TracePlace::Running) {
            let before = self.running[&request.id];
            let owned = |group: usize| {
                let all = detail.groups[group].owners.iter().filter(|o| o.owner == TraceOwner::Request(request.id));
                all.map(|o| o.index).collect::<BTreeSet<u32>>()
            };
            let pages = owned(0).len();
            for group in 0..detail.groups.len() {
                assert!(owned(group).into_iter().eq(0..pages as u32), "its pages are the first ones, each once");
            }
            assert!(pages >= before && pages * page_tokens >= request.computed, "{request:?} of {pages} pages");
            assert!(pages <= request.tokens.div_ceil(page_tokens), "{request:?} of {pages} pages");
            if let Some(reused) = begun.get(&request.id) {
                assert!(request.computed >= *reused && pages * page_tokens >= *reused);
            }
            self.running.insert(request.id, pages);
        }
        let waiting = detail.requests.iter().filter(|r| r.place == TracePlace::Waiting);
        waiting.for_each(|r| assert_eq!(r.computed, 0));
        self.check_tree(detail);
        let owners = |which: fn(&TraceOwner) -> bool| {
            self.frames.values().filter(|all| !all.is_empty() && all.iter().all(|(o, _)| which(o))).count()
        };
        let (cached, owned) = (owners(|o| matches!(o, TraceOwner::Tree(_))), owners(|_| true));
        let frames: usize = detail.groups.iter().map(|g| g.frames).sum();
        assert_eq!((step.pages_used, step.pages_cached, step.pages_free), (owned - cached, cached, frames - owned));
    }

    /// Takes over what has changed in a group: frames that got other owners, no others.
    fn add_group(&mut self, group: usize, now: &TraceGroup) {
        let mut owners: BTreeMap<u32, BTreeSet<(TraceOwner, u32)>> = BTreeMap::new();
        for owner in &now.owners {
            assert!((owner.frame as usize) < now.frames);
            assert!(owners.entry(owner.frame).or_default().insert((owner.owner, owner.index)), "{owner:?} twice");
        }
        for frame in 0..now.frames as u32 {
            let (known, is) =
                (self.frames.entry((group, frame)).or_default(), owners.remove(&frame).unwrap_or_default());
            if *known != is {
                let indexes: BTreeSet<u32> = is.iter().map(|(_, index)| *index).collect();
                assert!(indexes.len() < 2, "all owners of a frame have the same page of their tokens: {is:?}");
                *known = is;
            }
        }
    }

    /// Each node has one frame in every group, under its parent's.
    fn check_tree(&self, detail: &TraceDetail) {
        let nodes: BTreeMap<u32, &TraceNode> = detail.nodes.iter().map(|node| (node.id, node)).collect();
        let mut of_nodes = 0;
        for ((group, frame), owners) in &self.frames {
            for (owner, index) in owners {
                let &TraceOwner::Tree(id) = owner else { continue };
                let (mut node, mut depth) = (nodes[&id], 0);
                while node.parent != 0 {
                    (node, depth) = (nodes[&node.parent], depth + 1);
                }
                assert_eq!(*index, depth, "node {id} in group {group}, frame {frame}");
                of_nodes += 1;
            }
        }
        assert_eq!(of_nodes, nodes.len() * detail.groups.len());
    }
}

struct World {
    random: Random,
    page_tokens: usize,
    scheduler: Scheduler,
    batch: Batch,
    ends: Journal<TraceEvent>,
    tracer: Tracer,
    live: Vec<(SequenceHandle, u64, usize)>,
    pins: Vec<SequenceHandle>,
    ids: u64,
}

impl World {
    fn new(seed: u64, call: crate::engine::TraceFn) -> World {
        let mut random = Random(seed * 7919 + 1);
        let page_tokens = 1 + random.below(4);
        let (frames, groups) = (12 + random.below(12), 1 + seed as usize % 3);
        let capacity = Capacity {
            running_max: 2 + random.below(6),
            waiting_max: 12,
            step_tokens: 1 + random.below(24),
            page_tokens,
            groups: vec![GroupCapacity::all(frames); groups],
            pages_max: frames,
        };
        let detail = Some(DetailOptions { every: Duration::ZERO, tokens: true });
        let mut world = World {
            random,
            page_tokens,
            scheduler: Scheduler::new(capacity).unwrap(),
            batch: Batch::default(),
            ends: Journal::default(),
            tracer: Tracer::new(Trace { detail, ..Trace::new(call) }),
            live: Vec::new(),
            pins: Vec::new(),
            ids: 0,
        };
        Tracer::prepare(Some(&world.tracer), &mut world.scheduler, &mut world.ends).unwrap();
        world
    }

    fn end(&mut self, at: usize, finish: FinishReason) {
        let (handle, request_id, prompt_tokens) = self.live.swap_remove(at);
        let generated_tokens = self.scheduler.get(handle).unwrap().tokens.len() - prompt_tokens;
        self.scheduler.finish(handle);
        self.ends.push(|| TraceEvent::Ended { request_id, finish, prompt_tokens, generated_tokens });
    }

    fn traffic(&mut self) {
        let room = self.scheduler.capacity().pages() * self.page_tokens;
        if self.random.below(2) == 0 {
            let len = 1 + self.random.below(room / 2);
            let alike = [0, len, self.random.below(len)][self.random.below(3)];
            let prompt: Vec<u32> = (0..len).map(|i| if i < alike { i } else { self.random.below(3) } as u32).collect();
            let (most, priority) = ((len + 1 + self.random.below(12)).min(room), self.random.below(3) as i32);
            if let Ok(handle) = self.scheduler.submit(prompt, most, len - 1, priority) {
                self.ids += 1;
                self.scheduler.set_tag(handle, self.ids);
                self.live.push((handle, self.ids, len));
            }
        }
        if !self.live.is_empty() && self.random.below(12) == 0 {
            let at = self.random.below(self.live.len());
            self.end(at, FinishReason::Cancel);
        }
        if self.random.below(40) == 0 {
            let tokens = (0..self.page_tokens as u32 * 2).collect();
            self.pins.extend(self.scheduler.pin(tokens));
        }
        if !self.pins.is_empty() && self.random.below(40) == 0 {
            self.scheduler.unpin(self.pins.remove(0));
        }
    }

    fn step(&mut self) {
        self.traffic();
        self.scheduler.schedule(&mut self.batch);
        self.tracer.scheduled(&mut self.scheduler, &mut self.ends);
        if self.batch.rows.is_empty() {
            return self.tracer.rest(&self.scheduler);
        }
        self.tracer.rows(&self.batch, &self.scheduler, &Table::default());
        for row in std::mem::take(&mut self.batch.rows) {
            self.scheduler.computed(&row);
            let Some(at) = self.live.iter().position(|l| l.0 == row.sequence) else { continue };
            if row.logits_from < row.first + row.count {
                let token = self.random.below(3) as u32;
                self.scheduler.append(row.sequence, token).unwrap();
                let len = self.scheduler.get(row.sequence).unwrap().tokens.len();
                let room = self.scheduler.capacity().pages() * self.page_tokens;
                if len + 1 >= room || self.random.below(10) == 0 {
                    self.end(at, FinishReason::Length);
                }
            }
        }
        self.tracer.call(&self.scheduler, 1, Duration::ZERO);
        self.scheduler.check().unwrap();
    }
}

#[test]
fn owners_and_events_replayed_are_what_the_scheduler_has() {
    let (mut preempted, mut shared) = (0, 0);
    for seed in 0..60 {
        let replay = Arc::new(Mutex::new(Replay::default()));
        let (seen, page_tokens) = (replay.clone(), Arc::new(Mutex::new(0)));
        let tokens = page_tokens.clone();
        let call = Box::new(move |step: &StepTrace| seen.lock().unwrap().add(step, *tokens.lock().unwrap()));
        let mut world = World::new(seed, call);
        *page_tokens.lock().unwrap() = world.page_tokens;
        for _ in 0..300 {
            world.step();
        }
        let (replay, counters) = (replay.lock().unwrap(), world.scheduler.counters());
        // Those that compute pins are counted as well, and have no events.
        assert!(replay.preempted <= counters.preemptions && replay.admitted >= replay.ended / 2);
        if world.ids > 0 && counters.preemptions > 0 {
            preempted += replay.preempted;
        }
        shared += replay.frames.values().filter(|all| all.len() > 2).count();
    }
    assert!(preempted > 100 && shared > 10, "{preempted} preemptions and {shared} shared pages are a quiet storm");
}
