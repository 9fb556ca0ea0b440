//! Raw prompts: parts of text and of token ids, in the order in which they were added.
//!
//! Texts that follow each other are one text: where a caller cuts a text changes no token. A part whose special tokens are
//! not parsed is content of that text. Token ids stand between two texts as they are.
//! What a begin token is, and when a prompt has one: [`mod@super::begin`].

use super::api::PromptPart;
use super::prompt::TextKit;
use crate::error::{Error, Result, Unit};
use crate::limits::PROMPT_BYTES_MAX;
use crate::text::EncodeLimits;
use std::borrow::Cow;
use std::ops::Range;

/// Parts that are encoded together.
enum Run<'a> {
    Text { text: Cow<'a, str>, content: Vec<Range<usize>> },
    Tokens(&'a [u32]),
}

/// The token ids of the parts of a prompt, of which the first gets the tokenizer's special tokens if it is text. `special`:
/// all parts are parsed for special tokens.
pub(super) fn encode(
    kit: &TextKit,
    parts: &[PromptPart],
    special: bool,
    limits: &mut EncodeLimits,
) -> Result<Vec<u32>> {
    let mut ids: Vec<u32> = Vec::new();
    let more = |ids: &mut Vec<u32>, tokens: &[u32]| {
        ids.try_reserve(tokens.len()).map_err(|_| Error::memory("the tokens of a prompt", 4 * tokens.len() as u64))?;
        ids.extend_from_slice(tokens);
        Ok::<_, Error>(())
    };
    for (index, run) in runs(parts, special)?.iter().enumerate() {
        match run {
            Run::Tokens(tokens) => more(&mut ids, tokens)?,
            Run::Text { text, content } => {
                let mut limits = EncodeLimits {
                    tokens: limits.tokens,
                    before: limits.before + ids.len(),
                    go_on: &mut *limits.go_on,
                    stop: None,
                };
                let mut encoded = kit.tokenizer()?.encode_content(text, content, index == 0, &mut limits)?;
                // A text that is parsed may begin with the token that the tokenizer puts before it.
                if index == 0 && content.first().is_none_or(|content| content.start > 0) {
                    kit.before.put_once(&mut encoded);
                }
                if ids.is_empty() { ids = encoded } else { more(&mut ids, &encoded)? }
            }
        }
    }
    Ok(ids)
}

fn runs(parts: &[PromptPart], all_special: bool) -> Result<Vec<Run<'_>>> {
    let mut runs: Vec<Run> = Vec::new();
    for part in parts {
        let (piece, special) = match part {
            // Nothing stands between the texts before and after.
            PromptPart::Tokens(tokens) if tokens.is_empty() => continue,
            PromptPart::Tokens(tokens) => {
                runs.push(Run::Tokens(tokens));
                continue;
            }
            PromptPart::Text { text, special } => (text, *special || all_special),
        };
        if !matches!(runs.last(), Some(Run::Text { .. })) {
            runs.push(Run::Text { text: Cow::Borrowed(""), content: Vec::new() });
        }
        let Some(Run::Text { text, content }) = runs.last_mut() else { continue };
        let range = text.len()..text.len() + piece.len();
        if !special && !piece.is_empty() {
            match content.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => content.push(range.clone()),
            }
        }
        join(text, piece)?;
    }
    Ok(runs)
}

/// Appends without a copy where there was nothing.
fn join<'a>(text: &mut Cow<'a, str>, piece: &'a str) -> Result<()> {
    if text.is_empty() {
        *text = Cow::Borrowed(piece);
        return Ok(());
    }
    let bytes = text.len().saturating_add(piece.len());
    if bytes > PROMPT_BYTES_MAX {
        let message = format!("the prompt has {bytes} bytes of text, the limit is {PROMPT_BYTES_MAX}");
        return Err(Error::argument(message).numbers(Unit::Bytes, bytes as u64, PROMPT_BYTES_MAX as u64));
    }
    let all = text.to_mut();
    all.try_reserve(piece.len()).map_err(|_| Error::memory("the text of a prompt", bytes as u64))?;
    all.push_str(piece);
    Ok(())
}
