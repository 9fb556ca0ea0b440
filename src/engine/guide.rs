//! Constraints of requests: who computes which tokens may follow, and when.
//!
//! A constrained request has a [`Guide`]. After each of its tokens the engine thread gives the guide to the constraint thread, which
//! tells the matcher of the token and leaves the mask of those that may follow, and of those after drafts behind it. Only then the token
//! joins the sequence in the scheduler; until it has, the request has no row, and nobody waits for it. A token that was drafted has its
//! mask already and joins at once. The engine thread owns a guide's mask while the guide is
//! ready, the constraint thread while it is not; the lock between them is never waited for by the engine thread.
//!
//! The constraint thread ([`super::compile`]) starts with the first constrained request of an engine, sleeps while it has nothing to
//! do, and ends with the engine thread.

use super::answer_grammars::AnswerGrammars;
use super::constraint::{Answerable, Constraint};
use super::{lock, wait_until};
use crate::constrain::{self, Grammar, Matcher, TokenTrie};
use crate::error::{Error, Result, copied, filled, reserved};
use crate::limits;
use crate::os::shortage;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The constraint of one request.
pub(super) struct Guide {
    work: Mutex<Work>,
    /// Nobody but the engine thread has it.
    ready: AtomicBool,
    grammar: Arc<dyn Grammar>,
    /// Tokens that end an answer: they may follow where it may end.
    ends: Vec<u32>,
}

/// What a guide computes with.
struct Work {
    /// Made with the first token.
    matcher: Option<Box<dyn Matcher>>,
    /// The token to tell it of, after the drafts that were accepted.
    token: u32,
    now: Answerable,
    drafts: DraftMasks,
    error: Option<Error>,
}

/// What a ready guide says.
pub(super) enum Verdict {
    /// The answer goes on.
    GoesOn,
    /// The answer is over: nothing may follow, not even an end token, of which the request has none.
    Over,
    /// The constraint cannot go on.
    Failed(Error),
}

impl Guide {
    /// The guide of a request that ends at `ends`. The engine's vocabulary has `vocab` tokens, and this fingerprint.
    ///
    /// # Errors
    /// `Argument` for a constraint of another vocabulary; `Memory`.
    pub fn new(constraint: &Constraint, vocab: usize, tokens_of_engine: u64, ends: &[u32]) -> Result<Arc<Guide>> {
        if constraint.vocab != vocab || constraint.tokens.is_some_and(|tokens| tokens != tokens_of_engine) {
            let message = "the constraint was compiled by an engine with another vocabulary; compile it with this one";
            return Err(Error::argument(message).about("constraint"));
        }
        let mask = copied("the mask of a constraint", &constraint.first.mask)?;
        let mut now = Answerable { mask, complete: constraint.first.complete };
        let ends = copied("the end tokens of a constraint", ends)?;
        now.add(&ends);
        Ok(Arc::new(Guide {
            work: Mutex::new(Work { matcher: None, token: 0, now, drafts: DraftMasks::new()?, error: None }),
            ready: AtomicBool::new(true),
            grammar: constraint.grammar.clone(),
            ends,
        }))
    }

    /// Whether the mask is that of the sequence's end.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The work, which nobody else has while the guide is ready.
    fn own(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    /// Appends the mask of a ready guide, after `drafts` of its drafts.
    pub fn write_mask(&self, drafts: usize, to: &mut Vec<u32>) {
        to.extend_from_slice(&self.own().after(drafts).mask);
    }

    /// Appends the drafts of a ready guide, those that may follow as the constraint says.
    pub fn write_drafts(&self, to: &mut Vec<u32>) {
        to.extend_from_slice(self.own().drafts.kept());
    }

    /// The next draft of a ready guide is a token of the answer.
    pub fn accept_draft(&self) {
        self.own().drafts.accepted += 1;
    }

    /// Whether the answer meets the constraint as it is.
    pub fn is_complete(&self) -> bool {
        let known = |work: &Work| work.error.is_none() && work.after(0).complete;
        self.is_ready() && known(&self.own())
    }

    /// What follows from the state of a ready guide.
    pub fn verdict(&self) -> Verdict {
        let work = self.own();
        match &work.error {
            Some(error) => Verdict::Failed(error.clone()),
            None if work.after(0).mask.iter().any(|word| *word != 0) => Verdict::GoesOn,
            None if work.after(0).complete => Verdict::Over,
            None => Verdict::Failed(
                Error::unsupported("no token of the vocabulary can go on with the answer as the constraint demands")
                    .about("constraint"),
            ),
        }
    }

    /// Computes the mask after the token. Constraint thread only.
    pub fn compute(&self) {
        let mut work = lock(&self.work);
        shortage::forget();
        let done = catch_unwind(AssertUnwindSafe(|| work.advance(&*self.grammar, &self.ends)));
        let done = done
            .unwrap_or_else(|_| Err(Error::internal("a constraint panicked; please report it").about("constraint")));
        work.error = done.and_then(|()| shortage::check("a constraint")).err();
        drop(work);
        self.ready.store(true, Ordering::Release);
    }
}

impl Work {
    /// What may follow after `drafts` more of the drafts than were accepted.
    fn after(&self, drafts: usize) -> &Answerable {
        let index = (self.drafts.accepted + drafts).checked_sub(1);
        index.and_then(|index| self.drafts.masks.get(index)).unwrap_or(&self.now)
    }

    fn advance(&mut self, grammar: &dyn Grammar, ends: &[u32]) -> Result<()> {
        let matcher = match &mut self.matcher {
            Some(matcher) => matcher,
            // What was allowed first is known; a matcher takes its tokens only after it said so itself.
            none => {
                let mut matcher = grammar.matcher()?;
                matcher.allowed(&mut self.now.mask)?;
                none.insert(matcher)
            }
        };
        let forked = self.drafts.forked.take();
        let accepted = &self.drafts.kept()[..self.drafts.accepted.min(self.drafts.count)];
        match forked {
            // It has seen them all.
            Some(forked) if accepted.len() == self.drafts.count => *matcher = forked,
            _ => {
                for &token in accepted {
                    matcher.accept(token)?;
                    matcher.allowed(&mut self.now.mask)?;
                }
            }
        }
        matcher.accept(self.token)?;
        self.now.complete = matcher.allowed(&mut self.now.mask)?;
        self.now.add(ends);
        self.drafts.attempt(&**matcher, &self.now, ends);
        Ok(())
    }
}

/// The masks after drafts, by a matcher of their own, so that those that are refused leave no trace.
#[derive(Default)]
struct DraftMasks {
    /// Those that are to be tried after the next token.
    asked: Vec<u32>,
    /// Those that were tried, of which the first `count` may follow one after the other; `accepted` of them are tokens of the answer.
    tried: Vec<u32>,
    count: usize,
    accepted: usize,
    /// After each of them. Kept for their memory.
    masks: Vec<Answerable>,
    /// Has seen the answer and those of `tried` that may follow.
    forked: Option<Box<dyn Matcher>>,
}

impl DraftMasks {
    /// No drafts, with memory for the most.
    ///
    /// # Errors
    /// `Memory`.
    fn new() -> Result<DraftMasks> {
        let drafts = || reserved("the drafts of a constraint", limits::DRAFT_TOKENS_MAX);
        Ok(DraftMasks { asked: drafts()?, tried: drafts()?, ..DraftMasks::default() })
    }

    fn kept(&self) -> &[u32] {
        &self.tried[..self.count]
    }

    /// Tries what is asked, after an answer that `now` may follow.
    fn attempt(&mut self, matcher: &dyn Matcher, now: &Answerable, ends: &[u32]) {
        (self.count, self.accepted) = (0, 0);
        std::mem::swap(&mut self.tried, &mut self.asked);
        self.asked.clear();
        if self.tried.is_empty() {
            return;
        }
        // What is refused here the answer has no need of.
        self.forked = shortage::apart(|| {
            let forked = catch_unwind(AssertUnwindSafe(|| self.try_drafts(matcher, now, ends))).unwrap_or_default();
            forked.filter(|_| !shortage::is_noted())
        });
    }

    /// A copy of the matcher that has seen those that may follow; `None` where it could not go on.
    fn try_drafts(&mut self, matcher: &dyn Matcher, now: &Answerable, ends: &[u32]) -> Option<Box<dyn Matcher>> {
        let begin = Instant::now();
        let mut forked = matcher.fork()?;
        for at in 0..self.tried.len() {
            let before = at.checked_sub(1).map_or(now, |last| &self.masks[last]);
            let (draft, time) = (self.tried[at], Duration::from_micros(limits::DRAFT_MASKS_US));
            if !constrain::is_set(&before.mask, draft) || ends.contains(&draft) || begin.elapsed() > time {
                return Some(forked);
            }
            forked.accept(draft).ok()?;
            if self.masks.len() == at {
                self.masks.try_reserve(1).ok()?;
                let mask = filled("the mask of a draft", now.mask.len(), 0).ok()?;
                self.masks.push(Answerable { mask, complete: false });
            }
            let after = &mut self.masks[at];
            after.complete = forked.allowed(&mut after.mask).ok()?;
            after.add(ends);
            // Where nothing may follow, the answer is over, which is found out without drafts.
            if after.mask.iter().all(|word| *word == 0) {
                return None;
            }
            self.count = at + 1;
        }
        Some(forked)
    }
}

/// Guides whose masks are to be computed, for the constraint thread; and the tree of the engine's vocabulary.
#[derive(Default)]
pub(super) struct Guides {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Made while the engine opens, or for the first constraint. Locked while it is made.
    trie: Mutex<Option<Arc<TokenTrie>>>,
    /// Of the vocabulary, found for the first constrained request.
    fingerprint: Mutex<Option<u64>>,
    /// Grammars of answers that were made.
    pub answers: AnswerGrammars,
}

/// What the constraint thread is given.
pub(super) enum Job {
    /// Compute the mask after the token.
    Compute(Arc<Guide>),
    /// Drop what a request that has ended leaves, which may be much.
    Drop(Arc<Guide>),
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    started: bool,
    stopped: bool,
}

impl Guides {
    /// Makes room for two jobs of each of so many requests, so that giving them allocates nothing.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&self, requests: usize) -> Result<()> {
        let mut queue = lock(&self.queue);
        let (most, waiting) = (2 * requests, queue.waiting.len());
        let bytes = (most * size_of::<Job>()) as u64;
        queue
            .waiting
            .try_reserve(most.saturating_sub(waiting))
            .map_err(|_| Error::memory("the line of constraints", bytes))
    }

    /// Those of an engine, with the tree of its vocabulary if it was made while the engine opened.
    pub fn new(trie: Option<TokenTrie>) -> Guides {
        let fingerprint = trie.as_ref().map(TokenTrie::fingerprint);
        Guides { trie: Mutex::new(trie.map(Arc::new)), fingerprint: Mutex::new(fingerprint), ..Guides::default() }
    }

    /// The tree of the vocabulary, made by the first call.
    pub fn trie(&self, make: impl FnOnce() -> Result<TokenTrie>) -> Result<Arc<TokenTrie>> {
        let mut trie = lock(&self.trie);
        match &*trie {
            Some(trie) => Ok(trie.clone()),
            None => Ok(trie.insert(Arc::new(make()?)).clone()),
        }
    }

    /// The fingerprint of the vocabulary, found by the first call.
    pub fn fingerprint(&self, find: impl FnOnce() -> Result<u64>) -> Result<u64> {
        let mut known = lock(&self.fingerprint);
        match *known {
            Some(known) => Ok(known),
            None => Ok(*known.insert(find()?)),
        }
    }

    /// Asks for the mask after `token`, which a ready guide allowed, and for those after the drafts behind it, as far as they may
    /// follow. Engine thread only.
    pub fn push(&self, guide: &Arc<Guide>, token: u32, drafts: &[u32]) {
        let mut work = guide.own();
        work.token = token;
        work.drafts.asked.clear();
        work.drafts.asked.extend(drafts.iter().take(limits::DRAFT_TOKENS_MAX));
        drop(work);
        guide.ready.store(false, Ordering::Release);
        self.give(Job::Compute(guide.clone()));
    }

    /// Takes the guide of a request that has ended. Engine thread only. What was still asked of it is taken back, and where the
    /// constraint thread is far behind it is dropped here, so that the line keeps room for those that compute.
    pub fn retire(&self, guide: Arc<Guide>) {
        let room = {
            let mut queue = lock(&self.queue);
            if !guide.is_ready() {
                queue.waiting.retain(|job| !matches!(job, Job::Compute(other) if Arc::ptr_eq(other, &guide)));
            }
            queue.waiting.len() < queue.waiting.capacity() / 2
        };
        if room {
            self.give(Job::Drop(guide));
        }
    }

    /// Whether the constraint thread is still to be started, by the caller; asked under the lock on the engine's threads.
    pub fn is_to_start(&self) -> bool {
        !lock(&self.queue).started
    }

    /// The constraint thread was started.
    pub fn note_start(&self) {
        lock(&self.queue).started = true;
    }

    fn give(&self, job: Job) {
        let mut queue = lock(&self.queue);
        if !queue.stopped {
            queue.waiting.push_back(job);
            drop(queue);
            self.changed.notify_one();
        }
    }

    /// The engine thread ends, and the constraint thread with it.
    pub fn stop(&self) {
        let mut queue = lock(&self.queue);
        queue.stopped = true;
        let left = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(left);
        self.changed.notify_all();
    }

    pub fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(job) = queue.waiting.pop_front() {
                return Some(job);
            }
            (queue, _) = wait_until(&self.changed, queue, None);
        }
    }
}
