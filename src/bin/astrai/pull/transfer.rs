//! Several files at once. The calling thread tells the progress and looks for Ctrl-C; it does not wait for threads that hang in
//! a read when the program ends: what arrived is in the files, and the next attempt goes on from there.

use super::cache::RepositoryCache;
use super::download::{Told, Wanted, download};
use super::hub::Hub;
use super::progress::Report;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use indicatif::BinaryBytes;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How soon Ctrl-C is noticed.
const LOOK: Duration = Duration::from_millis(50);

/// What a thread tells.
enum Message {
    Told(usize, Told),
    Finished,
    Failed(String),
}

/// The threads' share of it.
struct Work {
    hub: Arc<Hub>,
    cache: Arc<RepositoryCache>,
    commit: String,
    files: Vec<Wanted>,
    next: AtomicUsize,
    stop: AtomicBool,
}

/// Downloads what is not there, with up to `jobs` threads.
pub fn transfer(
    hub: &Arc<Hub>,
    cache: &Arc<RepositoryCache>,
    commit: &str,
    mut files: Vec<Wanted>,
    jobs: usize,
    report: &mut Report,
    interrupt: Option<&Interrupt>,
) -> Outcome {
    // Files of the same content are one blob.
    let mut seen = std::collections::BTreeSet::new();
    files.retain(|file| !cache.has_blob(&file.hash, file.bytes) && seen.insert(file.hash.clone()));
    if files.is_empty() {
        return Ok(());
    }
    check_space(cache, &files)?;
    report.begin(&files.iter().map(|file| (&*file.name, file.bytes)).collect::<Vec<_>>());
    let (threads, mut left) = (jobs.min(files.len()), files.len());
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (hub, cache, commit) = (hub.clone(), cache.clone(), commit.to_owned());
    let work = Arc::new(Work { hub, cache, commit, files, next, stop });
    let (sender, messages) = channel();
    for _ in 0..threads {
        let (work, sender) = (work.clone(), sender.clone());
        std::thread::spawn(move || work.run(&sender));
    }
    drop(sender);
    let outcome = loop {
        if left == 0 {
            break Ok(());
        }
        if interrupt.is_some_and(Interrupt::raised) {
            break Err(Failure::Interrupted);
        }
        if let Err(failure) = report.check() {
            break Err(failure);
        }
        match messages.recv_timeout(LOOK) {
            Ok(Message::Told(index, Told::Bytes(bytes))) => report.bytes(index, bytes),
            Ok(Message::Told(_, Told::Note(text))) => report.note(&text),
            Ok(Message::Finished) => left -= 1,
            Ok(Message::Failed(message)) => break Err(Failure::Message(message)),
            Err(RecvTimeoutError::Timeout) => report.idle(),
            Err(RecvTimeoutError::Disconnected) => break Err(Failure::message("a thread that downloads ended early")),
        }
    };
    work.stop.store(true, Ordering::Relaxed);
    report.end();
    if matches!(outcome, Err(Failure::Interrupted)) {
        report.note("interrupted; what has arrived is kept, and the same command goes on from there");
    }
    outcome
}

impl Work {
    fn run(&self, sender: &Sender<Message>) {
        while let Some((index, file)) = self.take() {
            // Nobody listens any more when the program ends.
            let mut told = |told| drop(sender.send(Message::Told(index, told)));
            let outcome = download(&self.hub, &self.cache, &self.commit, file, &self.stop, &mut told);
            let failed = outcome.is_err();
            let _ = sender.send(outcome.map_or_else(Message::Failed, |()| Message::Finished));
            if failed {
                return;
            }
        }
    }

    fn take(&self) -> Option<(usize, &Wanted)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let more = !self.stop.load(Ordering::Relaxed);
        self.files.get(index).filter(|_| more).map(|file| (index, file))
    }
}

/// Whether the disk has room for what is missing.
fn check_space(cache: &RepositoryCache, files: &[Wanted]) -> Outcome {
    let there = |file: &Wanted| fs::metadata(cache.incomplete(&file.hash)).map_or(0, |meta| meta.len().min(file.bytes));
    let needed = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes - there(file)));
    match cache.free_bytes() {
        Some(free) if free < needed => Err(Failure::Message(format!(
            "the download needs {}, and {} are free on the disk of {}; make room, or name another folder in HF_HUB_CACHE",
            BinaryBytes(needed),
            BinaryBytes(free),
            cache.root().display()
        ))),
        _ => Ok(()),
    }
}
