//! A request of any dialect, and its way to the engine and back.

use super::ServerLimits;
use super::answer::Answer;
use super::events::Arrived;
use super::metrics::Metrics;
use super::models::Model;
use super::refusal::{Kind, Outcome, Refusal};
use super::state::State;
use crate::constrain;
use crate::engine::{
    Constraint, EventKind, Info, Prompt, PromptCounts, Request, RequestOptions, Settings, TextOptions, ToolChoice,
};
use crate::error::Error;
use crate::limits;
use serde_json::Value;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How much the model shall reason.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reasoning<'a> {
    /// Not at all.
    Off,
    /// As it likes.
    On,
    /// With an effort, by a word that its template may know.
    Effort(&'a str),
    /// With so many tokens at most.
    Tokens(u32),
}

/// What a client asks for.
pub(super) struct Ask {
    /// The prompts; each gets `choices` answers.
    pub prompts: Vec<Prompt>,
    pub choices: usize,
    /// Numbers; `settings`, `tag` and `defer` are set here.
    pub options: RequestOptions,
    pub stops: Vec<String>,
    pub bias: Vec<(u32, f32)>,
    pub tools: Option<Value>,
    pub tool_choice: ToolChoice,
    pub single_call: bool,
    /// What the answer may be.
    pub constraint: Option<(constrain::Kind, String)>,
}

impl Ask {
    /// A request with the server's defaults.
    pub fn new(prompts: Vec<Prompt>) -> Ask {
        let options = RequestOptions {
            temperature: Some(limits::SERVER_TEMPERATURE_DEFAULT),
            top_k: Some(limits::SERVER_TOP_K_DEFAULT),
            top_p: Some(limits::SERVER_TOP_P_DEFAULT),
            max_tokens: Some(limits::SERVER_TOKENS_DEFAULT),
            ..RequestOptions::default()
        };
        Ask {
            prompts,
            choices: 1,
            options,
            stops: Vec::new(),
            bias: Vec::new(),
            tools: None,
            tool_choice: ToolChoice::Auto,
            single_call: false,
            constraint: None,
        }
    }

    /// A request for embeddings.
    pub fn embeddings(prompts: Vec<Prompt>) -> Ask {
        Ask { options: RequestOptions { embed: true, ..RequestOptions::default() }, ..Ask::new(prompts) }
    }

    /// Says how much the model shall reason. Templates are told what most of them look for; variables that are there stay.
    pub fn reason(&mut self, how: Reasoning, info: &Info) {
        self.options.reasoning_tokens = match how {
            // Of a model that does not say how it reasons, nobody knows where that ends.
            _ if info.answer_format.is_none() => None,
            Reasoning::Off => Some(0),
            Reasoning::Tokens(most) => Some(most),
            Reasoning::On | Reasoning::Effort(_) => None,
        };
        let on = !matches!(how, Reasoning::Off);
        for prompt in &mut self.prompts {
            let mut tell = |name: &str, value: Value| _ = prompt.variables.entry(name).or_insert(value);
            tell("enable_thinking", Value::Bool(on));
            tell("thinking", Value::Bool(on));
            if let Reasoning::Effort(effort) = how {
                tell("reasoning_effort", Value::from(effort));
            }
        }
    }

    /// Submits it. The choices are numbered through: those of the first prompt come first. `long`: copying its prompts takes time.
    pub async fn start(mut self, server: &Arc<State>, model: &Arc<Model>, long: bool) -> Outcome<Running> {
        let constraint = match self.constraint.take() {
            None => None,
            Some((kind, text)) => {
                let model = model.clone();
                Some(server.worker.run(move || model.constraint(kind, &text)).await?)
            }
        };
        if !long {
            return self.submit(server, model, constraint);
        }
        let (all, model) = (server.clone(), model.clone());
        server.reader.run(move || self.submit(&all, &model, constraint)).await
    }

    /// The tokens that its first prompt has.
    pub async fn count(mut self, server: &State, model: Arc<Model>) -> Outcome<usize> {
        let mut prompt = self.prompts.drain(..).next().unwrap_or_default();
        prompt.tools = self.tools;
        let count = move || Ok::<_, Error>(model.engine.tokenize(&prompt, TextOptions::default())?.len());
        server.worker.run(count).await
    }

    fn submit(self, server: &State, model: &Model, constraint: Option<Constraint>) -> Outcome<Running> {
        let settings = Arc::new(Settings {
            stops: self.stops,
            bias: self.bias,
            constraint,
            tools: self.tools.map(Arc::new),
            tool_choice: self.tool_choice,
            single_call: self.single_call,
            ..Settings::default()
        });
        let (to, from) = unbounded_channel();
        let mut requests = Vec::new();
        for prompt in &self.prompts {
            for choice in 0..self.choices {
                let tag = model.routes.open(to.clone(), requests.len());
                let mut options = RequestOptions {
                    tag,
                    defer: true,
                    priority: server.priority,
                    // The same seed would give the same answer.
                    seed: self.options.seed.map(|seed| seed.wrapping_add(choice as u64)),
                    settings: Some(settings.clone()),
                    ..self.options.clone()
                };
                if let Some(prepare) = &server.prepare {
                    prepare(&model.engine, prompt, &mut options);
                }
                let submitted = model.queue.submit(&model.engine, prompt, &options);
                model.routes.submitted(tag, submitted.is_ok());
                requests.push(submitted?);
            }
        }
        let (metrics, limits, model) = (server.metrics.clone(), server.limits, model.name.clone());
        Ok(Running { left: requests.len(), requests, from, first: None, metrics, limits, model })
    }
}

/// A request in work. Dropping it cancels what has not ended.
pub(super) struct Running {
    requests: Vec<Request>,
    from: UnboundedReceiver<Arrived>,
    /// Was waited for and not taken.
    first: Option<Arrived>,
    /// Choices that have not ended.
    left: usize,
    /// Where ends are counted, and the name of the model.
    metrics: Arc<Metrics>,
    pub limits: ServerLimits,
    model: String,
}

impl Running {
    /// The engine's number of the first of its requests.
    pub fn id(&self) -> u64 {
        self.requests.first().map_or(0, Request::id)
    }

    /// The next event of any choice; none after the terminal ones of all.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome<Arrived>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Some(arrived) = ready!(self.from.poll_recv(cx)) else {
            self.left = 0;
            let message = "the engine was closed before the answer ended";
            return Poll::Ready(Some(Err(Refusal::new(Kind::Unavailable, message))));
        };
        Poll::Ready(Some(self.taken(arrived)))
    }

    fn taken(&mut self, arrived: Arrived) -> Outcome<Arrived> {
        if arrived.1.terminal() {
            self.left -= 1;
            self.metrics.ended(&self.model, &arrived.1);
        }
        match (arrived.1.kind, &arrived.1.error) {
            (EventKind::Failed, Some(error)) => Err(error.into()),
            (EventKind::Cancelled, _) => {
                let message = "the request was ended, because the engine or the server is being closed";
                Err(Refusal::new(Kind::Unavailable, message))
            }
            _ => Ok(arrived),
        }
    }

    async fn next(&mut self) -> Option<Outcome<Arrived>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Tokens of the first prompt, and those of them that the cache had, once they are known.
    pub fn counts(&self) -> Option<PromptCounts> {
        self.requests.first()?.prompt_counts()
    }

    /// Waits a while for the first event, so that an error of the prompt is known before the head of an answer is sent.
    pub async fn begun(mut self) -> Outcome<Running> {
        let at_most = Duration::from_millis(self.limits.first_event_ms);
        match tokio::time::timeout(at_most, self.next()).await {
            Err(_) | Ok(None) => Ok(self),
            Ok(Some(Err(refusal))) => Err(refusal),
            Ok(Some(Ok(first))) => {
                self.first = Some(first);
                Ok(self)
            }
        }
    }

    /// Waits for all answers.
    pub async fn answers(mut self) -> Outcome<Vec<Answer>> {
        let mut answers: Vec<Answer> = Vec::new();
        answers.resize_with(self.left, Answer::default);
        while let Some(arrived) = self.next().await {
            let (choice, event) = arrived?;
            if let Some(answer) = answers.get_mut(choice) {
                answer.add(&event);
            }
        }
        Ok(answers)
    }
}
