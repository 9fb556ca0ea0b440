//! The queue of a request and the list of what is ready, from `src/engine/delivery`, on locks that loom schedules: each
//! test is run in every interleaving of its threads, or in those with so many preemptions as it names.
//!
//! A lost wake-up shows as a deadlock, which loom reports. `generate` of [`requests`] is the engine thread's side of the protocol, as
//! `src/engine/core.rs` keeps it; `show`, `deliver_rest` and the loops in the tests are the readers', as in
//! `src/engine/receive.rs`.
#![cfg(test)]

#[path = "../../../src/engine/delivery/completions.rs"]
pub mod completions;
#[path = "../../../src/engine/delivery/queue.rs"]
pub mod queue;
#[path = "../../../src/engine/delivery/ready.rs"]
pub mod ready;
mod requests;
mod sync;

use loom::sync::Arc;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;
use completions::{Completions, Popped};
use queue::Read;
use ready::{Left, Pushed, Ready, Round, TurnOr};
use requests::*;
use sync::{later, lock, meanwhile, soon};

#[test]
fn a_pulled_request_is_resumed_and_ends_once() {
    explore(Some(4), || {
        let request = Request::new(1, true);
        let engine = thread::spawn({
            let request = request.clone();
            move || generate(&request, 2, |_| unreachable!("a pulled request is in no list"))
        });
        while let Read::Event(event, resume) = next(&request, None) {
            request.see(event);
            if resume {
                request.resume();
            }
        }
        request.check(Some(2), 0);
        assert!(matches!(next(&request, now()), Read::End));
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
        if let Read::Event(event, resume) = next(&request, now()) {
            request.see(event);
            if resume {
                request.resume();
            }
        }
        let read = |event: &mut Event| Ok::<_, ()>(event.clone());
        let rest = request.queue.rest(None, || request.resume(), |()| unreachable!("it never grows"), read);
        if let Read::Event(event, _) = rest.unwrap() {
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
                while let ready::Popped::Item(request) = list.pop(None) {
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
        while let ready::Popped::Item(request) = list.pop(None) {
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
        while let ready::Popped::Item(request) = list.pop(None) {
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
            while let Read::Event(event, resume) = next(&request, None) {
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

/// A read that fails, for want of memory, has read nothing.
#[test]
fn what_could_not_be_read_is_read_later() {
    explore(Some(3), || {
        let request = Request::new(1, true);
        let engine = thread::spawn({
            let request = request.clone();
            move || generate(&request, 2, |_| unreachable!("a pulled request is in no list"))
        });
        let mut fail = true;
        loop {
            match next_or_fail(&request, fail) {
                Some(Read::Event(event, resume)) => {
                    request.see(event);
                    if resume {
                        request.resume();
                    }
                }
                Some(_) => break,
                None => assert!(fail),
            }
            fail = !fail;
        }
        request.check(Some(2), 0);
        engine.join().unwrap();
    });
}

/// [`Request::see`] proves that they come in order, whoever has them.
#[test]
fn any_number_of_threads_take_completions_in_order() {
    explore(Some(2), || {
        let list = Arc::new(Completions::new());
        let request = Request::new(1, false);
        list.expect().unwrap();
        let takers = [1, 2].map(|me| {
            let list = list.clone();
            thread::spawn(move || take_all(&list, me))
        });
        generate(&request, 2, |r| assert!(list.push(r).is_ok()));
        list.stop();
        takers.into_iter().for_each(|t| t.join().unwrap());
        request.check(Some(2), 1);
    });
}

#[test]
fn requests_of_several_takers_do_not_wait_for_each_other() {
    explore(Some(2), || {
        let list = Arc::new(Completions::new());
        let requests = [Request::new(4, false), Request::new(4, false)];
        (0..2).for_each(|_| list.expect().unwrap());
        let taker = thread::spawn({
            let list = list.clone();
            move || take_all(&list, 1)
        });
        for request in &requests {
            generate(request, 1, |r| assert!(list.push(r).is_ok()));
        }
        list.stop();
        take_all(&list, 2);
        taker.join().unwrap();
        requests.iter().for_each(|r| r.check(Some(1), 1));
    });
}

/// Who holds the only event that could come before the next one is told so, and what came meanwhile comes once it is freed.
#[test]
fn nothing_comes_while_the_event_is_held_and_all_of_it_after() {
    explore(Some(3), || {
        let (list, request) = (Arc::new(Completions::new()), Request::new(4, false));
        list.expect().unwrap();
        let engine = thread::spawn({
            let (list, request) = (list.clone(), request.clone());
            move || {
                generate(&request, 2, |r| assert!(list.push(r).is_ok()));
                list.stop();
            }
        });
        loop {
            match list.pop(None, 1, later) {
                Popped::Item(request, ticket) => {
                    let Some(event) = take(&request, &list, ticket) else { continue };
                    let last = event.terminal;
                    request.see(event);
                    if !last {
                        assert!(matches!(list.pop(None, 1, later), Popped::Busy));
                        assert!(matches!(list.pop(now(), 2, later), Popped::Timeout));
                        let_go(&request, &list, ticket);
                    }
                }
                Popped::Stopped => break,
                _ => unreachable!("nothing is held, and it waits for ever"),
            }
        }
        engine.join().unwrap();
        request.check(Some(2), 1);
    });
}

/// A request that is submitted while a caller waits for others to let go may give an event.
#[test]
fn who_waits_for_a_held_event_gets_that_of_a_new_request() {
    explore(None, || {
        let list = Arc::new(Completions::new());
        list.expect().unwrap();
        assert!(list.push("held").is_ok());
        assert!(matches!(list.pop(None, 1, later), Popped::Item("held", _)));
        meanwhile({
            let list = list.clone();
            move || {
                list.expect().unwrap();
                assert!(list.push("new").is_ok());
            }
        });
        assert!(matches!(list.pop(None, 2, soon), Popped::Item("new", _)), "its event was there");
        assert!(matches!(list.pop(None, 3, soon), Popped::Busy), "and now all are held");
    });
}

/// Nor does a wait that is over miss what came in its last moment.
#[test]
fn what_comes_in_the_last_moment_is_taken() {
    explore(None, || {
        let list = Arc::new(Completions::new());
        list.expect().unwrap();
        meanwhile({
            let list = list.clone();
            move || assert!(list.push(7).is_ok())
        });
        assert!(matches!(list.pop(Some(soon()), 1, later), Popped::Item(7, _)));
    });
}

/// Two wait for a request that is not there yet; one of them takes its only event and frees it when the other has been told
/// that nothing else can come.
#[test]
fn who_waited_before_the_first_request_is_told_that_its_event_is_held() {
    explore(Some(3), || {
        let (list, told) = (Arc::new(Completions::new()), Arc::new(Wakes::default()));
        let holder = thread::spawn({
            let (list, told) = (list.clone(), told.clone());
            move || match list.pop(None, 1, later) {
                Popped::Item((), ticket) => {
                    told.wait(1);
                    list.ended(ticket);
                }
                Popped::Stopped => {}
                _ => unreachable!("it waits for ever, and the other one holds nothing for long"),
            }
        });
        let other = thread::spawn({
            let (list, told) = (list.clone(), told.clone());
            move || match list.pop(None, 2, soon) {
                Popped::Busy => told.wake(),
                // It was faster.
                Popped::Item((), ticket) => {
                    list.ended(ticket);
                    list.stop();
                }
                _ => unreachable!("it waits for ever, and nothing stops it"),
            }
        });
        list.expect().unwrap();
        assert!(list.push(()).is_ok());
        holder.join().unwrap();
        other.join().unwrap();
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
        let (request, list) = (Request::new(4, false), Arc::new(Completions::<Arc<Request>>::new()));
        list.expect().unwrap();
        let engine = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || {
                generate(&request, 1, |r| {
                    if let Err(request) = list.push(r) {
                        discard(&request);
                    }
                });
            }
        });
        let (listed, held) = list.refuse();
        listed.iter().chain(&held).for_each(|r| discard(r));
        engine.join().unwrap();
        assert!(request.queue.is_ended());
        assert_eq!(request.dropped.load(SeqCst), 1);
    });
}

/// The engine goes while an event is out: what is behind it is dropped then, or when the event is freed.
#[test]
fn what_comes_behind_a_held_event_is_dropped_once_with_the_engine() {
    explore(Some(3), || {
        let (request, list) = (Request::new(4, false), Arc::new(Completions::<Arc<Request>>::new()));
        list.expect().unwrap();
        let push = |list: &Completions<Arc<Request>>, r| {
            if let Err(request) = list.push(r) {
                discard(&request);
            }
        };
        let held = request.queue.push(|event| Ok::<(), ()>(event.tokens += 1)).unwrap();
        assert!(held.list);
        push(&list, request.clone());
        let Popped::Item(_, ticket) = list.pop(None, 1, later) else { panic!("it is there") };
        assert!(take(&request, &list, ticket).is_some_and(|event| !event.terminal));
        let holder = thread::spawn({
            let (request, list) = (request.clone(), list.clone());
            move || let_go(&request, &list, ticket)
        });
        let added = request.queue.finish(|event, _| event.terminal = true);
        if added.list {
            push(&list, request.clone());
        }
        list.stop();
        let (listed, held) = list.refuse();
        listed.iter().chain(&held).for_each(|r| discard(r));
        holder.join().unwrap();
        assert!(request.queue.is_ended());
        assert_eq!(request.dropped.load(SeqCst), 1);
    });
}
