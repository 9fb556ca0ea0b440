//! Laws 1, 3 and 6: a storm of requests on an engine that is too small for it, and each of them once more alone on a
//! cold engine. What an engine may choose freely (slots, chunks, pages, threads, who reads when) is random; what the
//! answer may depend on (model, tier, page size, options, seed) is the same for both.

pub mod neighbours;

use crate::support::jobs::{Answer, Job, answer, drain, set_random_duty};
use crate::support::models::limit_pages;
use crate::support::random::Random;
use crate::support::target::Target;
use astrai::engine::*;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a storm did, so that a quiet one is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub finished: u64,
    /// Ended from outside, in all and before their first token although their prompt was begun.
    pub cut: u64,
    pub cut_in_prefill: u64,
    pub preemptions: u64,
    pub prefix_hits: u64,
    /// Looks at the statistics that found somebody paused.
    pub stalls: u64,
    /// Looks that found a prefix pinned, and terminal events by the engine's own queue, by poll, and of deferred requests.
    pub pinned: u64,
    pub taken: u64,
    pub polled: u64,
    pub deferred: u64,
    /// Embeddings.
    pub embedded: u64,
    /// Drafts that were what was sampled, and those that were not.
    pub accepted: u64,
    pub refused: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.finished += other.finished;
        self.cut += other.cut;
        self.cut_in_prefill += other.cut_in_prefill;
        self.preemptions += other.preemptions;
        self.prefix_hits += other.prefix_hits;
        self.stalls += other.stalls;
        self.pinned += other.pinned;
        self.taken += other.taken;
        self.polled += other.polled;
        self.deferred += other.deferred;
        self.embedded += other.embedded;
        self.accepted += other.accepted;
        self.refused += other.refused;
    }

    /// At least this much of everything.
    pub fn assert_busy(&self, least: u64) {
        let all = [self.finished, self.cut, self.cut_in_prefill, self.preemptions, self.prefix_hits, self.stalls];
        let ways = [self.pinned, self.taken, self.polled, self.deferred, self.embedded];
        let drafts = [self.accepted, self.refused];
        assert!(
            all.iter().chain(&ways).chain(&drafts).all(|&n| n >= least),
            "the storms were meant to be rougher: {self:?}"
        );
    }
}

/// Where a storm takes place, and how many and how long its requests are.
#[derive(Clone, Debug)]
pub struct Place {
    pub dir: PathBuf,
    pub target: Target,
    pub prompt_max: usize,
    pub jobs: usize,
}

/// The engine of a storm.
#[derive(Clone, Copy, Debug)]
struct Shape {
    running: u32,
    step_tokens: u32,
    threads: u32,
    page_tokens: u32,
    pages: u64,
    compute: Type,
    weights: Type,
    kv: Type,
    poll: bool,
    drafts: Drafts,
}

/// Where a crowd's drafts come from.
#[derive(Clone, Copy, Debug)]
enum Drafts {
    None,
    OwnText,
    SharedTexts,
    /// From the answers that requests will have, with so many mistakes in a hundred, and more of them than is sensible.
    Oracle(usize),
}

const GENERATED_MAX: usize = 30;

impl Shape {
    /// Of a place: with pages of f32 where its device has no quantized ones for the model's heads.
    fn random(random: &mut Random, longest: usize, place: &Place) -> Shape {
        let shape = Shape::any(random, longest);
        match Engine::plan(&place.dir, &shape.options(place.target)) {
            Err(error) if error.subject == "kv" => Shape { kv: Type::F32, ..shape },
            _ => shape,
        }
    }

    fn any(random: &mut Random, longest: usize) -> Shape {
        let page_tokens = [1, 4, 16, 16, 16, 32, 33][random.below(7)];
        let needed = longest.div_ceil(page_tokens);
        let spare = [needed / 2 + 2, needed * 3][random.below(2)];
        Shape {
            running: [1, 2, 5, 12, 12, 33, 64][random.below(7)],
            step_tokens: [1, 7, 16, 70, 256, 4096][random.below(6)],
            threads: 1 + random.below(4) as u32,
            page_tokens: page_tokens as u32,
            // The longest request fits, and not much more.
            pages: (needed + random.below(spare)) as u64,
            compute: [Type::Auto, Type::F32][random.below(2)],
            weights: [Type::Auto, Type::Q8, Type::Q4][random.below(3)],
            poll: random.below(3) == 0,
            kv: [Type::Auto, Type::Auto, Type::Q8, Type::F32][random.below(4)],
            drafts: [Drafts::None, Drafts::OwnText, Drafts::SharedTexts, Drafts::Oracle(3), Drafts::Oracle(40)]
                [random.below(5)],
        }
    }

    fn options(&self, target: Target) -> EngineOptions {
        EngineOptions {
            page_tokens: self.page_tokens,
            compute: self.compute,
            weights: self.weights,
            kv: self.kv,
            ..target.options()
        }
    }

    fn open(&self, place: &Place) -> Engine {
        self.open_drafting(place, Vec::new())
    }

    /// `texts`: what requests will have said, for those who draft from it.
    fn open_drafting(&self, place: &Place, texts: Vec<Vec<u32>>) -> Engine {
        let own_text = !matches!(self.drafts, Drafts::None);
        let shared_texts = matches!(self.drafts, Drafts::SharedTexts);
        let draft_fn: Option<DraftFn> = match self.drafts {
            Drafts::Oracle(mistakes) => Some(oracle(texts, mistakes)),
            _ => None,
        };
        let mut options = EngineOptions {
            speculation: Speculation { own_text, shared_texts, draft_tokens: 0, always: self.running % 2 == 1 },
            draft_fn,
            threads: self.threads,
            max_running: self.running,
            step_tokens: self.step_tokens,
            delivery: if self.poll { Delivery::Poll } else { Delivery::Thread },
            ..self.options(place.target)
        };
        limit_pages(&place.dir, &mut options, self.pages);
        Engine::open(&place.dir, options).unwrap()
    }

    /// One slot, one thread, the whole prompt in one piece, as many pages as anybody wants, nothing cached.
    fn open_cold(&self, place: &Place) -> Engine {
        let options = EngineOptions { threads: 1, max_running: 1, step_tokens: 4096, ..self.options(place.target) };
        Engine::open(&place.dir, options).unwrap()
    }
}

/// Drafts what is said in one of the texts after all that a request has, with so many mistakes in a hundred.
pub fn oracle(texts: Vec<Vec<u32>>, mistakes: usize) -> DraftFn {
    let random = Mutex::new(Random(1));
    Box::new(move |text, drafts| {
        let Some(known) = texts.iter().find(|known| known.len() > text.len() && known.starts_with(text)) else {
            return;
        };
        let mut random = random.lock().unwrap();
        let wrong = |token: u32, mistake: bool| if mistake { token / 2 } else { token };
        drafts.extend(known[text.len()..].iter().map(|&token| wrong(token, random.below(100) < mistakes)));
    })
}

/// How a request of a storm ends, if not by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Runs,
    /// Cancelled when its owner looked at it that often.
    Cancelled(usize),
    /// Its callback says stop at that call.
    Stopped(usize),
    Deadline,
}

/// Who reads a request of a storm.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Pull,
    Callback,
    /// Any host that asks the engine.
    Engine,
}

#[derive(Clone, Debug)]
struct Storming {
    job: Job,
    stop_tokens: Vec<u32>,
    bias: Vec<(u32, f32)>,
    way: Way,
    fate: Fate,
}

impl Storming {
    /// One of eight asks for an embedding.
    fn random(random: &mut Random, place: &Place, vocab: usize) -> Storming {
        let mut storming = Storming::generating(random, place, vocab);
        if random.below(8) == 0 {
            let RequestOptions { tag, defer, deadline_ms, priority, queue_tokens, .. } = storming.job.options;
            let default = RequestOptions { embed: true, ..RequestOptions::default() };
            storming.job.options = RequestOptions { tag, defer, deadline_ms, priority, queue_tokens, ..default };
            storming.stop_tokens.clear();
            storming.bias.clear();
        }
        storming
    }

    fn generating(random: &mut Random, place: &Place, vocab: usize) -> Storming {
        let mut job = Job::random(random, vocab, 6);
        let len = match random.below(4) {
            0 => 1 + random.below(8),
            1 => 1 + random.below(place.prompt_max / 6),
            _ => 1 + random.below(place.prompt_max),
        };
        // Most begin like one of two others, some are nothing else.
        let alike = [0, random.below(len + 1), random.below(len + 1), len][random.below(4)];
        let family = 3 + random.below(2) * 8;
        job.prompt =
            (0..len).map(|i| if i < alike { i * family % vocab } else { random.below(vocab) } as u32).collect();
        job.options.max_tokens = Some(random.below(GENERATED_MAX) as u32);
        job.options.priority = random.below(3) as i32;
        job.options.queue_tokens = [1, 3, 1000][random.below(3)];
        job.options.frequency_penalty = Some([0.0, 0.3][random.below(2)]);
        job.options.presence_penalty = Some([0.0, 0.3][random.below(2)]);
        job.options.xtc_probability = Some([0.0, 0.5, 1.0][random.below(3)]);
        job.options.xtc_threshold = Some([0.02, 0.1][random.below(2)]);
        if random.below(4) == 0 {
            job.options.dry_multiplier = Some(0.8);
            job.options.dry_allowed_length = Some([0, 1, 2][random.below(3)]);
            job.options.dry_penalty_last_n = Some([-1, 20][random.below(2)]);
        }
        job.options.min_p = Some([0.0, 0.05][random.below(2)]);
        job.options.logprobs = [None, Some(0), Some(3)][random.below(3)];
        job.options.defer = random.below(3) == 0;
        let way = [Way::Pull, Way::Callback, Way::Engine][random.below(3)];
        let looks = [10, 100][random.below(2)];
        let fate = match random.below(12) {
            0 => Fate::Cancelled(random.below(3)),
            1 | 2 => Fate::Cancelled(random.below(looks)),
            3 if way == Way::Callback => Fate::Stopped(1 + random.below(5)),
            4 => Fate::Deadline,
            _ => Fate::Runs,
        };
        if fate == Fate::Deadline {
            job.options.deadline_ms = 1 + random.below(40) as u32;
        }
        let some = |random: &mut Random, n: usize| (0..n).map(|_| random.below(vocab) as u32).collect::<Vec<_>>();
        let stops = [0, 0, 3][random.below(3)];
        let stop_tokens = some(random, stops);
        let bias = some(random, stops).into_iter().map(|t| (t, 2.5)).collect();
        Storming { job, stop_tokens, bias, way, fate }
    }

    fn prompt(&self) -> Prompt {
        Prompt { parts: vec![PromptPart::Tokens(self.job.prompt.clone())], ..Prompt::default() }
    }

    fn options(&self) -> RequestOptions {
        let settings =
            Settings { stop_tokens: self.stop_tokens.clone(), bias: self.bias.clone(), ..Settings::default() };
        RequestOptions { settings: Some(Arc::new(settings)), ..self.job.options.clone() }
    }

    fn submit(&self, engine: &Engine) -> Running {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (events, mut calls, fate) = (heard.clone(), 0, self.fate);
        let sink = match self.way {
            Way::Pull => Sink::Pull,
            Way::Engine => Sink::Engine(Box::new(())),
            Way::Callback => Sink::Callback(Box::new(move |event| {
                calls += 1;
                events.lock().unwrap().push(event.clone());
                fate != Fate::Stopped(calls)
            })),
        };
        let request = engine.submit(&self.prompt(), &self.options(), sink).unwrap();
        Running { request, heard, looks: 0, way: self.way, fate }
    }

    fn alone(&self, engine: &Engine) -> Vec<Event> {
        let options = RequestOptions { deadline_ms: 0, queue_tokens: 0, defer: false, ..self.options() };
        drain(&engine.submit(&self.prompt(), &options, Sink::Pull).unwrap())
    }
}

/// A request of a storm that has been submitted.
struct Running {
    request: Request,
    heard: Arc<Mutex<Vec<Event>>>,
    looks: usize,
    way: Way,
    fate: Fate,
}

impl Running {
    /// Looks whether there is something to read; true when there will be nothing more.
    fn look(&mut self, timeout: Option<Duration>, engine: &Engine, taken: &Taken) -> bool {
        if self.fate == Fate::Cancelled(self.looks) {
            self.request.cancel();
        }
        self.looks += 1;
        match self.way {
            Way::Pull => {}
            Way::Callback => return matches!(self.request.wait(timeout).unwrap(), Next::End),
            Way::Engine => {
                take(engine, taken);
                let ended = matches!(self.request.wait(Some(Duration::ZERO)).unwrap(), Next::End);
                if ended {
                    // Whoever took the last event has noted it before anybody else may ask.
                    let events = taken.lock().unwrap().remove(&self.request.id());
                    *self.heard.lock().unwrap() = events.expect("an ended request gave an event");
                }
                return ended;
            }
        }
        match self.request.next(timeout).unwrap() {
            Next::Event(event) => self.heard.lock().unwrap().push(*event),
            Next::Timeout => std::thread::yield_now(),
            Next::End => return true,
        }
        false
    }
}

/// What was asked of the engine, by request.
type Taken = Mutex<HashMap<u64, Vec<Event>>>;

/// Takes one event from the engine's queue; under the lock, so that the events of a request stay in order.
fn take(engine: &Engine, taken: &Taken) {
    let mut taken = taken.lock().unwrap();
    if let Next::Event(mut event) = engine.next(Some(Duration::ZERO)).unwrap() {
        event.release();
        taken.entry(event.request_id).or_default().push(*event);
    }
}

/// Does something to the engine that no request may notice.
fn meddle(engine: &Engine, jobs: &[Storming], pins: &mut Vec<Prefix>, random: &mut Random) {
    set_random_duty(engine, random);
    if random.below(4) == 0 {
        engine.pause(Some(Duration::from_millis(random.below(3) as u64))).unwrap();
    }
    engine.resume().unwrap();
    if random.below(10) == 0 {
        engine.clear_cache().unwrap();
    }
    if random.below(3) == 0 && !pins.is_empty() {
        drop(pins.swap_remove(random.below(pins.len())));
    }
    if random.below(2) == 0 {
        let prompt = &jobs[random.below(jobs.len())].job.prompt;
        let parts = vec![PromptPart::Tokens(prompt[..1 + random.below(prompt.len())].to_vec())];
        pins.push(engine.pin_prefix(&Prompt { parts, ..Prompt::default() }).unwrap());
    }
}

/// One host thread: submits its share one by one, and looks at what it has in no order, so that queues fill up.
fn host(engine: &Engine, jobs: &[Storming], taken: &Taken, mut random: Random) -> (Vec<Vec<Event>>, Tally) {
    let (mut pins, mut tally) = (Vec::new(), Tally::default());
    let mut heard: Vec<Option<Arc<Mutex<Vec<Event>>>>> = vec![None; jobs.len()];
    let mut open: Vec<Running> = Vec::new();
    let mut next = 0;
    while next < jobs.len() || !open.is_empty() {
        if next < jobs.len() && (open.is_empty() || random.below(4) == 0) {
            meddle(engine, jobs, &mut pins, &mut random);
            let running = jobs[next].submit(engine);
            heard[next] = Some(running.heard.clone());
            open.push(running);
            next += 1;
        }
        tally.stalls += u64::from(engine.stats().unwrap().stalled > 0);
        let pinned = |p: &&Prefix| matches!(p.wait(Some(Duration::ZERO)), Ok(Some(1..)));
        tally.pinned += pins.iter().filter(pinned).count() as u64;
        if open.is_empty() {
            continue;
        }
        let at = random.below(open.len());
        let timeout = if random.below(20) == 0 { None } else { Some(Duration::ZERO) };
        // Who is to be cancelled later is not waited for.
        let waits = timeout.is_none() && !matches!(open[at].fate, Fate::Cancelled(n) if n >= open[at].looks);
        if open[at].look(if waits { None } else { Some(Duration::ZERO) }, engine, taken) {
            open.swap_remove(at);
        }
    }
    let events = heard.into_iter().map(|h| std::mem::take(&mut *h.expect("all were submitted").lock().unwrap()));
    (events.collect(), tally)
}

/// A request that was cut short gave the beginning of what it would have given.
fn assert_begins(part: &Answer, whole: &Answer, what: &str) {
    assert!(whole.tokens.starts_with(&part.tokens), "{what}: {:?} of {:?}", part.tokens, whole.tokens);
    assert!(whole.logprobs.starts_with(&part.logprobs), "{what}: logprobs differ");
    assert!(whole.top.starts_with(&part.top), "{what}: alternatives differ");
    assert!(whole.prompt_logprobs.starts_with(&part.prompt_logprobs), "{what}: prompt logprobs differ");
    // What a deadline cuts through may end in half a character.
    let text = part.text.trim_end_matches('\u{fffd}');
    assert!(whole.text.starts_with(text), "{what}: {text:?} of {:?}", whole.text);
}

const HOSTS: usize = 3;

/// Ends the polling when the hosts have ended, however they did.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Shows events to callbacks until told to stop; hosts that wait do so too.
fn poll(engine: &Engine, stop: &AtomicBool, random: &mut Random) {
    while !stop.load(Ordering::SeqCst) {
        let most = random.below(3) as u32;
        if let Err(error) = engine.poll(Some(Duration::from_millis(most.into())), most) {
            assert_eq!(error.status, astrai::Status::Busy, "{error}");
            std::thread::yield_now();
        }
    }
}

/// Runs one storm; see the module.
pub fn storm(place: &Place, seed: u64) -> Tally {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let shape = Shape::random(&mut random, place.prompt_max + GENERATED_MAX, place);
    let what = format!("ASTRAI_TEST_SEED={seed} {} {:?} {shape:?}", place.dir.display(), place.target);
    let vocab = shape.open_cold(place).info().vocab_size as usize;
    let jobs: Vec<Storming> = (0..place.jobs).map(|_| Storming::random(&mut random, place, vocab)).collect();
    let wanted: Vec<Answer> = jobs.iter().map(|job| answer(&job.alone(&shape.open_cold(place)))).collect();
    let texts = jobs.iter().zip(&wanted).map(|(job, want)| [&job.job.prompt[..], &want.tokens].concat()).collect();
    let crowd = shape.open_drafting(place, texts);
    let mut tally = Tally { requests: jobs.len() as u64, ..Tally::default() };
    let (taken, stop) = (Taken::default(), AtomicBool::new(false));
    let heard: Vec<Vec<Event>> = std::thread::scope(|scope| {
        if shape.poll {
            let (crowd, stop, mut random) = (&crowd, &stop, Random(random.below(1 << 30) as u64));
            scope.spawn(move || poll(crowd, stop, &mut random));
        }
        let _stop = Stop(&stop);
        let share = jobs.len().div_ceil(HOSTS);
        let hosts: Vec<_> = jobs
            .chunks(share)
            .map(|jobs| {
                let random = Random(random.below(1 << 30) as u64);
                scope.spawn(|| host(&crowd, jobs, &taken, random))
            })
            .collect();
        let mut heard = Vec::new();
        for host in hosts {
            let (events, host) = host.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
            heard.extend(events);
            tally.add(host);
        }
        heard
    });
    crowd.check().unwrap_or_else(|e| panic!("{what}: {e}"));
    let stats = crowd.stats().unwrap();
    assert_eq!((stats.running, stats.waiting, stats.stalled, stats.pages_used), (0, 0, 0, 0), "{what}");
    (tally.preemptions, tally.prefix_hits) = (stats.preemptions, stats.prefix_tokens_hit);
    (tally.accepted, tally.refused) = (stats.accepted_tokens, stats.drafted_tokens - stats.accepted_tokens);
    assert_eq!((stats.finished + stats.cancelled, stats.failed), (tally.requests, 0), "{what}");
    drop(crowd);
    for ((storming, events), want) in jobs.iter().zip(&heard).zip(wanted) {
        let what = format!("{what}\n{storming:?}");
        let got = answer(events);
        let last = events.last().unwrap();
        tally.taken += u64::from(storming.way == Way::Engine);
        tally.polled += u64::from(shape.poll && storming.way == Way::Callback);
        tally.deferred += u64::from(storming.job.options.defer);
        if last.kind == EventKind::Finished {
            tally.finished += 1;
            assert!(got == want, "{what}\ngot {got:?}\nnot {want:?}");
            tally.embedded += u64::from(!got.embedding.is_empty());
            assert_eq!(got.embedding.is_empty(), !storming.job.options.embed, "{what}");
        } else {
            assert_eq!(last.kind, EventKind::Cancelled, "{what}: {:?}", last.error);
            let why = match storming.fate {
                Fate::Runs => FinishReason::None,
                Fate::Cancelled(_) => FinishReason::Cancel,
                Fate::Stopped(_) => FinishReason::Callback,
                Fate::Deadline => FinishReason::Deadline,
            };
            assert_eq!(last.finish, why, "{what}");
            tally.cut += 1;
            let usage = last.usage.unwrap();
            tally.cut_in_prefill += u64::from(usage.generated_tokens == 0 && usage.queue_us > 0);
            assert_begins(&got, &want, &what);
        }
    }
    tally
}
