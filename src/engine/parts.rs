//! Raw prompts: parts of text and of token ids, in the order in which they were added.
//!
//! Consecutive text parts are joined before encoding, so the places where a caller splits a text do not change its
//! tokens. A part whose special tokens are not parsed is content: the tokenizer treats it as plain text. Token ids
//! between two texts are used as they are. For begin tokens see [`mod@super::begin`].
//!
//! The minimum number of tokens of the whole prompt is computed before any text is encoded, and each text is encoded
//! with the minimum of the others counted in. So a prompt that cannot fit into the context is refused early, even if it
//! is split by token ids.

use super::PromptPart;
use super::begin::BeginTokens;
use crate::error::{Error, Result, Unit};
use crate::limits::PROMPT_BYTES_MAX;
use crate::text::{EncodeLimits, MarkedText, Tokenizer};
use std::borrow::Cow;
use std::ops::Range;

/// A maximal sequence of parts that are encoded together.
enum Run<'a> {
    Text { text: Cow<'a, str>, content: Vec<Range<usize>> },
    Tokens(&'a [u32]),
}

impl Run<'_> {
    fn text_bytes(&self) -> usize {
        match self {
            Run::Text { text, .. } => text.len(),
            Run::Tokens(_) => 0,
        }
    }

    /// A lower bound for the number of tokens. `bytes_per_token`: the most bytes of text that one token can stand for.
    fn at_least(&self, bytes_per_token: Option<usize>) -> usize {
        match self {
            Run::Text { text, .. } => bytes_per_token.map_or(0, |most| text.len().div_ceil(most.max(1))),
            Run::Tokens(tokens) => tokens.len(),
        }
    }
}

/// The error of a model without a tokenizer.
pub(super) fn no_tokenizer() -> Error {
    Error::unsupported("the model folder has no tokenizer.json; this engine takes and gives token ids only")
        .about("tokenizer.json")
}

/// The token ids of the parts of a prompt. If the first part is text, it gets the tokenizer's special tokens. With
/// `special` the special tokens are parsed in all parts. `before`: the tokens that the tokenizer puts before a text.
pub(super) fn encode(
    tokenizer: Option<&Tokenizer>,
    before: &BeginTokens,
    parts: &[PromptPart],
    special: bool,
    limits: &mut EncodeLimits,
) -> Result<Vec<u32>> {
    encode_runs(tokenizer, Some(before), &runs(parts, special)?, limits)
}

/// The token ids of a rendered chat, in which `answers` are given as tokens, by their places in ascending order.
pub(super) fn encode_chat(
    tokenizer: &Tokenizer,
    chat: &MarkedText,
    answers: &[(Range<usize>, &[u32])],
    limits: &mut EncodeLimits,
) -> Result<Vec<u32>> {
    let mut runs: Vec<Run> = crate::error::reserved("the parts of a prompt", 2 * answers.len() + 1)?;
    let mut from = 0;
    let ends = chat.text.len()..chat.text.len();
    for (place, tokens) in answers.iter().map(|(place, tokens)| (place, *tokens)).chain([(&ends, &[][..])]) {
        let text = chat.text.get(from..place.start).unwrap_or_default();
        if !text.is_empty() {
            let within = |range: &Range<usize>| range.start.max(from) - from..range.end.min(place.start) - from;
            let meets = |range: &&Range<usize>| range.end > from && range.start < place.start;
            let content = chat.content.iter().filter(meets).map(within).collect();
            runs.push(Run::Text { text: Cow::Borrowed(text), content });
        }
        if !tokens.is_empty() {
            runs.push(Run::Tokens(tokens));
        }
        from = place.end;
    }
    encode_runs(Some(tokenizer), None, &runs, limits)
}

/// The token ids of runs; with `before` a first one of text gets the tokenizer's special tokens.
fn encode_runs(
    tokenizer: Option<&Tokenizer>,
    before: Option<&BeginTokens>,
    runs: &[Run],
    limits: &mut EncodeLimits,
) -> Result<Vec<u32>> {
    let mut ids: Vec<u32> = Vec::new();
    let more = |ids: &mut Vec<u32>, tokens: &[u32]| {
        ids.try_reserve(tokens.len()).map_err(|_| Error::memory("the tokens of a prompt", 4 * tokens.len() as u64))?;
        ids.extend_from_slice(tokens);
        Ok::<_, Error>(())
    };
    let bytes_per_token = tokenizer.and_then(Tokenizer::bytes_per_token);
    let bytes: usize = runs.iter().map(Run::text_bytes).fold(0, usize::saturating_add);
    // Lower bound for the tokens of the runs that are not encoded yet.
    let mut rest: usize = runs.iter().map(|run| run.at_least(bytes_per_token)).fold(0, usize::saturating_add);
    limits.check(bytes, rest)?;
    for (index, run) in runs.iter().enumerate() {
        rest = rest.saturating_sub(run.at_least(bytes_per_token));
        match run {
            Run::Tokens(tokens) => more(&mut ids, tokens)?,
            Run::Text { text, content } => {
                let mut own = EncodeLimits {
                    tokens: limits.tokens,
                    other_tokens: limits.other_tokens.saturating_add(ids.len()).saturating_add(rest),
                    other_bytes: limits.other_bytes.saturating_add(bytes.saturating_sub(text.len())),
                    searched: limits.searched,
                    go_on: &mut *limits.go_on,
                    stop: None,
                };
                let first = before.filter(|_| index == 0);
                let mut encoded =
                    tokenizer.ok_or_else(no_tokenizer)?.encode_content(text, content, first.is_some(), &mut own)?;
                limits.searched = own.searched;
                // Text whose special tokens are parsed may begin with the token that the tokenizer puts before it.
                if let Some(before) = first
                    && content.first().is_none_or(|content| content.start > 0)
                {
                    before.put_once(&mut encoded);
                }
                if ids.is_empty() {
                    ids = encoded
                } else {
                    more(&mut ids, &encoded)?
                }
                // A short text is encoded without a call of `go_on`, and there may be many short texts.
                (limits.go_on)()?;
            }
        }
    }
    Ok(ids)
}

fn runs(parts: &[PromptPart], all_special: bool) -> Result<Vec<Run<'_>>> {
    // Each part makes at most one run.
    let mut runs: Vec<Run> = crate::error::reserved("the parts of a prompt", parts.len())?;
    let mut bytes = 0usize;
    for part in parts {
        let (piece, special) = match part {
            // Empty token ids do not separate the texts before and after.
            PromptPart::Tokens(tokens) if tokens.is_empty() => continue,
            PromptPart::Tokens(tokens) => {
                runs.push(Run::Tokens(tokens));
                continue;
            }
            PromptPart::Text { text, special } => (text, *special || all_special),
        };
        bytes = bytes.saturating_add(piece.len());
        if bytes > PROMPT_BYTES_MAX {
            let message = format!("the prompt has {bytes} bytes of text or more, the limit is {PROMPT_BYTES_MAX}");
            return Err(Error::argument(message).numbers(Unit::Bytes, bytes as u64, PROMPT_BYTES_MAX as u64));
        }
        if !matches!(runs.last(), Some(Run::Text { .. })) {
            runs.push(Run::Text { text: Cow::Borrowed(""), content: Vec::new() });
        }
        let Some(Run::Text { text, content }) = runs.last_mut() else { continue };
        let range = text.len()..text.len() + piece.len();
        if !special && !piece.is_empty() {
            match content.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => {
                    let bytes = size_of_val(content.as_slice()) + size_of_val(&range);
                    content.try_reserve(1).map_err(|_| Error::memory("the parts of a prompt", bytes as u64))?;
                    content.push(range);
                }
            }
        }
        join(text, piece)?;
    }
    Ok(runs)
}

/// Appends `piece`; the first piece is borrowed, not copied.
fn join<'a>(text: &mut Cow<'a, str>, piece: &'a str) -> Result<()> {
    if text.is_empty() {
        *text = Cow::Borrowed(piece);
        return Ok(());
    }
    if piece.is_empty() {
        return Ok(());
    }
    let bytes = text.len().saturating_add(piece.len());
    let refused = |_| Error::memory("the text of a prompt", bytes as u64);
    let (mut all, first) = match std::mem::take(text) {
        Cow::Owned(all) => (all, ""),
        Cow::Borrowed(first) => (String::new(), first),
    };
    all.try_reserve(first.len() + piece.len()).map_err(refused)?;
    all.push_str(first);
    all.push_str(piece);
    *text = Cow::Owned(all);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prompt::TextKit;
    use crate::error::Status;
    use crate::limits::{COUNTED_BYTES_MAX, TEXT_PIECE_BYTES};
    use crate::source::{Folder, FolderOptions};
    use std::path::Path;

    /// The storyteller model's kit. `counts`: its tokenizer has an upper bound for the bytes of one token.
    fn kit(counts: bool) -> TextKit {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
        let json = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
        let json = match counts {
            true => json,
            // A normalizer that can remove text, so there is no bound.
            false => {
                let mut file: serde_json::Value = serde_json::from_str(&json).unwrap();
                file["normalizer"] = serde_json::json!({"type": "Strip", "strip_left": true, "strip_right": true});
                file.to_string()
            }
        };
        let tokenizer = Tokenizer::from_json(json.as_bytes(), "tokenizer.json").unwrap();
        assert_eq!(tokenizer.bytes_per_token().is_some(), counts);
        let source = Folder::open(&folder, FolderOptions::default(), &mut |_, _| true).unwrap();
        TextKit::open(&source, 0, &mut |_| {}).unwrap().with_tokenizer(Some(tokenizer), None)
    }

    fn text(text: &str) -> PromptPart {
        PromptPart::Text { text: text.into(), special: false }
    }

    /// Encodes for a context of this many tokens; also returns the number of calls of `go_on`.
    fn encoded(kit: &TextKit, parts: &[PromptPart], context: usize) -> (Result<Vec<u32>>, usize) {
        let mut looks = 0;
        let mut go_on = || {
            looks += 1;
            Ok(())
        };
        let tokenizer = kit.tokenizer.as_deref();
        let result = encode(tokenizer, &kit.before, parts, false, &mut EncodeLimits::new(context, &mut go_on));
        (result, looks)
    }

    /// This many texts, each just below the size up to which all tokens are counted, separated by single token ids.
    fn cut(texts: usize) -> Vec<PromptPart> {
        let long = "once upon a time, ".repeat(COUNTED_BYTES_MAX / 18);
        (0..2 * texts).map(|at| if at % 2 == 0 { text(&long) } else { PromptPart::Tokens(vec![7]) }).collect()
    }

    #[test]
    fn what_cannot_fit_is_refused_at_once_however_token_ids_cut_it() {
        let kit = kit(true);
        let (result, looks) = encoded(&kit, &cut(64), 2048);
        let error = result.unwrap_err();
        assert_eq!((error.status, error.unit, error.available, looks), (Status::Context, Unit::Tokens, 2048, 0));
        let most = kit.tokenizer().unwrap().bytes_per_token().unwrap();
        assert!(error.needed >= (64 * (COUNTED_BYTES_MAX - 18) / most) as u64, "{error:?}");
        // The lower bound of the token ids alone is too large.
        let mut parts = cut(2);
        parts.push(PromptPart::Tokens(vec![7; 1_000_000]));
        let (result, looks) = encoded(&kit, &parts, 999_999);
        assert_eq!((result.unwrap_err().status, looks), (Status::Context, 0));
    }

    #[test]
    fn what_exceeds_the_context_in_any_part_ends_there() {
        let kit = kit(false);
        let one = kit.tokenizer().unwrap().encode("once upon a time, ", false, false).unwrap().len();
        let context = one * 3 / 2 * (COUNTED_BYTES_MAX / 18);
        let (result, looks) = encoded(&kit, &cut(16), context);
        let error = result.unwrap_err();
        assert_eq!((error.status, error.unit, error.available), (Status::Context, Unit::Tokens, context as u64));
        // The normalizer calls `go_on`, too.
        assert!(looks < 2 * 2 * 3 * COUNTED_BYTES_MAX / TEXT_PIECE_BYTES, "{looks} looks");
        // Together these are below the size up to which all tokens are counted.
        let short = "once upon a time, ".repeat(COUNTED_BYTES_MAX / 18 / 4);
        let parts = [text(&short), PromptPart::Tokens(vec![7]), text(&short)];
        assert!(encoded(&kit, &parts, 10).0.unwrap().len() > 1000);
    }

    #[test]
    fn many_short_texts_are_looked_between() {
        let kit = kit(true);
        let parts: Vec<PromptPart> =
            (0..2000).map(|at| if at % 2 == 0 { text("once") } else { PromptPart::Tokens(vec![7]) }).collect();
        let mut looks = 0;
        let mut go_on = || {
            looks += 1;
            if looks < 10 { Ok(()) } else { Err(Error::new(Status::Closed, "enough")) }
        };
        let error = encode(
            kit.tokenizer.as_deref(),
            &kit.before,
            &parts,
            false,
            &mut EncodeLimits::new(usize::MAX, &mut go_on),
        )
        .unwrap_err();
        assert_eq!(error.message, "enough");
    }

    #[test]
    fn all_text_of_a_prompt_has_one_limit() {
        let long = "a".repeat(PROMPT_BYTES_MAX / 2);
        let parts = [text(&long), PromptPart::Tokens(vec![7]), text(&long), PromptPart::Tokens(vec![7]), text("a")];
        let error = encoded(&kit(true), &parts, usize::MAX).0.unwrap_err();
        assert_eq!((error.status, error.needed), (Status::Argument, PROMPT_BYTES_MAX as u64 + 1));
    }

    #[test]
    fn texts_that_follow_each_other_are_one() {
        let parts = [
            text("on"),
            text(""),
            PromptPart::Tokens(vec![]),
            text("ce"),
            PromptPart::Text { text: " upon".into(), special: true },
        ];
        let runs = runs(&parts, false).unwrap();
        let [Run::Text { text, content }] = runs.as_slice() else { panic!("{} runs", runs.len()) };
        assert_eq!((&**text, content.len(), &content[0]), ("once upon", 1, &(0..4)));
    }
}
