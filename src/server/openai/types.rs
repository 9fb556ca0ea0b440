//! What several answers of OpenAI's dialect have.

use crate::engine::{Engine, FinishReason, Usage};
use crate::server::answer::Token;
use serde::Serialize;

/// The lowest log probability that is written: JSON has no infinity.
const LOGPROB_MIN: f32 = -9999.0;

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct UsageObject {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

impl UsageObject {
    /// Adds the counts of choice `index`, of `choices` for each prompt: the prompt counts once.
    pub fn add(&mut self, index: usize, choices: usize, usage: &Usage) {
        if index.is_multiple_of(choices) {
            self.prompt_tokens += u64::from(usage.prompt_tokens);
            self.prompt_tokens_details.cached_tokens += u64::from(usage.cached_tokens);
        }
        self.completion_tokens += u64::from(usage.generated_tokens);
        self.completion_tokens_details.reasoning_tokens += u64::from(usage.reasoning_tokens);
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// Why an answer ended. `calls`: it has calls.
pub(super) fn finish_reason(finish: FinishReason, calls: bool) -> &'static str {
    match finish {
        FinishReason::Length => "length",
        _ if calls => "tool_calls",
        _ => "stop",
    }
}

/// The log probabilities of the tokens of a chat's answer.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

#[derive(Debug, Serialize)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl TokenLogprob {
    fn of(engine: &Engine, id: u32, logprob: f32) -> TokenLogprob {
        // A tokenizer that has no bytes for single tokens gives none.
        let bytes = engine.token_bytes(id).unwrap_or_default();
        let token = String::from_utf8_lossy(&bytes).into_owned();
        TokenLogprob { token, logprob: logprob.max(LOGPROB_MIN), bytes }
    }
}

impl ChatLogprobs {
    /// Of tokens; none where there are none.
    pub fn of(engine: &Engine, tokens: impl IntoIterator<Item = Token>) -> Option<ChatLogprobs> {
        let one = |token: Token| ChatToken {
            token: TokenLogprob::of(engine, token.id, token.logprob),
            top_logprobs: token.top.iter().map(|&(id, logprob)| TokenLogprob::of(engine, id, logprob)).collect(),
        };
        let content: Vec<ChatToken> = tokens.into_iter().map(one).collect();
        (!content.is_empty()).then_some(ChatLogprobs { content })
    }
}

/// The log probabilities of the tokens of a completion.
#[derive(Debug, Default, Serialize)]
pub(super) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    /// Characters before each token.
    text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// Of tokens before which there are `offset` characters, which counts on; none where there are none.
    pub fn of(engine: &Engine, tokens: impl IntoIterator<Item = Token>, offset: &mut usize) -> Option<TextLogprobs> {
        let mut all = TextLogprobs::default();
        for token in tokens {
            let text = TokenLogprob::of(engine, token.id, token.logprob);
            let top = token.top.iter().map(|&(id, logprob)| TokenLogprob::of(engine, id, logprob));
            all.top_logprobs.push(top.map(|top| (top.token, top.logprob.into())).collect());
            all.text_offset.push(*offset);
            *offset += text.token.chars().count();
            all.token_logprobs.push(text.logprob);
            all.tokens.push(text.token);
        }
        (!all.tokens.is_empty()).then_some(all)
    }
}
