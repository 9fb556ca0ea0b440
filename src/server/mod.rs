//! HTTP in front of engines: OpenAI's dialect, Anthropic's, and functions of text.
//!
//! Everything about HTTP is done by one thread, the server's, with an asynchronous runtime that has no threads of its own. Nothing
//! that may take long happens there:
//! - Prompts are rendered and encoded on a thread of the engine: submits are deferred.
//! - Events come from a thread for each engine ([`events`]).
//! - Constraints are compiled, and texts are encoded and rendered for their own sake, on a worker thread ([`worker`]).
//! - Long bodies become requests, and are submitted, on another worker thread ([`body`]).
//! - Models are opened on the loading thread ([`models`]).
//!
//! A request of any dialect becomes a [`core::Ask`]; its answer is a stream of the engine's events, whose parts each dialect writes
//! in its own way. A client that goes away drops that stream, and with it the requests, which cancels them.
//!
//! | file | what it is for |
//! |---|---|
//! | [`refusal`], [`metrics`] | why a request gets no answer; what is counted |
//! | [`worker`], [`events`], [`models`] | the threads, and the models |
//! | [`core`], [`answer`], [`stream`] | a request, its answer as a whole, its answer as a stream |
//! | [`state`], [`guard`], [`body`] | what all handlers have; who may ask; what they sent, and the requests that it makes |
//! | [`shape`], [`late_system`] | what several dialects do with messages |
//! | [`openai`], [`anthropic`], [`text`], [`health`] | what is answered |
//! | [`parsers`] | test hook: the parsers of bodies alone |
//! | [`window`] | a page that shows the engines at work |
//! | [`socket`], [`http`] | a connection whose client takes nothing; all connections, and their end |
//!
//! A host may use an engine that it shares with a server: the server's requests have a queue of events of their own.

mod answer;
mod anthropic;
mod body;
mod core;
mod events;
mod guard;
mod health;
mod http;
mod late_system;
mod metrics;
mod models;
mod openai;
mod parsers;
mod refusal;
mod shape;
mod socket;
mod state;
mod stream;
mod text;
mod window;
mod worker;

#[doc(hidden)]
pub use parsers::{Parsed, Parsers};
pub use window::{Pace, Recording, WindowOptions};

use crate::engine::{Engine, ProgressFn, Prompt, RequestOptions};
use crate::error::{Error, Result};
use crate::limits;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// An engine that others may use, too.
pub type EngineRef = Arc<dyn Deref<Target = Engine> + Send + Sync>;

/// Opens an engine; gets what it reports its progress to.
pub type OpenFn = Box<dyn FnOnce(ProgressFn) -> Result<EngineRef> + Send>;

/// Changes a request before it is submitted.
pub type PrepareFn = Arc<dyn Fn(&Engine, &Prompt, &mut RequestOptions) + Send + Sync>;

/// Holds events back while it does not return.
pub type GateFn = Arc<dyn Fn(&Engine) + Send + Sync>;

/// A model of a server.
pub struct ModelSpec {
    /// What requests call it, and answers.
    pub name: String,
    /// Other names by which requests may call it.
    pub aliases: Vec<String>,
    /// Opens it, on a thread of the server.
    pub open: OpenFn,
}

impl ModelSpec {
    /// A model that is open already.
    pub fn opened(name: impl Into<String>, engine: impl Deref<Target = Engine> + Send + Sync + 'static) -> ModelSpec {
        ModelSpec { name: name.into(), aliases: Vec::new(), open: Box::new(move |_| Ok(Arc::new(engine))) }
    }
}

/// The field in which OpenAI's dialect gives reasoning, for which there are two names. Both are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningField {
    /// `reasoning_content`.
    #[default]
    ReasoningContent,
    /// `reasoning`.
    Reasoning,
}

/// Limits that tests make small; by default those of [`crate::limits`]. Times are in milliseconds.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    pub connections: usize,
    pub head_ms: u64,
    pub body_ms: u64,
    pub write_ms: u64,
    pub bodies_bytes: usize,
    pub first_event_ms: u64,
    pub keep_alive_ms: u64,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            connections: limits::SERVER_CONNECTIONS_MAX,
            head_ms: limits::SERVER_HEAD_MS,
            body_ms: limits::SERVER_BODY_MS,
            write_ms: limits::SERVER_WRITE_MS,
            bodies_bytes: limits::SERVER_BODIES_BYTES_MAX,
            first_event_ms: limits::SERVER_FIRST_EVENT_MS,
            keep_alive_ms: limits::SERVER_KEEP_ALIVE_MS,
        }
    }
}

/// Options of [`Server::start`].
pub struct ServerOptions {
    /// The models, in the order in which they are loaded.
    pub models: Vec<ModelSpec>,
    /// The address to listen at; loopback by default.
    pub host: IpAddr,
    /// The port; 0 = one that is free.
    pub port: u16,
    /// Keys, one of which each request must have; none: all may ask.
    pub api_keys: Vec<String>,
    /// Names of hosts by which the server may be called, beside loopback's.
    pub allowed_hosts: Vec<String>,
    /// Where reasoning is given.
    pub reasoning_field: ReasoningField,
    /// Priority of all its requests in their engines; 0, as requests have that say nothing of it.
    pub priority: i32,
    /// What the page at `/` shows.
    pub window: WindowOptions,
    /// Test hook: sees every request before it is submitted.
    #[doc(hidden)]
    pub prepare: Option<PrepareFn>,
    /// Test hook: called before each event is taken from an engine.
    #[doc(hidden)]
    pub gate: Option<GateFn>,
    /// Test hook: other limits.
    #[doc(hidden)]
    pub limits: ServerLimits,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            models: Vec::new(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            api_keys: Vec::new(),
            allowed_hosts: Vec::new(),
            reasoning_field: ReasoningField::default(),
            priority: 0,
            window: WindowOptions::default(),
            prepare: None,
            gate: None,
            limits: ServerLimits::default(),
        }
    }
}

/// A running server. Dropping it stops it without a grace time.
///
/// What has to do with the runtime is done on threads of the library, so that none of the host's keeps anything of it that would
/// hold a library which is to be unloaded.
pub struct Server {
    address: SocketAddr,
    models: Arc<models::Models>,
    window: Arc<window::Window>,
    /// `None` once it has stopped.
    live: Option<Live>,
}

struct Live {
    /// The grace time, once it is to stop.
    stop: watch::Sender<Option<Duration>>,
    threads: Vec<JoinHandle>,
}

impl Server {
    /// Starts a server, which answers as soon as this returns: requests to models that are loading are refused until they are
    /// ready.
    ///
    /// # Errors
    /// `Argument` for the models and for keys that are empty; `Io` when it cannot listen at the address; `Memory`.
    pub fn start(options: ServerOptions) -> Result<Server> {
        thread::aside("http-start", || Server::start_here(options)).flatten()
    }

    fn start_here(options: ServerOptions) -> Result<Server> {
        if options.api_keys.iter().any(String::is_empty) {
            return Err(Error::argument("an API key is empty").about("api_keys"));
        }
        let asked = SocketAddr::new(options.host, options.port);
        let refused = |e| Error::io(format_args!("cannot listen at {asked}"), asked.to_string(), &e);
        let listener = TcpListener::bind(asked).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let window = window::Window::new(options.window);
        let (models, loading) = models::Models::start(options.models, options.gate, window.clone())?;
        let (stop, stopped) = watch::channel(None);
        // From here on a failure drops `server`, which ends the threads that already run.
        let mut server = Server { address, models: models.clone(), window: window.clone(), live: None };
        let live = server.live.insert(Live { stop, threads: vec![loading] });
        let (worker, working) = worker::Worker::start("http-work")?;
        live.threads.push(working);
        let (reader, reading) = worker::Worker::start("http-read")?;
        live.threads.push(reading);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let state = Arc::new(state::State {
            models,
            worker,
            reader,
            limits: options.limits,
            bodies_bytes: Default::default(),
            guard: guard::Guard::new(address, options.api_keys, options.allowed_hosts),
            metrics: Default::default(),
            window,
            reasoning: options.reasoning_field,
            priority: options.priority,
            prepare: options.prepare,
            started: now.as_secs(),
            answers: Default::default(),
        });
        let (told, tells) = mpsc::channel();
        let body = move || http::run(listener, state, stopped, |made| _ = told.send(made));
        live.threads.push(thread::spawn("http", ThreadOptions::default(), body)?);
        let gone = |_| Err(Error::internal("the server's thread panicked"));
        tells.recv().unwrap_or_else(gone)?;
        Ok(server)
    }

    /// Where it answers, such as `http://127.0.0.1:8080`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether all models have been opened, or have failed with the error.
    pub fn loaded(&self) -> Result<bool> {
        let mut loaded = true;
        for (_, state) in self.models.all(false) {
            match state {
                models::State::Ready(_) => {}
                models::State::Loading(..) => loaded = false,
                models::State::Failed(error) => return Err(error),
            }
        }
        Ok(loaded)
    }

    /// Waits until all models have been opened, or have failed with the error.
    pub fn wait_loaded(&self) -> Result<()> {
        self.models.wait();
        self.loaded().map(drop)
    }

    /// Stops listening, lets requests end for `grace`, cancels those that have not, and ends its threads. Blocks. Engines that only
    /// the server has are closed.
    pub fn stop(mut self, grace: Duration) {
        self.end(grace);
    }

    fn end(&mut self, grace: Duration) {
        let mut end = || {
            let Some(Live { stop, threads }) = self.live.take() else { return };
            self.models.begin_stop();
            self.window.close();
            stop.send_replace(Some(grace));
            // The server's thread first: with it the worker's line ends.
            threads.into_iter().rev().for_each(JoinHandle::join);
            self.window.join();
            self.models.stop();
        };
        // Without memory for a thread it is done here.
        if thread::aside("http-stop", &mut end).is_err() {
            end();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
