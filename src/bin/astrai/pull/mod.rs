//! `astrai pull`, and what `--model hf://owner/name` means for every command: models of a hub, in the cache that other programs
//! share. The library itself opens no connection; all of it is here.
//!
//! | File | What it is for |
//! |---|---|
//! | `reference` | `hf://owner/name[@revision][:quant]`, and which names are safe |
//! | `environment` | HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE and their like |
//! | `http`, `hub` | requests and redirects; what the hub says of a repository |
//! | `cache` | the layout of the cache |
//! | `quant`, `choose`, `fit` | which files are the model, and whether it fits into memory |
//! | `download`, `transfer` | one file, and several at once |
//! | `progress` | the bar, or JSON lines |

mod cache;
mod choose;
mod download;
mod environment;
mod fit;
pub mod http;
mod hub;
mod progress;
mod quant;
mod reference;
mod transfer;

use crate::failure::{Failure, Outcome, note};
use crate::interrupt::Interrupt;
use cache::RepositoryCache;
use choose::Choice;
use clap::Args;
use download::Wanted;
use environment::Environment;
use fit::Headers;
use http::Client;
use hub::{Hub, RemoteFile, Repository};
use progress::Report;
use reference::Reference;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Threads that download when `--jobs` does not say otherwise, and at most.
const JOBS_DEFAULT: u16 = 4;
const JOBS_MAX: i64 = 64;
/// Weights with fewer bytes are fetched without asking whether they fit.
const ASKED_BYTES: u64 = 64 << 20;

/// Arguments of `astrai pull`.
#[derive(Args)]
#[command(after_help = "\
Prints the path of the model, which --model takes as well as the hf:// name itself.

With --json every line on stdout is an object with an \"event\":
  {\"event\":\"model\",\"repository\":…,\"revision\":…,\"commit\":…,\"licence\":…,\"gated\":…,\"page\":…}
  {\"event\":\"choice\",\"name\":…,\"reason\":…}          what is taken of several, and why
  {\"event\":\"file\",\"name\":…,\"bytes\":…,\"total\":…}   bytes that are there; falls back when a file begins anew
  {\"event\":\"note\",\"message\":…}                     such as a connection that was lost and is tried again
  {\"event\":\"done\",\"path\":…} or {\"event\":\"error\",\"message\":…}, the last one

The environment is that of huggingface_hub: HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE.")]
pub struct PullArgs {
    /// The model: hf://owner/name[@revision][:quant], as in hf://Qwen/Qwen3-0.6B-GGUF:Q8_0
    #[arg(value_name = "MODEL")]
    model: String,
    /// Files downloaded at once
    #[arg(long, value_name = "N", default_value_t = JOBS_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX))]
    jobs: u16,
    /// Progress and result as JSON lines on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn pull(args: PullArgs) -> Outcome {
    let reference = Reference::parse(&args.model)?;
    let interrupt = Interrupt::install()?;
    let mut report = Report::new(args.json);
    let path = Environment::read().and_then(|environment| match environment.offline {
        true => offline(&environment, &reference),
        false => online(&environment, &reference, args.jobs.into(), &mut report, Some(&interrupt)),
    });
    match path {
        Ok(path) => report.done(&path.display().to_string()),
        Err(failure) => {
            if let Failure::Message(message) = &failure {
                report.failed(message);
            }
            Err(failure)
        }
    }
}

/// The path that a model given on the command line has: a path as it is; an `hf://` name in the cache, into which it is
/// downloaded if it is not there.
pub fn model(given: &Path, interrupt: Option<&Interrupt>) -> Outcome<PathBuf> {
    if !is_reference(given) {
        return Ok(given.to_owned());
    }
    let reference = Reference::parse(&given.to_string_lossy())?;
    let environment = Environment::read()?;
    if environment.offline {
        return offline(&environment, &reference);
    }
    let cache = RepositoryCache::new(&environment.cache, &reference.repository);
    if let Some(path) = cached(&cache, &reference, true) {
        return Ok(path);
    }
    match online(&environment, &reference, JOBS_DEFAULT.into(), &mut Report::new(false), interrupt) {
        // What is there may be enough, as for a model without a tokenizer.
        Err(Failure::Message(message)) => match cached(&cache, &reference, false) {
            Some(path) => {
                note(&format!("{message}; what the cache has is taken"));
                Ok(path)
            }
            None => Err(Failure::Message(message)),
        },
        outcome => outcome,
    }
}

/// Whether a word is meant as an `hf://` name.
pub fn is_reference(word: &Path) -> bool {
    Reference::is_meant(word)
}

/// What the cache has.
fn offline(environment: &Environment, reference: &Reference) -> Outcome<PathBuf> {
    let cache = RepositoryCache::new(&environment.cache, &reference.repository);
    cached(&cache, reference, false).ok_or_else(|| {
        Failure::Message(format!(
            "{reference} is not in the cache, or not whole ({}), and HF_HUB_OFFLINE forbids to download it",
            cache.root().display()
        ))
    })
}

/// The model in the cache, if it is there. `strict` asks for a tokenizer too, which could be downloaded.
fn cached(cache: &RepositoryCache, reference: &Reference, strict: bool) -> Option<PathBuf> {
    let commit = cache.commit(&reference.revision)?;
    let files = cache.files(&commit).into_iter();
    let files: Vec<_> = files.map(|file| RemoteFile { name: file.name, bytes: Some(file.bytes), hash: None }).collect();
    let snapshot = cache.snapshot(&commit);
    let choice = choose::in_cache(&files, reference.quant.as_deref(), &snapshot.join(choose::INDEX), strict)?;
    Some(path_of(&choice, snapshot))
}

/// Where a choice lies in its snapshot.
fn path_of(choice: &Choice, snapshot: PathBuf) -> PathBuf {
    match choice {
        Choice::Folder(_) => snapshot,
        Choice::File(variant, _) => variant.files.first().map_or(snapshot.clone(), |file| snapshot.join(&file.name)),
    }
}

/// Asks the hub, and downloads what the cache lacks.
fn online(
    environment: &Environment,
    reference: &Reference,
    jobs: usize,
    report: &mut Report,
    interrupt: Option<&Interrupt>,
) -> Outcome<PathBuf> {
    let client = Client::new(&environment.endpoint, environment.token.clone()).map_err(Failure::Message)?;
    let hub = Arc::new(Hub::new(client, &environment.endpoint, reference));
    let repository = waiting(interrupt, || hub.repository(&mut |line| report.note(line))).map_err(Failure::Message)?;
    let Repository { commit, licence, gated, .. } = &repository;
    report.model(&reference.repository, &reference.revision, commit, licence.as_deref(), *gated, &hub.page());
    let cache = Arc::new(RepositoryCache::new(&environment.cache, &reference.repository));
    let mut pull = Pull { hub, cache, repository, jobs, report, interrupt };
    let choice = pull.choose(reference)?;
    match &choice {
        Choice::Folder(reason) => {
            let mut files = choose::text_files(&pull.repository.files);
            files.extend(pull.folder_weights()?);
            if let Some(reason) = reason {
                pull.report.choice("safetensors", reason);
            }
            pull.fetch(&files)?;
        }
        Choice::File(variant, reason) => {
            pull.report.choice(&variant.label, reason);
            pull.fetch(&variant.files)?;
        }
    }
    pull.cache.set_commit(&reference.revision, &pull.repository.commit).map_err(Failure::Message)?;
    Ok(path_of(&choice, pull.cache.snapshot(&pull.repository.commit)))
}

/// Asks a server on this thread: Ctrl-C ends the process meanwhile.
fn waiting<T>(interrupt: Option<&Interrupt>, ask: impl FnOnce() -> T) -> T {
    match interrupt {
        Some(interrupt) => interrupt.idle(ask),
        None => ask(),
    }
}

/// One repository on its way into the cache.
struct Pull<'a> {
    hub: Arc<Hub>,
    cache: Arc<RepositoryCache>,
    repository: Repository,
    jobs: usize,
    report: &'a mut Report,
    interrupt: Option<&'a Interrupt>,
}

impl Pull<'_> {
    /// What of the repository is wanted.
    fn choose(&mut self, reference: &Reference) -> Outcome<Choice> {
        let variants = quant::variants(&self.repository.files);
        let (name, folder) = (&reference.repository, choose::is_folder(&self.repository.files));
        let Some(quant) = &reference.quant else {
            if !folder && variants.is_empty() {
                return Err(Failure::Message(format!(
                    "{name} has no model that is read here: neither config.json with safetensors nor .gguf files"
                )));
            }
            return self.choose_fitting(reference, &variants, folder);
        };
        let variant = match variants[..] {
            [] if folder => Err(format!(
                "{name} has no .gguf files to choose from; leave :{quant} away, and use --weights q8, q5 or q4 with its safetensors"
            )),
            _ => quant::named(&variants, quant).map_err(|what| format!("{name}: {what}")),
        };
        Ok(Choice::File(variant.map_err(Failure::Message)?.clone(), "as asked".to_owned()))
    }

    fn choose_fitting(&mut self, reference: &Reference, variants: &[quant::Variant], folder: bool) -> Outcome<Choice> {
        let weights = if folder { self.folder_weights()? } else { Vec::new() };
        let bytes = weights.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes.unwrap_or(0)));
        let there = weights.iter().all(|file| self.is_there(file));
        // Nothing is to be asked where there is no choice and little to lose.
        if folder && variants.is_empty() && (bytes < ASKED_BYTES || there) {
            return Ok(Choice::Folder(None));
        }
        let snapshot = self.cache.snapshot(&self.repository.commit);
        let small: Vec<PathBuf> = [choose::CONFIG, choose::INDEX]
            .iter()
            .map(|name| snapshot.join(name))
            .filter(|path| path.exists())
            .collect();
        let hub = self.hub.clone();
        let headers = Headers { hub: &hub, commit: &self.repository.commit };
        let folder = folder.then_some(choose::Folder { weights: &weights, small: &small });
        let report = &mut *self.report;
        let mut told = |line: &str| report.note(line);
        let choose = || choose::choose(&headers, variants, folder, &reference.to_string(), &mut told);
        waiting(self.interrupt, choose).map_err(Failure::Message)
    }

    /// The weights of the folder of safetensors. Its config and index, which say what they are, are fetched for that.
    fn folder_weights(&mut self) -> Outcome<Vec<RemoteFile>> {
        let described = |file: &&RemoteFile| [choose::CONFIG, choose::INDEX].contains(&&*file.name);
        let small: Vec<RemoteFile> = self.repository.files.iter().filter(described).cloned().collect();
        self.fetch(&small)?;
        let index = self.cache.snapshot(&self.repository.commit).join(choose::INDEX);
        let index = small.iter().any(|file| file.name == choose::INDEX).then_some(index);
        choose::weights(&self.repository.files, index.as_deref()).map_err(Failure::Message)
    }

    fn is_there(&self, file: &RemoteFile) -> bool {
        file.bytes.is_some_and(|bytes| self.cache.has(&self.repository.commit, &file.name, bytes))
    }

    /// Has the files in the cache, under their names.
    fn fetch(&mut self, files: &[RemoteFile]) -> Outcome {
        let mut wanted = Vec::new();
        for file in files {
            if self.is_there(file) {
                continue;
            }
            let report = &mut *self.report;
            let complete = || self.hub.complete(&self.repository.commit, file, &mut |line| report.note(line));
            let complete = waiting(self.interrupt, complete);
            let (bytes, hash) = complete.map_err(Failure::Message)?;
            if !self.cache.has(&self.repository.commit, &file.name, bytes) {
                wanted.push(Wanted { name: file.name.clone(), bytes, hash });
            }
        }
        let commit = &self.repository.commit;
        transfer::transfer(&self.hub, &self.cache, commit, wanted.clone(), self.jobs, self.report, self.interrupt)?;
        for file in &wanted {
            self.cache.link(commit, &file.name, &file.hash).map_err(Failure::Message)?;
        }
        Ok(())
    }
}
