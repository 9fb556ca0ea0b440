//! The steps of a `tokenizer.json` around its vocabulary: what is done to a text before it, and to the tokens after.
//!
//! They are the `tokenizers` crate's, with its results, but for those that keep tables and compiled patterns in
//! statics: `ByteLevel` (as a pre-tokenizer, a normalizer, and where offsets are trimmed) and `Whitespace`. What a
//! static points to is not freed when the library is unloaded (190 KiB for `ByteLevel`'s pattern, each time), so these
//! run here, on patterns that belong to the [`super::Tokenizer`]. The crate reads the file all the same; what it read
//! is then looked through.
//!
//! The crate's statics that are left: the patterns for added tokens that ask for `lstrip`, `rstrip` or `single_word`.

use std::sync::Arc;

use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::utils::SysRegex;
use tokenizers::{NormalizedString, Normalizer, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

use super::alphabet;
use crate::error::{Error, Result};

#[cfg(test)]
mod tests;

/// How GPT-2 cuts text into words; what `ByteLevel` means by `use_regex`.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The words of `Whitespace`; the rest of the text is dropped.
const WHITESPACE_WORDS: &str = r"\w+|[^\w\s]+";

/// The `pre_tokenizer` of a file, its sequences laid flat. Both encoders of a tokenizer hold the one.
#[derive(Clone)]
pub(crate) struct Words {
    steps: Arc<[WordStep]>,
}

enum WordStep {
    /// `pattern`: none where the file has `use_regex` false.
    ByteLevel {
        add_prefix_space: bool,
        pattern: Option<SysRegex>,
    },
    Other(PreTokenizerWrapper),
}

impl Words {
    /// # Errors
    /// [`crate::error::Status::Format`] when a pattern cannot be compiled.
    pub(crate) fn new(read: PreTokenizerWrapper) -> Result<Words> {
        let mut steps = Vec::new();
        add_words(read, &mut steps)?;
        Ok(Words { steps: steps.into() })
    }
}

fn add_words(read: PreTokenizerWrapper, steps: &mut Vec<WordStep>) -> Result<()> {
    let unusable = |e| Error::format(format!("a pattern of `pre_tokenizer` cannot be compiled: {e}"));
    steps.push(match read {
        PreTokenizerWrapper::Sequence(sequence) => {
            return sequence.into_iter().try_for_each(|part| add_words(part, steps));
        }
        PreTokenizerWrapper::ByteLevel(step) => {
            let pattern = if step.use_regex { Some(SysRegex::new(GPT2_WORDS).map_err(unusable)?) } else { None };
            WordStep::ByteLevel { add_prefix_space: step.add_prefix_space, pattern }
        }
        PreTokenizerWrapper::Whitespace(_) => {
            let pattern = SplitPattern::Regex(WHITESPACE_WORDS.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Removed, true).map_err(unusable)?;
            WordStep::Other(PreTokenizerWrapper::Split(split))
        }
        other => WordStep::Other(other),
    });
    Ok(())
}

impl PreTokenizer for Words {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        for step in self.steps.iter() {
            match step {
                WordStep::ByteLevel { add_prefix_space, pattern } => byte_level(text, *add_prefix_space, pattern)?,
                WordStep::Other(step) => step.pre_tokenize(text)?,
            }
        }
        Ok(())
    }
}

fn byte_level(
    text: &mut PreTokenizedString,
    add_prefix_space: bool,
    pattern: &Option<SysRegex>,
) -> tokenizers::Result<()> {
    text.split(|_, mut part| {
        if add_prefix_space && !part.get().starts_with(' ') {
            part.prepend(" ");
        }
        match pattern {
            Some(pattern) => part.split(pattern, SplitDelimiterBehavior::Isolated),
            None => Ok(vec![part]),
        }
    })?;
    text.normalize(|part| {
        spell(part);
        Ok(())
    })
}

/// Writes a text in the byte-level alphabet.
fn spell(text: &mut NormalizedString) {
    // The number says how a character relates to those that were there: 0 is in the place of one, 1 is new after it.
    let follows = |byte: u8| isize::from(byte & 0xC0 == 0x80);
    let letters: Vec<_> = text.get().bytes().map(|byte| (alphabet::letter(byte), follows(byte))).collect();
    text.transform(letters, 0);
}

/// The `normalizer` of a file, its sequences laid flat. Both encoders of a tokenizer hold the one.
#[derive(Clone)]
pub(crate) struct Changes {
    steps: Arc<[NormalizerWrapper]>,
}

impl Changes {
    pub(crate) fn new(read: NormalizerWrapper) -> Changes {
        let mut steps = Vec::new();
        add_changes(read, &mut steps);
        Changes { steps: steps.into() }
    }
}

fn add_changes(read: NormalizerWrapper, steps: &mut Vec<NormalizerWrapper>) {
    match read {
        NormalizerWrapper::Sequence(sequence) => sequence.into_iter().for_each(|part| add_changes(part, steps)),
        other => steps.push(other),
    }
}

impl Normalizer for Changes {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        for step in self.steps.iter() {
            match step {
                NormalizerWrapper::ByteLevel(_) if text.is_empty() => {}
                NormalizerWrapper::ByteLevel(_) => spell(text),
                other => other.normalize(text)?,
            }
        }
        Ok(())
    }
}

/// The `post_processor` of a file without the trimming of offsets, which nobody asks for here: it changes no token.
pub(crate) fn untrimmed(mut read: PostProcessorWrapper) -> PostProcessorWrapper {
    forget_trimming(&mut read);
    read
}

fn forget_trimming(step: &mut PostProcessorWrapper) {
    match step {
        PostProcessorWrapper::ByteLevel(step) => step.trim_offsets = false,
        PostProcessorWrapper::Roberta(step) => step.trim_offsets = false,
        PostProcessorWrapper::Sequence(sequence) => sequence.as_mut().iter_mut().for_each(forget_trimming),
        PostProcessorWrapper::Bert(_) | PostProcessorWrapper::Template(_) => {}
    }
}
