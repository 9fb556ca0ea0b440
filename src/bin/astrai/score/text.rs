//! `astrai score --text FILE`: the perplexity of a text.
//!
//! The text is tokenized as a raw prompt. When it is longer than the context it is read in windows of the context's
//! length, each beginning `stride` tokens after the last; a window scores only the tokens that no window before it has
//! scored, so every token counts once, with at least `context - stride` tokens before it. The first token of the text
//! has nothing before it and is not scored.

use crate::failure::{Failure, Outcome, read_file};
use astrai::engine::{Engine, EventKind, Next, Prompt, PromptPart, Request, RequestOptions, Sink, TextOptions};
use serde_json::json;
use std::collections::VecDeque;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// Windows submitted and not yet added up, at most; the engine decides how many of them run at once.
const WINDOWS_IN_FLIGHT_MAX: usize = 64;

/// Prints one JSON line.
pub fn perplexity(engine: &Engine, path: &Path, stride: Option<usize>) -> Outcome {
    let context = engine.info().context_length as usize;
    let stride = stride.unwrap_or(context / 2).max(1);
    if stride >= context {
        return Err(Failure::Usage(format!("--stride {stride} must be less than the context of {context} tokens")));
    }
    let text = Prompt { parts: vec![PromptPart::Text { text: read_file(path)?, special: true }], ..Prompt::default() };
    let tokens = engine.tokenize(&text, TextOptions::default())?;
    if tokens.len() < 2 {
        return Err(Failure::Message(format!(
            "{} has {} tokens; perplexity needs at least 2",
            path.display(),
            tokens.len()
        )));
    }
    let nll = sum_nll(engine, &tokens, context, stride)?;
    let scored_tokens = tokens.len() - 1;
    let mean_nll = nll / scored_tokens as f64;
    let result = json!({
        "tokens": tokens.len(),
        "scored_tokens": scored_tokens,
        "mean_nll": mean_nll,
        "perplexity": mean_nll.exp(),
        "context": context,
        "stride": stride,
    });
    Ok(writeln!(std::io::stdout(), "{result}")?)
}

/// Negative log-likelihood of all tokens but the first.
fn sum_nll(engine: &Engine, tokens: &[u32], context: usize, stride: usize) -> Outcome<f64> {
    let options = RequestOptions {
        max_tokens: Some(0),
        temperature: Some(0.0),
        prompt_logprobs: true,
        ..RequestOptions::default()
    };
    let mut running: VecDeque<(Request, usize)> = VecDeque::new();
    let mut sum = 0.0;
    for window in windows(tokens.len(), context, stride) {
        if running.len() >= WINDOWS_IN_FLIGHT_MAX {
            sum += oldest_nll(&mut running)?;
        }
        let input = tokens.get(window.input.clone()).unwrap_or_default().to_vec();
        let prompt = Prompt { parts: vec![PromptPart::Tokens(input)], ..Prompt::default() };
        running.push_back((engine.submit(&prompt, &options, Sink::Pull)?, window.unscored));
    }
    while !running.is_empty() {
        sum += oldest_nll(&mut running)?;
    }
    Ok(sum)
}

/// Waits for the oldest window and adds up what it scores.
fn oldest_nll(running: &mut VecDeque<(Request, usize)>) -> Outcome<f64> {
    let Some((request, unscored)) = running.pop_front() else {
        return Ok(0.0);
    };
    match request.wait(None)? {
        Next::Event(event) if event.kind == EventKind::Finished => {
            Ok(event.prompt_logprobs.iter().skip(unscored).map(|&logprob| -f64::from(logprob)).sum())
        }
        Next::Event(event) => Err(event.error.map_or(Failure::message("a window failed"), Failure::from)),
        Next::Timeout | Next::End => Err(Failure::message("the engine ended a window without a last event")),
    }
}

/// A window of the text.
#[derive(Debug, PartialEq)]
struct Window {
    /// Its tokens.
    input: Range<usize>,
    /// How many of them, from its first, it does not score.
    unscored: usize,
}

/// The windows over `len` tokens; `stride < context`.
fn windows(len: usize, context: usize, stride: usize) -> impl Iterator<Item = Window> {
    let mut start = 0;
    let mut scored = 1;
    std::iter::from_fn(move || {
        if scored >= len {
            return None;
        }
        let end = len.min(start + context);
        let window = Window { input: start..end, unscored: scored - start };
        scored = end;
        start += stride;
        Some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once() {
        for len in 2..60 {
            for context in 2..20 {
                for stride in 1..context {
                    let mut next = 1;
                    for window in windows(len, context, stride) {
                        assert_eq!(window.input.start + window.unscored, next, "{len} {context} {stride}");
                        assert!(window.input.len() <= context && window.unscored >= 1);
                        assert!(next < 2 || window.unscored >= context - stride || window.input.start == 0);
                        next = window.input.end;
                    }
                    assert_eq!(next, len, "{len} {context} {stride}");
                }
            }
        }
    }

    #[test]
    fn a_text_within_the_context_is_one_window() {
        let all: Vec<Window> = windows(8, 8, 4).collect();
        assert_eq!(all, [Window { input: 0..8, unscored: 1 }]);
        let two: Vec<Window> = windows(9, 8, 4).collect();
        assert_eq!(two, [Window { input: 0..8, unscored: 1 }, Window { input: 4..9, unscored: 4 }]);
    }
}
