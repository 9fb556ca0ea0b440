//! The queue of a request and the list of what is ready, from `src/engine/delivery`, on locks that loom schedules: each
//! test is run in every interleaving of its threads, or in those with so many preemptions as it names.
//!
//! A lost wake-up shows as a deadlock, which loom reports. `generate` is the engine thread's side of the protocol, as
//! `src/engine/core.rs` keeps it; `show`, `deliver_rest` and the loops in the tests are the readers', as in
//! `src/engine/receive.rs`.
#![cfg(test)]

#[path = "../../../src/engine/delivery/queue.rs"]
pub mod queue;
#[path = "../../../src/engine/delivery/ready.rs"]
pub mod ready;

/// What `src/engine/delivery/sync.rs` is in the library. A wait with a deadline finds that it has passed.
mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
    use std::time::Instant;

    pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    pub fn wait_until<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, T>, bool) {
        match deadline {
            None => (condvar.wait(guard).unwrap(), true),
            Some(_) => (guard, false),
        }
    }
}

use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use queue::{Merged, Queue, Read};
use ready::{Left, Popped, Pushed, Ready, Round, Turn, TurnOr};
use std::time::Instant;
use sync::{lock, wait_until};

/// An event: so many tokens, whether it is the last, and whether it says that the request was cancelled.
#[derive(Debug, Default, PartialEq)]
struct Event {
    tokens: usize,
    terminal: bool,
    cut: bool,
}

impl Merged for Event {
    type Cut = ();
    fn units(&self) -> usize {
        self.tokens
    }
    fn take(&mut self) -> Event {
        std::mem::take(self)
    }
}

/// What is dropped after the terminal event: counts how often.
struct Sink(Arc<AtomicUsize>);

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A request: its queue, what was read of it, and the engine's mailbox as far as it concerns it.
struct Request {
    queue: Queue<Event, Sink>,
    seen: Mutex<Vec<Event>>,
    dropped: Arc<AtomicUsize>,
    mail: Mutex<Mail>,
    mailed: Condvar,
}

#[derive(Default)]
struct Mail {
    resumes: usize,
    cancelled: bool,
}

impl Request {
    fn new(limit: usize, pulled: bool) -> Arc<Request> {
        let dropped = Arc::new(AtomicUsize::new(0));
        let sink = (!pulled).then(|| Sink(dropped.clone()));
        Arc::new(Request {
            queue: Queue::new(Event::default(), limit, sink),
            seen: Mutex::new(Vec::new()),
            dropped,
            mail: Mutex::new(Mail::default()),
            mailed: Condvar::new(),
        })
    }

    fn see(&self, event: Event) {
        let mut seen = lock(&self.seen);
        assert!(seen.iter().all(|e| !e.terminal), "an event after the terminal one");
        assert!(event.terminal || event.tokens > 0, "an event without content");
        seen.push(event);
    }

    fn resume(&self) {
        lock(&self.mail).resumes += 1;
        self.mailed.notify_one();
    }

    fn cancel(&self) {
        self.queue.mute(());
        lock(&self.mail).cancelled = true;
        self.mailed.notify_one();
    }

    /// Everything was read: so many tokens, one terminal event, one drop of the sink.
    fn check(&self, tokens: Option<usize>, drops: usize) {
        let seen = lock(&self.seen);
        assert_eq!(seen.iter().filter(|e| e.terminal).count(), 1);
        assert!(tokens.is_none_or(|n| seen.iter().map(|e| e.tokens).sum::<usize>() == n), "{seen:?}");
        assert_eq!(self.dropped.load(SeqCst), drops);
    }
}

/// The engine thread's side: makes tokens, pauses when told that the queue is full, ends when done or cancelled.
fn generate(request: &Arc<Request>, tokens: usize, list: impl Fn(Arc<Request>)) {
    for _ in 0..tokens {
        let added = request.queue.push(|event| event.tokens += 1);
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
    let late = request.queue.push(|_| panic!("a token after the end"));
    assert!(!late.full && !late.list);
}

/// Shows one request to its callback, as the thread that has the turn does.
fn show(request: &Arc<Request>, list: &Ready<Arc<Request>>) {
    let Some(lent) = request.queue.lend() else { return };
    request.see(lent.event);
    if lent.last {
        drop(lent.sink);
        assert!(!request.queue.is_ended());
        request.queue.end();
        list.note_done();
        return;
    }
    request.queue.give_back(lent.sink);
    if lent.resume {
        request.resume();
    }
}

/// A host that polls when it is woken.
#[derive(Default)]
struct Wakes {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Wakes {
    fn wake(&self) {
        *lock(&self.count) += 1;
        self.changed.notify_one();
    }

    fn wait(&self, at_least: usize) {
        let mut count = lock(&self.count);
        while *count < at_least {
            (count, _) = wait_until(&self.changed, count, None);
        }
    }
}

fn deliver_rest(turn: Turn<'_, Arc<Request>>, list: &Ready<Arc<Request>>) {
    while let Round::Items(_) = turn.round(None, false) {
        while let Some(request) = turn.take() {
            show(&request, list);
        }
    }
    leave(turn, list);
}

fn leave(turn: Turn<'_, Arc<Request>>, list: &Ready<Arc<Request>>) {
    if let Left::Orphaned(turn) = turn.leave() {
        deliver_rest(turn, list);
    }
}

/// Waits for the end of a request: delivers meanwhile, or waits for who does.
fn wait_delivering(request: &Request, list: &Ready<Arc<Request>>) {
    if let Some(turn) = deliver_until_end(request, list) {
        leave(turn, list);
    }
}

/// As [`wait_delivering`], and returns the turn if it had it.
fn deliver_until_end<'a>(request: &Request, list: &'a Ready<Arc<Request>>) -> Option<Turn<'a, Arc<Request>>> {
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
fn poll_until_closing(list: &Ready<Arc<Request>>) {
    let Some(turn) = list.try_turn() else { return };
    while let Round::Items(count) = turn.round(None, true) {
        for _ in 0..count {
            show(&turn.take().unwrap(), list);
        }
    }
    leave(turn, list);
}

fn push(list: &Ready<Arc<Request>>, request: Arc<Request>) {
    assert!(!matches!(list.push(request), Pushed::Refused(_)));
}

/// Every interleaving, or those with at most so many preemptions.
fn explore(preemptions: Option<usize>, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(test);
}

/// Deadlines that have passed: a call that does not wait.
fn now() -> Option<Instant> {
    Some(Instant::now())
}

#[test]
fn a_pulled_request_is_resumed_and_ends_once() {
    explore(None, || {
        let request = Request::new(1, true);
        let engine = thread::spawn({
            let request = request.clone();
            move || generate(&request, 2, |_| unreachable!("a pulled request is in no list"))
        });
        while let Read::Event(event, resume) = request.queue.next(None) {
            request.see(event);
            if resume {
                request.resume();
            }
        }
        request.check(Some(2), 0);
        assert!(matches!(request.queue.next(now()), Read::End));
        engine.join().unwrap();
    });
}

#[test]
fn a_wait_lifts_the_limit_of_a_pulled_request() {
    explore(None, || {
        let request = Request::new(1, true);
        let engine = thread::spawn({
            let request = request.clone();
            move || generate(&request, 2, |_| unreachable!("a pulled request is in no list"))
        });
        if let Read::Event(event, resume) = request.queue.next(now()) {
            request.see(event);
            if resume {
                request.resume();
            }
        }
        if let Read::Event(event, _) = request.queue.rest(None, || request.resume()) {
            request.see(event);
        }
        request.check(Some(2), 0);
        engine.join().unwrap();
    });
}

#[test]
fn a_dispatch_thread_delivers_everything_and_a_waiter_learns_of_the_end() {
    explore(Some(2), || {
        let (request, list) = (Request::new(1, false), Arc::new(Ready::new()));
        let dispatcher = thread::spawn({
            let list = list.clone();
            move || {
                while let Popped::Item(request) = list.pop(None) {
                    show(&request, &list);
                }
            }
        });
        let engine = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || {
                generate(&request, 2, |r| push(&list, r));
                list.stop();
            }
        });
        assert!(request.queue.wait_ended(None));
        request.check(Some(2), 1);
        engine.join().unwrap();
        dispatcher.join().unwrap();
    });
}

#[test]
fn a_cancelled_request_ends_once_and_shows_nothing_more() {
    explore(Some(2), || {
        let (request, list) = (Request::new(2, false), Arc::new(Ready::new()));
        let engine = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || {
                generate(&request, 2, |r| push(&list, r));
                list.stop();
            }
        });
        let canceller = thread::spawn({
            let request = request.clone();
            move || request.cancel()
        });
        while let Popped::Item(request) = list.pop(None) {
            show(&request, &list);
        }
        engine.join().unwrap();
        canceller.join().unwrap();
        request.check(None, 1);
    });
}

#[test]
fn after_a_cancel_queued_tokens_are_dropped() {
    explore(Some(3), || {
        let (request, list) = (Request::new(4, false), Arc::new(Ready::new()));
        let engine = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || {
                generate(&request, 2, |r| push(&list, r));
                list.stop();
            }
        });
        let finished_before = request.queue.is_finished();
        request.cancel();
        let finished_after = request.queue.is_finished();
        while let Popped::Item(request) = list.pop(None) {
            show(&request, &list);
        }
        engine.join().unwrap();
        if finished_before {
            request.check(Some(2), 1);
        } else if !finished_after {
            request.check(Some(0), 1);
        } else {
            request.check(None, 1);
        }
        let cut = lock(&request.seen).iter().any(|e| e.cut);
        assert!(if finished_before { !cut } else { finished_after || cut });
    });
}

/// Whoever cancels at whatever moment: a terminal event that does not say so comes with every token.
#[test]
fn a_terminal_event_with_missing_tokens_says_that_it_was_cut() {
    for limit in [1, 4] {
        explore(Some(3), move || {
            let request = Request::new(limit, true);
            let engine = thread::spawn({
                let request = request.clone();
                move || generate(&request, 2, |_| unreachable!("a pulled request is in no list"))
            });
            let canceller = thread::spawn({
                let request = request.clone();
                move || request.cancel()
            });
            while let Read::Event(event, resume) = request.queue.next(None) {
                request.see(event);
                if resume {
                    request.resume();
                }
            }
            engine.join().unwrap();
            canceller.join().unwrap();
            let cut = lock(&request.seen).iter().any(|e| e.cut);
            request.check(if cut { None } else { Some(2) }, 0);
        });
    }
}

#[test]
fn any_number_of_threads_take_completions() {
    explore(Some(2), || {
        let list = Arc::new(Ready::new());
        let requests = [Request::new(1, false), Request::new(4, false)];
        let take = |list: Arc<Ready<Arc<Request>>>| {
            move || {
                while let Popped::Item(request) = list.pop(None) {
                    let Some((event, resume, sink)) = request.queue.take_listed() else { continue };
                    // Two threads may hold events of one request, so the order in which they note them says nothing.
                    let terminal = event.terminal;
                    assert_eq!(sink.is_some(), terminal);
                    lock(&request.seen).push(event);
                    if terminal {
                        drop(sink);
                        request.queue.end();
                    }
                    if resume {
                        request.resume();
                    }
                }
            }
        };
        let takers = [thread::spawn(take(list.clone())), thread::spawn(take(list.clone()))];
        for (request, tokens) in requests.iter().zip([2, 1]) {
            generate(request, tokens, |r| push(&list, r));
        }
        list.stop();
        takers.into_iter().for_each(|t| t.join().unwrap());
        requests[0].check(Some(2), 1);
        requests[1].check(Some(1), 1);
    });
}

#[test]
fn a_host_that_polls_only_when_woken_gets_everything() {
    explore(Some(3), || {
        let (request, list, wakes) = (Request::new(1, false), Arc::new(Ready::new()), Arc::new(Wakes::default()));
        let engine = thread::spawn({
            let (request, list, wakes) = (request.clone(), list.clone(), wakes.clone());
            move || {
                generate(&request, 2, |r| {
                    if let Pushed::Wake = list.push(r) {
                        wakes.wake();
                    }
                });
            }
        });
        let mut polls = 0;
        while !request.queue.is_ended() {
            wakes.wait(polls + 1);
            polls += 1;
            let turn = list.try_turn().expect("nobody else polls");
            if let Round::Items(count) = turn.round(now(), true) {
                for _ in 0..count {
                    show(&turn.take().unwrap(), &list);
                }
            }
            leave(turn, &list);
            assert!(*lock(&wakes.count) <= polls + 1, "more than one wake for a poll");
        }
        engine.join().unwrap();
        request.check(Some(2), 1);
    });
}

/// One request is waited for, and the other belongs to a host that polls when it is woken, also while the waiter has
/// the turn: whatever the waiter leaves, the host hears of it.
#[test]
fn a_host_that_is_turned_away_is_woken_for_what_is_left() {
    explore(Some(3), || {
        let (list, wakes) = (Arc::new(Ready::new()), Arc::new(Wakes::default()));
        let [waited, polled] = [Request::new(4, false), Request::new(4, false)];
        let waiter = thread::spawn({
            let (waited, polled, list, wakes) = (waited.clone(), polled.clone(), list.clone(), wakes.clone());
            move || {
                if let Some(turn) = deliver_until_end(&waited, &list)
                    && let Left::Owing = turn.leave()
                    && list.owes_wake()
                {
                    wakes.wake();
                }
                // Its callback has told the host.
                if polled.queue.is_ended() {
                    wakes.wake();
                }
            }
        });
        let engine = thread::spawn({
            let (waited, polled, list, wakes) = (waited.clone(), polled.clone(), list.clone(), wakes.clone());
            move || {
                for (request, tokens) in [(&waited, 0), (&polled, 1)] {
                    generate(request, tokens, |r| {
                        if let Pushed::Wake = list.push(r) {
                            wakes.wake();
                        }
                    });
                }
            }
        });
        let mut polls = 0;
        while !polled.queue.is_ended() {
            wakes.wait(polls + 1);
            polls += 1;
            let Some(turn) = list.try_turn() else { continue };
            if let Round::Items(count) = turn.round(now(), true) {
                for _ in 0..count {
                    show(&turn.take().unwrap(), &list);
                }
            }
            leave(turn, &list);
        }
        waiter.join().unwrap();
        engine.join().unwrap();
        waited.check(Some(0), 1);
        polled.check(Some(1), 1);
    });
}

#[test]
fn two_waiters_share_the_turn() {
    explore(Some(2), || {
        let list = Arc::new(Ready::new());
        let requests = [Request::new(1, false), Request::new(1, false)];
        let wait = |(list, request): (Arc<_>, Arc<_>)| move || wait_delivering(&request, &list);
        let waiters: Vec<_> = requests.iter().map(|r| thread::spawn(wait((list.clone(), r.clone())))).collect();
        for request in &requests {
            generate(request, 1, |r| push(&list, r));
        }
        waiters.into_iter().for_each(|w| w.join().unwrap());
        requests.iter().for_each(|r| r.check(Some(1), 1));
    });
}

#[test]
fn a_waiter_learns_of_the_end_while_another_thread_keeps_the_turn() {
    explore(Some(3), || {
        let (request, list) = (Request::new(4, false), Arc::new(Ready::new()));
        let poller = thread::spawn({
            let list = list.clone();
            move || poll_until_closing(&list)
        });
        let engine = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || generate(&request, 1, |r| push(&list, r))
        });
        wait_delivering(&request, &list);
        request.check(Some(1), 1);
        list.close();
        engine.join().unwrap();
        poller.join().unwrap();
    });
}

#[test]
fn a_poll_that_waits_leaves_when_the_engine_closes_and_close_delivers_the_rest() {
    explore(Some(2), || {
        let (request, list) = (Request::new(4, false), Arc::new(Ready::new()));
        let engine = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || {
                generate(&request, 1, |r| push(&list, r));
                list.stop();
            }
        });
        let poller = thread::spawn({
            let list = list.clone();
            move || poll_until_closing(&list)
        });
        list.close();
        let TurnOr::Turn(turn) = list.turn(None, || false) else { panic!("it waits for ever") };
        deliver_rest(turn, &list);
        request.check(Some(1), 1);
        engine.join().unwrap();
        poller.join().unwrap();
    });
}

/// Freed inside a callback: whoever has the turn delivers what nobody else will. Freed on a thread of the engine itself: that
/// thread does, at its end.
#[test]
fn what_is_left_behind_is_delivered_by_somebody() {
    for own_thread in [false, true] {
        explore(Some(2), move || {
            let (request, list) = (Request::new(4, false), Arc::new(Ready::new()));
            let engine = thread::spawn({
                let (request, list) = (request.clone(), list.clone());
                move || {
                    if own_thread {
                        drop(list.orphan());
                    }
                    generate(&request, 1, |r| push(&list, r));
                    list.stop();
                    if let Some(turn) = list.adopt() {
                        leave(turn, &list);
                    }
                }
            });
            let poller = thread::spawn({
                let list = list.clone();
                move || {
                    let Some(turn) = list.try_turn() else { return };
                    if let Round::Items(_) = turn.round(now(), true) {
                        show(&turn.take().unwrap(), &list);
                    }
                    leave(turn, &list);
                }
            });
            if !own_thread && let Some(turn) = list.orphan() {
                deliver_rest(turn, &list);
            }
            poller.join().unwrap();
            engine.join().unwrap();
            request.check(Some(1), 1);
        });
    }
}

#[test]
fn completions_that_nobody_will_take_are_dropped_once() {
    explore(None, || {
        let (request, list) = (Request::new(4, false), Arc::new(Ready::<Arc<Request>>::new()));
        let discard = |request: &Request| {
            while let Some((event, _, sink)) = request.queue.take_listed() {
                drop(sink);
                if event.terminal {
                    request.queue.end();
                }
            }
        };
        let engine = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || {
                generate(&request, 1, |r| {
                    if let Pushed::Refused(request) = list.push(r) {
                        discard(&request);
                    }
                });
            }
        });
        list.refuse().iter().for_each(|r| discard(r));
        engine.join().unwrap();
        assert!(request.queue.is_ended());
        assert_eq!(request.dropped.load(SeqCst), 1);
    });
}
