//! The `post_processor` of a tokenizer file: what stands before and after the tokens of a text.
//!
//! No published step looks at the tokens, so what it makes of any text shows when it is given one that is a single
//! token. The steps run one after another with a look at the length in between: a template may name its text several
//! times, and forty such templates in a row would make more of it than any memory holds.

use serde_json::Value;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor as _};

use crate::error::{Error, Result, Unit};
use crate::limits::POST_PROCESSOR_PIECES_MAX;

/// The tokens around a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pattern {
    /// Ids that are added; `None`: all of the text.
    pieces: Vec<Option<u32>>,
}

impl Pattern {
    /// Only the text.
    pub(crate) fn plain() -> Pattern {
        Pattern { pieces: vec![None] }
    }

    /// What a post-processor makes of a text, with or without special tokens.
    pub(crate) fn new(steps: &[PostProcessorWrapper], add_special_tokens: bool) -> Result<Pattern> {
        let failed = |e| Error::format(format!("its `post_processor` cannot be used: {e}"));
        let text = Encoding::from_tokens(vec![tokenizers::Token::new(TEXT, String::new(), (0, 0))], 0);
        let mut encodings = vec![text];
        for step in steps {
            encodings = step.process_encodings(encodings, add_special_tokens).map_err(failed)?;
            check(encodings.iter().map(Encoding::len).sum())?;
        }
        let ids = encodings.iter().flat_map(|e| e.get_ids());
        Ok(Pattern { pieces: ids.map(|&id| (id != TEXT).then_some(id)).collect() })
    }

    /// Tokens that are added, and how often the text's own are there.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let added = self.pieces.iter().flatten().count();
        (added, self.pieces.len() - added)
    }

    /// All tokens, of those of the text.
    pub(crate) fn around(&self, text: Vec<u32>) -> Result<Vec<u32>> {
        if matches!(self.pieces.as_slice(), [None]) {
            return Ok(text);
        }
        let (added, copies) = self.counts();
        let count = text.len().saturating_mul(copies).saturating_add(added);
        let mut all = crate::error::reserved("the tokens of a prompt", count)?;
        for piece in &self.pieces {
            match piece {
                Some(id) => all.push(*id),
                None => all.extend_from_slice(&text),
            }
        }
        Ok(all)
    }
}

/// Stands for the text. No tokenizer here has so many tokens.
const TEXT: u32 = u32::MAX;

/// The steps of a post-processor, its sequences laid flat.
pub(crate) fn steps(read: Option<PostProcessorWrapper>, file: &Value) -> Result<Vec<PostProcessorWrapper>> {
    // Before anything runs: one template with many pieces takes as many copies.
    check(pieces(file))?;
    let mut flat = Vec::new();
    read.into_iter().for_each(|step| add(step, &mut flat));
    Ok(flat)
}

fn add(step: PostProcessorWrapper, flat: &mut Vec<PostProcessorWrapper>) {
    match step {
        PostProcessorWrapper::Sequence(sequence) => sequence.into_iter().for_each(|part| add(part, flat)),
        // These only trim offsets, which nobody asks for here; the crate's way would keep tables in statics.
        PostProcessorWrapper::ByteLevel(_) => {}
        PostProcessorWrapper::Roberta(mut step) => {
            step.trim_offsets = false;
            flat.push(PostProcessorWrapper::Roberta(step));
        }
        other => flat.push(other),
    }
}

/// The entries of all lists in a part of the file, and their steps.
fn pieces(file: &Value) -> usize {
    match file {
        Value::Array(list) => list.len() + list.iter().map(pieces).sum::<usize>(),
        Value::Object(map) => map.values().map(pieces).sum(),
        _ => 0,
    }
}

fn check(count: usize) -> Result<()> {
    if count <= POST_PROCESSOR_PIECES_MAX {
        return Ok(());
    }
    let most = POST_PROCESSOR_PIECES_MAX;
    let message = format!("its `post_processor` makes {count} pieces of one text; at most {most} are supported");
    Err(Error::format(message).numbers(Unit::Count, count as u64, most as u64))
}
