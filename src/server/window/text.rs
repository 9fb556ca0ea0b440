//! Texts of requests and of the prefix tree, for viewers who are allowed to see them.

use crate::engine::{Engine, StepTrace};
use crate::limits;
use serde::Serialize;
use std::collections::BTreeMap;

/// Texts that are new.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct TextsNews {
    /// Request, and what its text goes on with: the end of the prompt first, then what is generated.
    requests: Vec<(u64, String)>,
    /// Node, and the text of its page.
    nodes: Vec<(u32, String)>,
}

/// What is known of a request's text.
#[derive(Default)]
struct RequestText {
    /// Tokens that are in the text.
    tokens: usize,
    text: String,
    /// Bytes of a character whose end has not come.
    rest: Vec<u8>,
}

/// The texts of requests and nodes that are there.
#[derive(Default)]
pub(super) struct Texts {
    requests: BTreeMap<u64, RequestText>,
    /// Tokens and text of each node.
    nodes: BTreeMap<u32, (Vec<u32>, String)>,
}

impl Texts {
    /// Takes a record with token ids; what is new.
    pub fn update(&mut self, record: &StepTrace, engine: &Engine) -> TextsNews {
        let mut news = TextsNews::default();
        let Some(detail) = record.detail.as_deref() else { return news };
        let tokens = |range: &std::ops::Range<usize>| detail.token_ids.get(range.clone()).unwrap_or_default();
        self.requests.retain(|id, _| detail.requests.iter().any(|request| request.id == *id));
        for request in &detail.requests {
            let known = self.requests.entry(request.id).or_default();
            let all = tokens(&request.token_ids);
            // Of a long text its end.
            let from = known.tokens.max(all.len().saturating_sub(limits::WINDOW_TEXT_TOKENS_MAX)).min(all.len());
            let new = known.push(&all[from..], engine);
            known.tokens = all.len();
            if !new.is_empty() {
                news.requests.push((request.id, new));
            }
        }
        self.nodes.retain(|id, _| detail.nodes.iter().any(|node| node.id == *id));
        for node in &detail.nodes {
            let page = tokens(&node.token_ids);
            if self.nodes.get(&node.id).is_none_or(|(tokens, _)| tokens != page) {
                let bytes: Vec<u8> = page.iter().flat_map(|&token| bytes(token, engine)).collect();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                news.nodes.push((node.id, text.clone()));
                self.nodes.insert(node.id, (page.to_vec(), text));
            }
        }
        news
    }

    /// All texts.
    pub fn all(&self) -> TextsNews {
        TextsNews {
            requests: self.requests.iter().map(|(&id, request)| (id, request.text.clone())).collect(),
            nodes: self.nodes.iter().map(|(&id, (_, text))| (id, text.clone())).collect(),
        }
    }
}

impl RequestText {
    /// Adds tokens; the text that became certain.
    fn push(&mut self, tokens: &[u32], engine: &Engine) -> String {
        self.rest.extend(tokens.iter().flat_map(|&token| bytes(token, engine)));
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(_) => self.rest.len(),
            // What is wrong is shown as such; what is not whole may become so.
            Err(e) if e.error_len().is_some() => self.rest.len(),
            Err(e) => e.valid_up_to(),
        };
        let new = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        self.rest.drain(..whole);
        self.text.push_str(&new);
        new
    }
}

/// The bytes of a token; none where it has none.
fn bytes(token: u32, engine: &Engine) -> Vec<u8> {
    engine.token_bytes(token).unwrap_or_default()
}
