//! The models of a server, by name: each loads on the loading thread, is ready, or has failed.

use super::events::{self, Routes};
use super::late_system;
use super::refusal::{Kind, Outcome, Refusal};
use super::window::Window;
use super::{EngineRef, GateFn, ModelSpec};
use crate::constrain;
use crate::engine::{Constraint, EventQueue};
use crate::error::{Error, Result};
use crate::limits;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A model that is ready.
pub(super) struct Model {
    pub name: String,
    pub engine: EngineRef,
    /// Where the events of its requests go.
    pub queue: EventQueue,
    pub routes: Arc<Routes>,
    /// Whether the chat template takes system messages within a chat.
    pub late_system: bool,
    /// Those that were used last in front.
    constraints: Mutex<VecDeque<Kept>>,
}

struct Kept {
    kind: constrain::Kind,
    text: String,
    constraint: Constraint,
}

impl Model {
    /// A model that is ready. May block: the chat template is tried.
    ///
    /// # Errors
    /// `Closed`; `Memory`.
    pub fn new(name: String, engine: EngineRef, routes: Arc<Routes>) -> Result<Model> {
        let (queue, late_system) = (engine.event_queue()?, late_system::is_taken(&engine));
        Ok(Model { name, engine, queue, routes, late_system, constraints: Mutex::default() })
    }

    /// The constraint of this text, compiled if it was not used lately. May block: for the worker thread.
    ///
    /// # Errors
    /// As [`crate::engine::Engine::compile_constraint`].
    pub fn constraint(&self, kind: constrain::Kind, text: &str) -> Result<Constraint> {
        let known = |kept: &Kept| kept.kind == kind && kept.text == text;
        let found = {
            let mut all = lock(&self.constraints);
            all.iter().position(known).and_then(|at| all.remove(at))
        };
        let kept = match found {
            Some(kept) => kept,
            None => Kept { kind, text: text.to_owned(), constraint: self.engine.compile_constraint(kind, text)? },
        };
        let constraint = kept.constraint.clone();
        let mut all = lock(&self.constraints);
        all.push_front(kept);
        all.truncate(limits::SERVER_CONSTRAINTS_KEPT);
        Ok(constraint)
    }
}

/// How far a model is.
#[derive(Clone)]
pub(super) enum State {
    /// Bytes that are done, and all; 0 of 0 before it begins.
    Loading(u64, u64),
    /// Requests are answered.
    Ready(Arc<Model>),
    /// It cannot be opened, with the reason.
    Failed(Error),
}

/// A model's place.
struct Slot {
    /// The name first, then the others that it answers by.
    names: Vec<String>,
    state: State,
}

/// All models of a server.
pub(super) struct Models {
    slots: Mutex<Vec<Slot>>,
    /// Signalled when a model is ready, or has failed.
    loaded: Condvar,
    /// Threads that take events, of models that are ready.
    readers: Mutex<Vec<JoinHandle>>,
    stopping: AtomicBool,
}

impl Models {
    /// The models of `specs`, in their order, and the thread that loads them one after the other.
    ///
    /// # Errors
    /// `Argument` for no model, too many, and names that are empty or there twice; `Memory`.
    pub fn start(
        specs: Vec<ModelSpec>,
        gate: Option<GateFn>,
        window: Arc<Window>,
    ) -> Result<(Arc<Models>, JoinHandle)> {
        if specs.is_empty() || specs.len() > limits::SERVER_MODELS_MAX {
            let message = format!("{} models are given; a server has 1 to {}", specs.len(), limits::SERVER_MODELS_MAX);
            return Err(Error::argument(message).about("models"));
        }
        let names = |spec: &ModelSpec| [std::slice::from_ref(&spec.name), &spec.aliases].concat();
        let slot = |spec: &ModelSpec| Slot { names: names(spec), state: State::Loading(0, 0) };
        let slots: Vec<Slot> = specs.iter().map(slot).collect();
        let all: Vec<&String> = slots.iter().flat_map(|slot| &slot.names).collect();
        for (at, name) in all.iter().enumerate() {
            if name.is_empty() || all.iter().take(at).any(|other| other == name) {
                let message = format!("a model is named {name:?}; names are not empty, and each is there once");
                return Err(Error::argument(message).about("models"));
            }
        }
        let models = Models {
            slots: Mutex::new(slots),
            loaded: Condvar::new(),
            readers: Mutex::default(),
            stopping: AtomicBool::new(false),
        };
        let models = Arc::new(models);
        let all = models.clone();
        let load = move || {
            specs.into_iter().enumerate().for_each(|(index, spec)| all.load(index, spec, gate.clone(), &window))
        };
        let thread = thread::spawn("http-load", ThreadOptions::default(), load)?;
        Ok((models, thread))
    }

    fn load(self: &Arc<Self>, index: usize, spec: ModelSpec, gate: Option<GateFn>, window: &Window) {
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        let models = self.clone();
        let progress = Box::new(move |done, total| {
            models.set(index, State::Loading(done, total));
            !models.stopping.load(Ordering::Relaxed)
        });
        let (name, open) = (spec.name, spec.open);
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let engine = open(progress)?;
            let routes = Arc::<Routes>::default();
            let model = Model::new(name, engine.clone(), routes.clone())?;
            window.ready(&model)?;
            let reader = events::start(engine, model.queue.clone(), routes, gate)?;
            lock(&self.readers).push(reader);
            Ok(Arc::new(model))
        }));
        let made = made.unwrap_or_else(|_| Err(Error::internal("what opens the model panicked")));
        self.set(index, made.map_or_else(State::Failed, State::Ready));
    }

    fn set(&self, index: usize, state: State) {
        if let Some(slot) = lock(&self.slots).get_mut(index) {
            slot.state = state;
        }
        self.loaded.notify_all();
    }

    /// Names and states, in order; with `aliases` a model is there by each of its names.
    pub fn all(&self, aliases: bool) -> Vec<(String, State)> {
        let named = |slot: &Slot| -> Vec<(String, State)> {
            let names = slot.names.iter().take(if aliases { usize::MAX } else { 1 });
            names.map(|name| (name.clone(), slot.state.clone())).collect()
        };
        lock(&self.slots).iter().flat_map(named).collect()
    }

    /// Waits until none is loading.
    pub fn wait(&self) {
        let mut slots = lock(&self.slots);
        while slots.iter().any(|slot| matches!(slot.state, State::Loading(..))) {
            slots = self.loaded.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Those that are ready.
    pub fn ready(&self) -> Vec<Arc<Model>> {
        let ready = |slot: &Slot| if let State::Ready(model) = &slot.state { Some(model.clone()) } else { None };
        lock(&self.slots).iter().filter_map(ready).collect()
    }

    /// The model that a request names; without a name that of a server that has one.
    pub fn find(&self, name: Option<&str>) -> Outcome<Arc<Model>> {
        let slots = lock(&self.slots);
        let only = || if slots.len() == 1 { slots.first() } else { None };
        let found = match name.filter(|name| !name.is_empty()) {
            Some(name) => slots.iter().find(|slot| slot.names.iter().any(|known| known == name)),
            None => only(),
        };
        let Some(slot) = found else {
            let names: Vec<&str> = slots.iter().flat_map(|slot| &slot.names).map(String::as_str).collect();
            let asked = name.map_or("no model is named".to_owned(), |name| format!("there is no model {name:?}"));
            let message = format!("{asked}; there is {}", names.join(", "));
            let refusal = Refusal { param: Some("model".to_owned()), ..Refusal::new(Kind::NotFound, message) };
            return Err(refusal.coded("model_not_found"));
        };
        let name = slot.names.first().map(String::as_str).unwrap_or_default();
        match &slot.state {
            State::Ready(model) => Ok(model.clone()),
            State::Loading(done, total) => {
                let message = format!("the model {name:?} is loading: {done} of {total} bytes; try again");
                Err(Refusal::new(Kind::Unavailable, message).coded("model_loading"))
            }
            State::Failed(error) => {
                let message = format!("the model {name:?} cannot be opened: {}", error.message);
                Err(Refusal::new(Kind::Unavailable, message).coded("model_failed"))
            }
        }
    }

    /// Loading is given up at its next progress.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits for the threads that take events, when no request is left. After the loading thread.
    pub fn stop(&self) {
        self.ready().iter().for_each(|model| model.routes.stop());
        let readers = std::mem::take(&mut *lock(&self.readers));
        readers.into_iter().for_each(JoinHandle::join);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
