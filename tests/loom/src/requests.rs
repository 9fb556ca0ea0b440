//! A request as its threads see it: the engine's side, which makes tokens, and the readers', who show, wait and poll.

use super::completions::{Completions, Popped};
use super::queue::{Merged, Queue, Read};
use super::ready::{Left, Ready, Round, Turn, TurnOr};
use super::sync::{Condvar, Mutex, later, lock, wait_until};
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::sync::Arc;
use std::time::Instant;

/// An event: so many tokens from the first on, whether it is the last, and whether it says that the request was cancelled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub first: usize,
    pub tokens: usize,
    pub terminal: bool,
    pub cut: bool,
}

impl Merged for Event {
    type Reason = ();
    type Size = ();
    fn units(&self) -> usize {
        self.tokens
    }
    fn is_full(&self) -> bool {
        false
    }
    fn wants(&self) -> Option<()> {
        None
    }
    fn clear(&mut self) {
        *self = Event::default();
    }
    fn absorb(&mut self, from: &mut Event) {
        if self.tokens == 0 {
            self.first = from.first;
        } else if from.tokens > 0 {
            assert_eq!(from.first, self.first + self.tokens, "what is newer comes behind");
        }
        self.tokens += from.tokens;
        (self.terminal, self.cut) = (self.terminal || from.terminal, self.cut || from.cut);
        from.clear();
    }
}

/// What is dropped after the terminal event: counts how often.
pub struct Sink(pub Arc<AtomicUsize>);

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A request: its queue, what was read of it, and the engine's mailbox as far as it concerns it.
pub struct Request {
    pub queue: Queue<Event, Sink>,
    pub seen: Mutex<Vec<Event>>,
    pub dropped: Arc<AtomicUsize>,
    pub mail: Mutex<Mail>,
    pub mailed: Condvar,
}

#[derive(Default)]
pub struct Mail {
    pub resumes: usize,
    pub cancelled: bool,
}

impl Request {
    pub fn new(limit: usize, pulled: bool) -> Arc<Request> {
        let dropped = Arc::new(AtomicUsize::new(0));
        let sink = (!pulled).then(|| Sink(dropped.clone()));
        Arc::new(Request {
            queue: Queue::new([Event::default(), Event::default()], limit, sink),
            seen: Mutex::new(Vec::new()),
            dropped,
            mail: Mutex::new(Mail::default()),
            mailed: Condvar::new(),
        })
    }

    pub fn see(&self, event: Event) {
        let mut seen = lock(&self.seen);
        assert!(seen.iter().all(|e| !e.terminal), "an event after the terminal one");
        assert!(event.terminal || event.tokens > 0, "an event without content");
        let end = seen.last().map_or(0, |e| e.first + e.tokens);
        assert!(event.tokens == 0 || event.first == end, "{event:?} after {seen:?}");
        seen.push(event);
    }

    pub fn resume(&self) {
        lock(&self.mail).resumes += 1;
        self.mailed.notify_one();
    }

    pub fn cancel(&self) {
        self.queue.mute(());
        lock(&self.mail).cancelled = true;
        self.mailed.notify_one();
    }

    /// Everything was read: so many tokens, one terminal event, one drop of the sink.
    pub fn check(&self, tokens: Option<usize>, drops: usize) {
        let seen = lock(&self.seen);
        assert_eq!(seen.iter().filter(|e| e.terminal).count(), 1);
        assert!(tokens.is_none_or(|n| seen.iter().map(|e| e.tokens).sum::<usize>() == n), "{seen:?}");
        assert_eq!(self.dropped.load(SeqCst), drops);
    }
}

/// The engine thread's side: makes tokens, pauses when told that the queue is full, ends when done or cancelled.
pub fn generate(request: &Arc<Request>, tokens: usize, list: impl Fn(Arc<Request>)) {
    for index in 0..tokens {
        let add = |event: &mut Event| {
            event.tokens += 1;
            event.first = index + 1 - event.tokens;
            Ok::<(), ()>(())
        };
        let added = request.queue.push(add).unwrap();
        if added.list {
            list(request.clone());
        }
        let mut mail = lock(&request.mail);
        while added.full && mail.resumes == 0 && !mail.cancelled {
            (mail, _) = wait_until(&request.mailed, mail, None);
        }
        mail.resumes -= usize::from(added.full && mail.resumes > 0);
        if mail.cancelled {
            break;
        }
    }
    for _ in 0..2 {
        // A request ends once, whoever says so again.
        if request.queue.finish(|event, cut| (event.terminal, event.cut) = (true, cut.is_some())).list {
            list(request.clone());
        }
    }
    let late = request.queue.push(|_| -> Result<(), ()> { panic!("a token after the end") }).unwrap();
    assert!(!late.full && !late.list);
}

/// Shows one request to its callback, as the thread that has the turn does.
pub fn show(request: &Arc<Request>, list: &Ready<Arc<Request>>) {
    let Some(mut lent) = request.queue.lend() else { return };
    let (event, last, sink) = (lent.content.clone(), lent.last, lent.sink.take().unwrap());
    let resume = request.queue.restore(lent);
    request.see(event);
    if last {
        drop(sink);
        assert!(!request.queue.is_ended());
        request.queue.end();
        list.note_done();
        return;
    }
    request.queue.give_back(sink);
    if resume {
        request.resume();
    }
}

/// A host that polls when it is woken.
#[derive(Default)]
pub struct Wakes {
    pub count: Mutex<usize>,
    pub changed: Condvar,
}

impl Wakes {
    pub fn wake(&self) {
        *lock(&self.count) += 1;
        self.changed.notify_one();
    }

    pub fn wait(&self, at_least: usize) {
        let mut count = lock(&self.count);
        while *count < at_least {
            (count, _) = wait_until(&self.changed, count, None);
        }
    }
}

pub fn deliver_rest(turn: Turn<'_, Arc<Request>>, list: &Ready<Arc<Request>>) {
    while let Round::Items(_) = turn.round(None, false) {
        while let Some(request) = turn.take() {
            show(&request, list);
        }
    }
    leave(turn, list);
}

pub fn leave(turn: Turn<'_, Arc<Request>>, list: &Ready<Arc<Request>>) {
    if let Left::Orphaned(turn) = turn.leave() {
        deliver_rest(turn, list);
    }
}

/// Waits for the end of a request: delivers meanwhile, or waits for who does.
pub fn wait_delivering(request: &Request, list: &Ready<Arc<Request>>) {
    if let Some(turn) = deliver_until_end(request, list) {
        leave(turn, list);
    }
}

/// As [`wait_delivering`], and returns the turn if it had it.
pub fn deliver_until_end<'a>(request: &Request, list: &'a Ready<Arc<Request>>) -> Option<Turn<'a, Arc<Request>>> {
    let turn = match list.turn(None, || request.queue.is_ended()) {
        TurnOr::Turn(turn) => turn,
        TurnOr::Done => return None,
        TurnOr::Timeout => unreachable!("it waits for ever"),
    };
    while !request.queue.is_ended() {
        let Round::Items(count) = turn.round(None, false) else { panic!("nothing more will come") };
        for _ in 0..count {
            show(&turn.take().unwrap(), list);
        }
    }
    Some(turn)
}

/// Polls for ever, until the engine closes.
pub fn poll_until_closing(list: &Ready<Arc<Request>>) {
    let Some(turn) = list.try_turn() else { return };
    while let Round::Items(count) = turn.round(None, true) {
        for _ in 0..count {
            show(&turn.take().unwrap(), list);
        }
    }
    leave(turn, list);
}

pub fn push(list: &Ready<Arc<Request>>, request: Arc<Request>) {
    list.push(request);
}

/// What the owner of a request reads.
pub fn next(request: &Request, deadline: Option<Instant>) -> Read<Event> {
    request.queue.next(deadline, |event| Ok::<_, ()>(event.clone())).unwrap()
}

/// The same, where every other read finds no memory for what it reads.
pub fn next_or_fail(request: &Request, fail: bool) -> Option<Read<Event>> {
    request.queue.next(None, |event| if fail { Err(()) } else { Ok(event.clone()) }).ok()
}

/// Takes one event of a listed request, which is held by its ticket until [`let_go`]; None when it was taken back.
pub fn take(request: &Arc<Request>, list: &Completions<Arc<Request>>, ticket: u64) -> Option<Event> {
    let Some(mut taken) = request.queue.take_listed() else {
        let_go(request, list, ticket);
        return None;
    };
    let event = taken.content.clone();
    if taken.last {
        drop(taken.sink.take().expect("the sink comes with the last event"));
        request.queue.restore(taken);
        list.ended(ticket);
        request.queue.end();
    } else if request.queue.restore(taken) {
        request.resume();
    }
    Some(event)
}

/// The event that was taken is freed.
pub fn let_go(request: &Arc<Request>, list: &Completions<Arc<Request>>, ticket: u64) {
    list.release(ticket);
    if request.queue.release()
        && let Err(request) = list.push(request.clone())
    {
        discard(&request);
    }
}

/// Nobody will ask for it.
pub fn discard(request: &Request) {
    while let Some(mut taken) = request.queue.take_listed() {
        let last = taken.last;
        drop(taken.sink.take());
        request.queue.restore(taken);
        if last {
            return request.queue.end();
        }
        if !request.queue.release() {
            return;
        }
    }
}

/// A thread that takes whatever comes and frees it at once, until there will be nothing more.
pub fn take_all(list: &Completions<Arc<Request>>, thread: usize) {
    loop {
        match list.pop(None, thread, later) {
            Popped::Item(request, ticket) => {
                let Some(event) = take(&request, list, ticket) else { continue };
                let last = event.terminal;
                request.see(event);
                if !last {
                    let_go(&request, list, ticket);
                }
            }
            Popped::Stopped => return,
            Popped::Busy => unreachable!("it holds nothing when it asks"),
            Popped::Timeout => unreachable!("it waits for ever"),
        }
    }
}

/// Every interleaving, or those with at most so many preemptions.
pub fn explore(preemptions: Option<usize>, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(test);
}

/// Deadlines that have passed: a call that does not wait.
pub fn now() -> Option<Instant> {
    Some(Instant::now())
}
