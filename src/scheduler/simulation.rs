//! The scheduler against a model made of integers.
//!
//! Random traffic over a few tiny pages: arrivals, priorities, pauses, cancels. The "keys and values" of a token are a
//! hash of everything up to it, kept in frames as the real ones are, so that a page which holds anything but what its
//! sequence believes is noticed at the step that reads it. In half of the worlds some groups keep windows or states only, of
//! which a step reads what a model would. In half of the worlds a step is scheduled before anybody knows what the
//! last one sampled, as on a device that works while the host goes on; in two thirds, sequences have drafts, right and wrong ones. After every step the accounting is checked, and two rules of
//! economy: nobody holds a page beyond its next token's, and nobody waits while unreferenced pages would do.
//!
//! The seed of a failing world is in the message; `ASTRAI_TEST_SEED` runs that one first, `ASTRAI_TEST_ROUNDS` multiplies
//! the number of worlds.

use super::*;
use crate::cache::NO_FRAME;

const STEPS: usize = 1000;
/// One million steps; about ten seconds of one core.
const WORLDS: u64 = 1000;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// What the key and value of a token depend on: itself and all before it.
fn extend(hash: u64, token: u32) -> u64 {
    (hash ^ (token as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

fn hashes(tokens: &[u32]) -> Vec<u64> {
    tokens
        .iter()
        .scan(0, |hash, &token| {
            *hash = extend(*hash, token);
            Some(*hash)
        })
        .collect()
}

/// What the model says after some tokens.
fn next_token(tokens: &[u32], vocab: usize) -> u32 {
    let hash = extend(0, *hashes(tokens).last().expect("tokens") as u32);
    (hash >> 40) as u32 % vocab as u32
}

/// A request that has not ended.
struct Live {
    handle: SequenceHandle,
    prompt: Vec<u32>,
    /// All tokens, those included that the scheduler does not know yet.
    tokens: Vec<u32>,
    len_max: usize,
    /// First position whose logits it has not had.
    logits_next: usize,
    paused: bool,
    /// Its next token cannot be asked for before the last one is known: it sits out the steps scheduled meanwhile.
    sits_out: bool,
}

#[derive(Debug, Default)]
struct Tally {
    submitted: u64,
    refused: u64,
    cancelled: u64,
    cancelled_in_prefill: u64,
    finished: u64,
    paused: u64,
    preemptions: u64,
    evictions: u64,
    hits: u64,
    /// Of those, where some group does not keep all.
    hits_of_ends: u64,
    empty_plans: u64,
    drafted: u64,
    accepted: u64,
    /// Rows with drafts of which some were refused, where a group keeps states.
    refused_states: u64,
    /// Pauses between two samples of one row.
    cut_short: u64,
}

/// What a step sampled for a sequence that nobody has been told of: of a row with drafts several tokens.
struct Air {
    handle: SequenceHandle,
    tokens: Vec<u32>,
    /// It has its place already.
    placed: bool,
}

struct World {
    seed: u64,
    step: usize,
    random: Random,
    vocab: usize,
    capacity: Capacity,
    scheduler: Scheduler,
    batch: Batch,
    /// By group: what each place of each frame holds.
    stored: Vec<Vec<u64>>,
    live: Vec<Live>,
    /// Whether steps are scheduled ahead, and what the last one sampled.
    ahead: bool,
    air: Vec<Air>,
    drafts: bool,
    tally: Tally,
}

/// A layer group with frames enough for one sequence.
fn group(random: &mut Random, frames: usize, page_tokens: usize, mixed: bool) -> GroupCapacity {
    let keep = match random.below(4) {
        0 if mixed => Keep::Window(1 + random.below(12)),
        1 if mixed => Keep::State,
        _ => return GroupCapacity::all(frames),
    };
    let least = keep.pages_max(page_tokens) + 1;
    GroupCapacity { frames: least + random.below(frames), keep }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        // The first numbers of neighbouring seeds are alike.
        (0..4).for_each(|_| _ = random.below(2));
        let page_tokens = 1 + random.below(4);
        let frames = 5 + random.below(14);
        let groups = 1 + random.below(3);
        let mixed = random.chance(2);
        let groups: Vec<GroupCapacity> = (0..groups).map(|_| group(&mut random, frames, page_tokens, mixed)).collect();
        let capacity = Capacity {
            running_max: 1 + random.below(8),
            waiting_max: 1 + random.below(12),
            step_tokens: 1 + random.below(24),
            page_tokens,
            pages_max: frames,
            groups,
        };
        World {
            seed,
            step: 0,
            vocab: 2 + random.below(2),
            random,
            scheduler: Scheduler::new(capacity.clone()).expect("a few pages"),
            batch: Batch::default(),
            stored: capacity.groups.iter().map(|group| vec![0; group.frames * page_tokens]).collect(),
            live: Vec::new(),
            ahead: seed.is_multiple_of(2),
            air: Vec::new(),
            drafts: !seed.is_multiple_of(3),
            tally: Tally::default(),
            capacity,
        }
    }

    fn at(&self) -> String {
        format!("ASTRAI_TEST_SEED={} step {} {:?}", self.seed, self.step, self.capacity)
    }

    fn index_of(&self, handle: SequenceHandle) -> usize {
        let at = self.live.iter().position(|l| l.handle == handle);
        at.unwrap_or_else(|| panic!("{}: only live sequences run", self.at()))
    }

    fn traffic(&mut self) {
        while self.random.chance(3) {
            self.arrive();
        }
        if !self.live.is_empty() && self.random.chance(5) {
            let at = self.random.below(self.live.len());
            let paused = self.random.chance(2);
            self.tally.paused += u64::from(paused && !self.live[at].paused);
            self.live[at].paused = paused;
            self.scheduler.set_paused(self.live[at].handle, paused);
        }
        if !self.live.is_empty() && self.random.chance(25) {
            // Often one that is in the middle of its prompt.
            let computing =
                |l: &Live| self.scheduler.get(l.handle).is_some_and(|s| s.computed > 0 && s.computed < s.prompt_len);
            let any = self.random.below(self.live.len());
            let at = self.live.iter().position(computing).filter(|_| any.is_multiple_of(2)).unwrap_or(any);
            let sequence = self.scheduler.get(self.live[at].handle).expect("live sequences exist");
            self.tally.cancelled += 1;
            self.tally.cancelled_in_prefill +=
                u64::from(sequence.computed > 0 && sequence.computed < self.live[at].prompt.len());
            self.scheduler.finish(self.live.swap_remove(at).handle);
        }
    }

    fn arrive(&mut self) {
        let room = self.capacity.pages() * self.capacity.page_tokens;
        let len = 1 + self.random.below((room - 1).min(40));
        // Half of them begin alike.
        let alike = if self.random.chance(2) { 0 } else { self.random.below(len) };
        let prompt: Vec<u32> =
            (0..len).map(|i| (if i < alike { i / 2 } else { self.random.below(97) } % self.vocab) as u32).collect();
        let len_max = (prompt.len() + 1 + self.random.below(20)).min(room);
        let logits_from = if self.random.chance(4) { 0 } else { prompt.len() - 1 };
        let priority = self.random.below(3) as i32 - 1;
        let sits_out = self.ahead && self.random.chance(4);
        match self.scheduler.submit(prompt.clone(), len_max, logits_from, priority) {
            Ok(handle) => {
                self.tally.submitted += 1;
                self.live.push(Live {
                    handle,
                    tokens: prompt.clone(),
                    prompt,
                    len_max,
                    logits_next: logits_from,
                    paused: false,
                    sits_out,
                });
            }
            Err(error) => {
                assert_eq!(error.status, Status::QueueFull, "{}", self.at());
                self.tally.refused += 1;
            }
        }
    }

    /// While a slot is free, the first in line does not fit, though cached pages count as free; or all who wait are
    /// paused, or wait for a page that another is computing.
    fn check_admissions(&mut self) {
        if self.scheduler.slots.is_full() {
            return;
        }
        let first = self.scheduler.candidate();
        let scheduler = &self.scheduler;
        let sequence = |handle| scheduler.get(handle).expect("live sequences exist");
        self.check_reach();
        let Some(first) = first.map(sequence) else {
            let waits = self.live.iter().map(|l| sequence(l.handle)).any(|s| !s.is_running() && !s.paused);
            let computing = scheduler.running.iter().any(|&r| sequence(r).pending() > 1);
            assert!(!waits || computing, "{}: somebody waits and nobody knows for what", self.at());
            return;
        };
        if self.capacity.groups.iter().any(|group| group.keep != Keep::All) {
            return;
        }
        let (matched, unused) = scheduler.tree.matched(&first.tokens, first.hit_max(), &scheduler.pools);
        let own = (first.tokens.len() + 1).div_ceil(self.capacity.page_tokens) - matched;
        // Those who run keep one page each to grow into.
        let needed = own + unused + scheduler.running.len();
        let fits = scheduler.pools.iter().all(|p| p.total() - self.pages_in_use(p) >= needed);
        assert!(!fits, "{}: {first:?} would fit and was not admitted", self.at());
    }

    /// What hashes say of those who wait is what their tokens say.
    fn check_reach(&self) {
        let scheduler = &self.scheduler;
        let page_tokens = self.capacity.page_tokens;
        for live in self.live.iter().filter(|l| !l.paused) {
            let sequence = scheduler.get(live.handle).expect("live sequences exist");
            if sequence.is_running() {
                continue;
            }
            let (matched, unused) = scheduler.tree.matched(&sequence.tokens, sequence.hit_max(), &scheduler.pools);
            let mut chain = sequence.chain.clone();
            scheduler.tree.extend(&mut chain, &sequence.tokens[..sequence.known()]);
            assert!(chain.len() <= sequence.chain.capacity(), "{}: no room was reserved", self.at());
            let wanted = &chain[..(sequence.hit_max() / page_tokens).min(chain.len())];
            for guess in [0, matched / 2, matched, matched + 1, usize::MAX] {
                let present = scheduler.tree.reach(wanted, guess);
                assert_eq!(scheduler.tree.usable(wanted, present), matched, "{}", self.at());
            }
            assert_eq!(scheduler.tree.unused(&wanted[..matched], &scheduler.pools), unused, "{}", self.at());
        }
    }

    /// Frames that some sequence's table names, counted from the tables.
    fn pages_in_use(&self, pool: &PagePool) -> usize {
        let group = self.scheduler.pools.iter().position(|p| std::ptr::eq(p, pool)).expect("one of the pools");
        let mut used = vec![false; pool.total()];
        let tables = self.scheduler.sequences.iter().map(|(_, s)| &s.tables[group]);
        tables.flatten().for_each(|&page| used[page as usize] = true);
        used.iter().filter(|u| **u).count()
    }

    /// A sequence owns the pages of what is computed and of the tokens it runs now, or of its next one; not one more.
    fn check_economy(&self) {
        for live in &self.live {
            let sequence = self.scheduler.get(live.handle).expect("live sequences exist");
            let row = self.batch.rows.iter().find(|r| r.sequence == live.handle);
            let end = row.map_or(sequence.computed + 1 + sequence.drafts.len(), |r| r.first + r.count);
            for (table, group) in sequence.tables.iter().zip(&self.capacity.groups) {
                let kept = table.iter().filter(|page| **page != NO_FRAME).count();
                let pages = |tokens: usize| tokens.div_ceil(self.capacity.page_tokens);
                // What it runs now, and what the next token needs of what is before it and known to the tree.
                let new = pages(end) - sequence.tree_pages.min(pages(end));
                let most = match group.keep {
                    Keep::All => pages(end),
                    Keep::Window(_) => group.keep.pages_max(self.capacity.page_tokens) + new,
                    Keep::State => 0,
                };
                assert!(table.len() <= pages(end) && kept <= most, "{}: {table:?} for {end} tokens", self.at());
            }
        }
    }

    fn check_plan(&mut self) {
        assert!(self.batch.tokens <= self.capacity.step_tokens, "{}", self.at());
        assert_eq!(self.batch.tokens, self.batch.rows.iter().map(|r| r.count).sum::<usize>(), "{}", self.at());
        assert!(self.batch.rows.len() <= self.capacity.running_max, "{}", self.at());
        for (index, row) in self.batch.rows.iter().enumerate() {
            let sequence = self.scheduler.get(row.sequence).expect("scheduled sequences exist");
            assert!(!sequence.paused && sequence.computed == row.first && row.count > 0, "{}", self.at());
            assert!(row.first + row.count <= sequence.tokens.len() + row.drafts, "{}", self.at());
            assert!(row.drafts <= sequence.drafts.len(), "{}", self.at());
            assert!(self.batch.rows[..index].iter().all(|r| r.sequence != row.sequence), "{}: two rows", self.at());
        }
        if self.batch.rows.is_empty() {
            self.tally.empty_plans += 1;
            // A sequence whose last token is still in flight, because it is its last one or because it sits out, may hold what the
            // others wait for.
            let ends = self.air.iter().any(|air| !air.placed);
            let idle = ends || self.live.iter().all(|l| l.paused);
            assert!(idle, "{}: somebody could run and nothing was scheduled", self.at());
        }
    }

    /// Where a token's key and value lie in a group.
    fn place(&self, row: &Row, group: usize, position: usize) -> usize {
        let table = &self.scheduler.get(row.sequence).expect("scheduled sequences exist").tables[group];
        let page_tokens = self.capacity.page_tokens;
        table[position / page_tokens] as usize * page_tokens + position % page_tokens
    }

    /// The forward pass: all rows write, then all rows read everything before them and themselves that they need.
    fn forward(&mut self) {
        let rows = self.batch.rows.clone();
        let wanted: Vec<Vec<u64>> = rows.iter().map(|r| hashes(&self.with_drafts(r))).collect();
        for (row, hashes) in rows.iter().zip(&wanted) {
            for group in 0..self.stored.len() {
                if self.capacity.groups[group].keep == Keep::State {
                    self.advance(row, group, hashes);
                    continue;
                }
                for (position, hash) in hashes.iter().enumerate().skip(row.first).take(row.count) {
                    let place = self.place(row, group, position);
                    self.stored[group][place] = *hash;
                }
            }
        }
        for (row, hashes) in rows.iter().zip(&wanted) {
            for (group, stored) in self.stored.iter().enumerate() {
                let first = match self.capacity.groups[group].keep {
                    Keep::All => 0,
                    Keep::Window(window) => (row.first + 1).saturating_sub(window),
                    Keep::State => continue,
                };
                for (position, hash) in hashes[..row.first + row.count].iter().enumerate().skip(first) {
                    let found = stored[self.place(row, group, position)];
                    assert_eq!(found, *hash, "{}: position {position} of {row:?} holds something else", self.at());
                }
            }
        }
    }

    /// The tokens of a row's sequence, and the row's drafts after them.
    fn with_drafts(&self, row: &Row) -> Vec<u32> {
        let sequence = self.scheduler.get(row.sequence).expect("scheduled sequences exist");
        [&self.live[self.index_of(row.sequence)].tokens[..], &sequence.drafts[..row.drafts]].concat()
    }

    /// Drafts for some of those who run, of which the first few are what will be sampled.
    fn offer_drafts(&mut self) {
        for at in 0..if self.drafts { self.live.len() } else { 0 } {
            let live = &self.live[at];
            let most = self.scheduler.drafts_max(live.handle).min(live.len_max - live.tokens.len().min(live.len_max));
            if most <= 1 || self.random.chance(3) {
                // Nothing: what was offered before and is in flight stays.
                self.scheduler.offer_drafts(self.live[at].handle, &[]);
                continue;
            }
            let (count, right) = (1 + self.random.below((most - 1).min(6)), self.random.below(8));
            let mut text = live.tokens.clone();
            for index in 0..count {
                let wrong = u32::from(index >= right);
                text.push((next_token(&text, self.vocab) + wrong) % self.vocab as u32);
            }
            self.scheduler.offer_drafts(live.handle, &text[live.tokens.len()..]);
        }
    }

    /// A recurrence: reads one state and writes another, which nobody else has.
    fn advance(&mut self, row: &Row, group: usize, hashes: &[u64]) {
        let states = self.scheduler.get(row.sequence).expect("scheduled sequences exist").states[group];
        let before = row.first.checked_sub(1).map_or(0, |last| hashes[last]);
        let found = match states.current {
            NO_FRAME => 0,
            frame => self.stored[group][frame as usize],
        };
        assert_eq!(found, before, "{}: {row:?} begins with another state", self.at());
        assert_ne!(states.next, states.current, "{}: a state is overwritten", self.at());
        let owners = self.scheduler.sequences.iter().flat_map(|(_, s)| s.states[group].frames());
        assert_eq!(owners.filter(|&f| f == states.next).count(), 1, "{}: a state is another's", self.at());
        self.stored[group][states.next as usize] = hashes[row.first + row.count - 1];
    }

    fn commit(&mut self) {
        let mut sampled = Vec::new();
        for row in self.batch.rows.clone() {
            let at = self.index_of(row.sequence);
            let end = row.first + row.count;
            let drafts = self.with_drafts(&row).split_off(self.live[at].tokens.len());
            if row.logits_from < end {
                let expected = self.live[at].logits_next;
                assert_eq!(row.logits_from, expected, "{}: no position twice or left out", self.at());
                self.live[at].logits_next = end - drafts.len();
            }
            let live = &mut self.live[at];
            let newest = end - drafts.len() == live.tokens.len();
            self.scheduler.computed(&row);
            if !newest {
                continue;
            }
            let before = live.tokens.len();
            live.tokens.push(next_token(&live.tokens, self.vocab));
            for &draft in &drafts {
                if live.tokens.last() != Some(&draft) {
                    break;
                }
                live.tokens.push(next_token(&live.tokens, self.vocab));
            }
            self.tally.drafted += drafts.len() as u64;
            self.tally.accepted += (live.tokens.len() - before - 1) as u64;
            let keeps_state = self.capacity.groups.iter().any(|group| group.keep == Keep::State);
            self.tally.refused_states += u64::from(keeps_state && live.tokens.len() - before <= drafts.len());
            let tokens = live.tokens[before..].to_vec();
            // The last one is not computed any further.
            let placed = self.ahead && live.tokens.len() < live.len_max && !live.sits_out && drafts.is_empty();
            if placed {
                self.scheduler.append_unknown(row.sequence, 0).unwrap();
            }
            sampled.push(Air { handle: row.sequence, tokens, placed });
        }
        let before = std::mem::replace(&mut self.air, sampled);
        self.finish(before);
        if !self.ahead {
            let now = std::mem::take(&mut self.air);
            self.finish(now);
        }
    }

    /// What a step sampled is known now.
    fn finish(&mut self, sampled: Vec<Air>) {
        for Air { handle, tokens, placed } in sampled {
            let all = tokens.len();
            for (index, token) in tokens.into_iter().enumerate() {
                let Some(at) = self.live.iter().position(|l| l.handle == handle) else { break };
                if index > 0 && !self.scheduler.is_unsettled(handle) {
                    // The row was cut short: those after it are sampled once more.
                    let kept = self.scheduler.get(handle).expect("live sequences exist").tokens.len();
                    self.live[at].tokens.truncate(kept);
                    self.live[at].logits_next = kept - 1;
                    break;
                }
                if placed {
                    self.scheduler.know(handle, token);
                } else {
                    self.scheduler.append(handle, token).unwrap();
                }
                if index > 0 {
                    self.live[at].logits_next += 1;
                }
                if index + 1 < all && self.random.chance(8) {
                    self.tally.cut_short += 1;
                    self.live[at].paused = true;
                    self.scheduler.set_paused(handle, true);
                }
                self.check();
                self.end_if_long_enough(at);
            }
            let unsettled = self.scheduler.is_unsettled(handle) && self.live.iter().any(|l| l.handle == handle);
            assert!(!unsettled, "{}: all samples are there", self.at());
        }
    }

    /// The model is a function of the tokens, so a whole sequence can be told from its prompt.
    fn end_if_long_enough(&mut self, at: usize) {
        let live = &self.live[at];
        let sequence = self.scheduler.get(live.handle).expect("live sequences exist");
        if sequence.known() < live.len_max {
            return;
        }
        let mut alone = live.prompt.clone();
        while alone.len() < live.len_max {
            alone.push(next_token(&alone, self.vocab));
        }
        assert_eq!(sequence.tokens, alone, "{}", self.at());
        self.tally.finished += 1;
        self.scheduler.finish(self.live.swap_remove(at).handle);
    }

    fn check(&self) {
        self.scheduler.check().unwrap_or_else(|e| panic!("{}: {e}", self.at()));
        // What is seen from outside is what is accounted for.
        for (group, pool) in self.scheduler.pools.iter().enumerate() {
            let mut owned = Vec::new();
            self.scheduler.page_owners(group, |owner| owned.push(owner.page));
            pool.check(owned.into_iter()).unwrap_or_else(|e| panic!("{}: {e}", self.at()));
        }
    }

    fn step(&mut self) {
        self.traffic();
        self.offer_drafts();
        self.scheduler.begin(&mut self.batch);
        self.scheduler.cleanup();
        self.scheduler.refill();
        self.check_admissions();
        self.scheduler.decode(&mut self.batch);
        self.scheduler.prefill(&mut self.batch);
        self.check();
        self.check_economy();
        self.check_plan();
        self.forward();
        self.commit();
        self.check();
        self.step += 1;
    }

    /// Runs to the end; everything must come back.
    fn run(mut self, steps: usize) -> Tally {
        (0..steps).for_each(|_| self.step());
        self.live.drain(..).for_each(|l| self.scheduler.finish(l.handle));
        self.scheduler.schedule(&mut self.batch);
        assert!(self.batch.rows.is_empty(), "{}", self.at());
        self.check();
        let (used, cached, free) = self.scheduler.pages();
        let frames = self.capacity.groups.iter().map(|group| group.frames).sum();
        assert_eq!((used, cached + free, self.scheduler.counts()), (0, frames, (0, 0, 0)), "{}", self.at());
        let counters = self.scheduler.counters();
        (self.tally.preemptions, self.tally.evictions) = (counters.preemptions, counters.evictions);
        self.tally.hits = counters.prefix_tokens_hit;
        if self.capacity.groups.iter().any(|group| group.keep != Keep::All) {
            self.tally.hits_of_ends = counters.prefix_tokens_hit;
        }
        self.tally
    }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.submitted += other.submitted;
        self.refused += other.refused;
        self.cancelled += other.cancelled;
        self.cancelled_in_prefill += other.cancelled_in_prefill;
        self.finished += other.finished;
        self.paused += other.paused;
        self.preemptions += other.preemptions;
        self.evictions += other.evictions;
        self.hits += other.hits;
        self.hits_of_ends += other.hits_of_ends;
        self.empty_plans += other.empty_plans;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        self.refused_states += other.refused_states;
        self.cut_short += other.cut_short;
    }
}

/// The worlds of every `stride`th seed.
fn worlds(first: u64, end: u64, stride: u64) -> Tally {
    let mut sum = Tally::default();
    (first..end).step_by(stride as usize).for_each(|seed| sum.add(&World::new(seed).run(STEPS)));
    sum
}

#[test]
fn a_world_of_integers_keeps_every_rule() {
    let first = environment("ASTRAI_TEST_SEED").unwrap_or(1);
    let count = WORLDS * environment("ASTRAI_TEST_ROUNDS").unwrap_or(1).max(1);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut sum = Tally::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            (0..threads).map(|t| scope.spawn(move || worlds(first + t, first + count, threads))).collect();
        parts.into_iter().for_each(|part| sum.add(&part.join().unwrap_or_else(|e| std::panic::resume_unwind(e))));
    });
    // How much happened is only shown when it was too little.
    let busy = [sum.refused, sum.cancelled, sum.cancelled_in_prefill, sum.paused, sum.preemptions, sum.evictions];
    assert!(busy.iter().all(|&n| n > count * 5), "{count} worlds of {STEPS} steps were too quiet: {sum:?}");
    assert!(sum.finished > sum.submitted / 4 && sum.hits > sum.submitted / 2, "{sum:?}");
    assert!(sum.hits_of_ends > count * 20, "{sum:?}");
    assert!(sum.drafted > sum.accepted + count * 20 && sum.accepted > count * 20, "{sum:?}");
    assert!(sum.refused_states > count && sum.cut_short > count, "{sum:?}");
    assert!(sum.empty_plans < count * STEPS as u64 / 4, "{sum:?}");
}
