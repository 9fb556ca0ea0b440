//! What chat completions and completions share: how a request is answered, the object around its choices, and the stream.

use super::errors;
use super::options::Sending;
use super::types::UsageObject;
use crate::engine::{Event, PromptCounts};
use crate::limits;
use crate::server::answer::Answer;
use crate::server::body::{self, Fields, Read};
use crate::server::core::Ask;
use crate::server::models::Model;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::state::State as Server;
use crate::server::stream::{self, Out, Writer, push};
use axum::extract::Request;
use axum::response::{Response, sse};
use serde::Serialize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a request asks for.
pub(in crate::server) struct Asked {
    pub ask: Ask,
    pub sending: Sending,
}

/// How the choices of an answer are written.
pub(super) trait Choices: Send + Unpin + 'static {
    /// Begins the ids of answers.
    const ID: &str;
    /// Names of a whole answer's object and of one of a stream's.
    const OBJECTS: [&str; 2];
    type Choice: Serialize;

    /// For `count` choices of an answer of this model.
    fn new(server: &Server, model: &Model, count: usize) -> Self;

    /// The choice of this index as a whole.
    fn whole(&self, index: usize, answer: Answer) -> Self::Choice;

    /// What the stream says of a choice before its first event.
    fn begin(&mut self, index: usize) -> Option<Self::Choice>;

    /// What the stream says of an event, one after the other.
    fn event(&mut self, index: usize, event: &Event) -> Vec<Self::Choice>;
}

/// What the objects of an answer begin with.
struct Head {
    id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
}

#[derive(Serialize)]
struct Object<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageObject>,
}

impl Head {
    fn object<C>(&self, object: &'static str, choices: Vec<C>, usage: Option<UsageObject>) -> Object<'_, C> {
        let Head { id, created, model } = self;
        Object { id, object, created: *created, model, choices, usage }
    }
}

/// Answers a request, which `asked` reads.
pub(super) async fn answer<C: Choices>(
    server: &Arc<Server>,
    request: Request,
    asked: fn(&mut Fields, &Model) -> Outcome<Asked>,
) -> Outcome<Response> {
    let Read { model, value: Asked { ask, sending }, long } = body::read(server, request, asked).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let head = Head { id: server.id(C::ID), created: now.as_secs(), model: model.name.clone() };
    let (each, count) = (ask.choices, ask.choices * ask.prompts.len());
    let choices = C::new(server, &model, count);
    let running = ask.start(server, &model, long).await?;
    if sending.stream {
        let (running, usage) = (running.begun().await?, UsageObject::default());
        let include_usage = sending.include_usage;
        return Ok(stream::response(running, CompletionStream { head, choices, each, count, usage, include_usage }));
    }
    let answers = running.answers().await?;
    let long = answers.iter().map(|answer| answer.tokens.len()).sum::<usize>() > limits::SERVER_SHORT_ANSWER_TOKENS;
    let written = move || {
        let mut usage = UsageObject::default();
        let whole = |(index, answer): (usize, Answer)| {
            usage.add(index, each, &answer.usage);
            choices.whole(index, answer)
        };
        let all = answers.into_iter().enumerate().map(whole).collect();
        Ok::<_, Refusal>(body::written(&head.object(C::OBJECTS[0], all, Some(usage))))
    };
    Ok(body::response(if long { server.reader.run(written).await? } else { written()? }))
}

/// Writes the stream.
struct CompletionStream<C> {
    head: Head,
    choices: C,
    /// Choices of each prompt, and of all.
    each: usize,
    count: usize,
    usage: UsageObject,
    include_usage: bool,
}

impl<C: Choices> CompletionStream<C> {
    fn push(&self, choice: C::Choice, out: &mut Out) {
        push(out, &self.head.object(C::OBJECTS[1], vec![choice], None));
    }
}

impl<C: Choices> Writer for CompletionStream<C> {
    fn begin(&mut self, _: Option<PromptCounts>, out: &mut Out) {
        for index in 0..self.count {
            if let Some(choice) = self.choices.begin(index) {
                self.push(choice, out);
            }
        }
    }

    fn event(&mut self, index: usize, event: &Event, out: &mut Out) {
        for choice in self.choices.event(index, event) {
            self.push(choice, out);
        }
        if event.terminal() {
            self.usage.add(index, self.each, &event.usage.unwrap_or_default());
        }
    }

    fn failed(&mut self, refusal: &Refusal, out: &mut Out) {
        push(out, &errors::body(refusal));
    }

    fn end(&mut self, out: &mut Out) {
        if self.include_usage {
            push(out, &self.head.object::<C::Choice>(C::OBJECTS[1], Vec::new(), Some(self.usage)));
        }
        out.push_back(sse::Event::default().data("[DONE]"));
    }
}
