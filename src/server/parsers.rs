//! Test hook: what the server makes of bodies, without connections and without an engine's work.

use super::anthropic::request as anthropic;
use super::body::Fields;
use super::core::Ask;
use super::models::Model;
use super::openai::{chat, completions, embeddings, responses};
use super::refusal::Outcome;
use super::{guard, text};
use crate::engine::{Engine, Prompt};
use std::sync::Arc;

/// The parsers of all paths that take a body.
pub struct Parsers(Model);

/// A request that was understood.
pub struct Parsed {
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// Answers to each of them.
    pub choices: usize,
}

impl Parsers {
    /// The paths.
    pub const PATHS: [&str; 8] = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/tokenize",
        "/detokenize",
        "/apply-template",
    ];

    /// For a model. May block.
    ///
    /// # Errors
    /// As [`Engine::event_queue`].
    pub fn new(engine: Arc<Engine>) -> crate::error::Result<Parsers> {
        Ok(Parsers(Model::new("m".to_owned(), Arc::new(engine), Arc::default())?))
    }

    /// What a path makes of a body; else the status of the refusal and its text.
    ///
    /// # Errors
    /// The refusal.
    pub fn parse(&self, path: &str, body: &[u8]) -> Result<Parsed, (u16, String)> {
        let parsed = self.made(path, body);
        parsed.map_err(|refusal| (refusal.kind.status().as_u16(), guard::text(path, &refusal)))
    }

    fn made(&self, path: &str, body: &[u8]) -> Outcome<Parsed> {
        let (fields, model) = (&mut Fields::of(body)?, &self.0);
        let _: Option<String> = fields.take("model")?;
        let of = |ask: Ask| Parsed { prompts: ask.prompts, choices: ask.choices };
        let one = |prompt: Prompt| Parsed { prompts: vec![prompt], choices: 1 };
        Ok(match path {
            "/v1/chat/completions" => of(chat::asked(fields, model)?.ask),
            "/v1/completions" => of(completions::asked(fields, model)?.ask),
            "/v1/embeddings" => of(embeddings::asked(fields, model)?.ask),
            "/v1/responses" => of(responses::asked(fields, model)?.ask),
            "/v1/messages" => of(anthropic::ask(fields, model)?),
            "/tokenize" => one(text::asked_tokens(fields, model)?.0),
            "/apply-template" => one(text::asked_prompt(fields, model)?.0),
            _ => {
                text::asked_text(fields, model)?;
                one(Prompt::default())
            }
        })
    }
}
