//! The `pre_tokenizer` of a tokenizer file: how a text is cut into words, which the vocabulary sees one at a time.
//!
//! The `tokenizers` crate makes a list of all words, with their offsets and a copy of their text, step after step. Here one
//! word after another goes through all steps and is forgotten, so that a long text takes no more memory than a short one, and
//! so that a request can end in the middle of one. The words are the crate's: each step is applied to what the step before
//! made, in the same order, on the same text; expressions look at all of it, so that no cut is invented.
//!
//! Patterns belong to the [`super::Tokenizer`]: the crate keeps some in statics, and what a static points to is not freed when
//! the library is unloaded (190 KiB for `ByteLevel`'s pattern, each time).

use std::ops::Range;

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, SplitDelimiterBehavior};
use unicode_categories::UnicodeCategories as _;

use super::alphabet;
use super::expression::{Expression, SearchEvent, Tell};
use crate::error::{Error, Result, Unit};
use crate::limits::{TEXT_PIECE_BYTES_MAX, TOKENIZER_STEPS_MAX};

#[cfg(test)]
mod tests;

/// How GPT-2 cuts text into words; what `ByteLevel` means by `use_regex`.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The words of `Whitespace`; the rest of the text is dropped.
const WHITESPACE_WORDS: &str = r"\w+|[^\w\s]+";

/// A word, or what expressions have read to find words.
pub(crate) type Told<'a> = SearchEvent<&'a str>;

/// Takes what is told.
type Visit<'a> = dyn FnMut(Told) -> Result<()> + 'a;

/// The `pre_tokenizer` of a file, its sequences laid flat. Both encoders of a tokenizer hold the one.
pub(crate) struct Words {
    steps: Vec<WordStep>,
}

enum WordStep {
    /// `pattern`: none where the file has `use_regex` false.
    ByteLevel {
        add_prefix_space: bool,
        pattern: Option<Expression>,
    },
    Metaspace(Metaspace),
    Split {
        pattern: Expression,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    /// Cuts at single characters.
    Characters {
        delimiter: Delimiter,
        behavior: SplitDelimiterBehavior,
    },
    /// Words of so many characters.
    Length(usize),
    /// Run by the crate.
    Other(PreTokenizerWrapper),
}

#[derive(Clone, Copy)]
enum Delimiter {
    One(char),
    Space,
    Punctuation,
    Number,
}

impl Delimiter {
    fn is(self, c: char) -> bool {
        match self {
            Delimiter::One(one) => c == one,
            Delimiter::Space => c.is_whitespace(),
            Delimiter::Punctuation => c.is_ascii_punctuation() || c.is_punctuation(),
            Delimiter::Number => c.is_numeric(),
        }
    }
}

impl Words {
    /// Cuts nothing: all text is one word.
    pub(crate) fn whole() -> Words {
        Words { steps: Vec::new() }
    }

    /// # Errors
    /// [`crate::error::Status::Format`] when a pattern cannot be compiled, or there are too many steps.
    pub(crate) fn new(read: PreTokenizerWrapper) -> Result<Words> {
        let mut steps = Vec::new();
        add_words(read, &mut steps)?;
        Ok(Words { steps })
    }

    /// Steps that write in the byte-level alphabet.
    pub(crate) fn byte_levels(&self) -> usize {
        self.steps.iter().filter(|s| matches!(s, WordStep::ByteLevel { .. })).count()
    }

    /// Memory of its expressions, in bytes at most.
    pub(crate) fn search_bytes(&self) -> usize {
        let expressions = self.steps.iter().filter_map(|step| match step {
            WordStep::ByteLevel { pattern, .. } => pattern.as_ref(),
            WordStep::Split { pattern, .. } => Some(pattern),
            _ => None,
        });
        expressions.map(Expression::search_bytes).sum()
    }

    /// Whether every character of a text is in one of its words.
    pub(crate) fn keeps_everything(&self) -> bool {
        self.steps.iter().all(|step| match step {
            WordStep::ByteLevel { .. } | WordStep::Metaspace(_) | WordStep::Length(_) => true,
            WordStep::Split { behavior, .. } | WordStep::Characters { behavior, .. } => {
                *behavior != SplitDelimiterBehavior::Removed
            }
            WordStep::Other(_) => false,
        })
    }

    /// Tells of every word, and of what is read to find them. `from_start`: the text begins where the text that was asked for does.
    pub(crate) fn each(&self, text: &str, from_start: bool, visit: &mut Visit) -> Result<()> {
        walk(&self.steps, text, from_start, visit)
    }
}

fn add_words(read: PreTokenizerWrapper, steps: &mut Vec<WordStep>) -> Result<()> {
    use SplitDelimiterBehavior::{Contiguous, Isolated, Removed};
    const PART: &str = "pre_tokenizer";
    if steps.len() >= TOKENIZER_STEPS_MAX {
        return Err(Error::format(format!("its `pre_tokenizer` has more than {TOKENIZER_STEPS_MAX} steps")));
    }
    let characters = |delimiter, behavior| WordStep::Characters { delimiter, behavior };
    let step = match read {
        PreTokenizerWrapper::Sequence(sequence) => {
            return sequence.into_iter().try_for_each(|part| add_words(part, steps));
        }
        PreTokenizerWrapper::ByteLevel(step) => {
            let pattern = if step.use_regex { Some(Expression::new(GPT2_WORDS, PART)?) } else { None };
            WordStep::ByteLevel { add_prefix_space: step.add_prefix_space, pattern }
        }
        PreTokenizerWrapper::Whitespace(_) => {
            WordStep::Split { pattern: Expression::new(WHITESPACE_WORDS, PART)?, behavior: Removed, invert: true }
        }
        PreTokenizerWrapper::Split(step) => {
            let pattern = match &step.pattern {
                SplitPattern::String(text) => Expression::literal(text, PART)?,
                SplitPattern::Regex(pattern) => Expression::new(pattern, PART)?,
            };
            WordStep::Split { pattern, behavior: step.behavior, invert: step.invert }
        }
        PreTokenizerWrapper::BertPreTokenizer(_) => {
            steps.push(characters(Delimiter::Space, Removed));
            characters(Delimiter::Punctuation, Isolated)
        }
        PreTokenizerWrapper::Punctuation(step) => characters(Delimiter::Punctuation, step.behavior),
        PreTokenizerWrapper::WhitespaceSplit(_) => characters(Delimiter::Space, Removed),
        PreTokenizerWrapper::Delimiter(step) => characters(Delimiter::One(step.delimiter), Removed),
        PreTokenizerWrapper::Digits(step) => {
            characters(Delimiter::Number, if step.individual_digits { Isolated } else { Contiguous })
        }
        PreTokenizerWrapper::Metaspace(step) => WordStep::Metaspace(step),
        PreTokenizerWrapper::FixedLength(step) if step.length > 0 => WordStep::Length(step.length),
        PreTokenizerWrapper::FixedLength(_) => {
            return Err(Error::format("its `pre_tokenizer` makes words of 0 characters"));
        }
        other @ PreTokenizerWrapper::UnicodeScripts(_) => WordStep::Other(other),
    };
    steps.push(step);
    Ok(())
}

/// Sends a text through `steps`. As deep as there are steps.
fn walk(steps: &[WordStep], text: &str, from_start: bool, visit: &mut Visit) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let Some((step, rest)) = steps.split_first() else { return visit(Told::Match(text)) };
    let mut go_on = |part: SearchEvent| match part {
        SearchEvent::Match(range) => walk(rest, &text[range.clone()], from_start && range.start == 0, visit),
        SearchEvent::Read(read) => visit(Told::Read(read)),
    };
    match step {
        WordStep::Split { pattern, behavior, invert } => {
            let mut cuts = Cuts::new(*behavior, &mut go_on);
            cover(text, pattern, &mut |part| match part {
                Covered::Match((range, is_match)) => cuts.add(range, is_match != *invert),
                Covered::Read(read) => (cuts.emit)(SearchEvent::Read(read)),
            })?;
            cuts.finish()
        }
        WordStep::Characters { delimiter, behavior } => {
            let mut cuts = Cuts::new(*behavior, &mut go_on);
            let mut done = 0;
            for (at, c) in text.char_indices().filter(|(_, c)| delimiter.is(*c)) {
                if done < at {
                    cuts.add(done..at, false)?;
                }
                done = at + c.len_utf8();
                cuts.add(at..done, true)?;
            }
            if done < text.len() {
                cuts.add(done..text.len(), false)?;
            }
            cuts.finish()
        }
        WordStep::Length(length) => {
            let mut start = 0;
            while start < text.len() {
                let end = text[start..].char_indices().nth(*length).map_or(text.len(), |(at, _)| start + at);
                go_on(SearchEvent::Match(start..end))?;
                start = end;
            }
            Ok(())
        }
        WordStep::ByteLevel { add_prefix_space, pattern } => {
            byte_level(text, *add_prefix_space, pattern.as_ref(), &mut |told| match told {
                Told::Match(word) => walk(rest, word, false, visit),
                read => visit(read),
            })
        }
        WordStep::Metaspace(step) => {
            metaspace(step, text, from_start, &mut |word, at_start| walk(rest, word, at_start, visit))
        }
        WordStep::Other(step) => other(step, text, &mut |word| walk(rest, word, false, visit)),
    }
}

/// A part of a text and whether it is a match, or what was read to find it.
type Covered = SearchEvent<(Range<usize>, bool)>;

/// Tells of all of a text, as matches and what is between them.
fn cover(text: &str, pattern: &Expression, tell: &mut dyn FnMut(Covered) -> Result<()>) -> Result<()> {
    let mut done = 0;
    pattern.each(text, &mut |found| {
        let found = match found {
            SearchEvent::Match(found) => found,
            SearchEvent::Read(read) => return tell(Covered::Read(read)),
        };
        if done < found.start {
            tell(Covered::Match((done..found.start, false)))?;
        }
        done = found.end;
        tell(Covered::Match((found, true)))
    })?;
    if done < text.len() { tell(Covered::Match((done..text.len(), false))) } else { Ok(()) }
}

/// What becomes of delimiters, one part of the text after another.
struct Cuts<'a> {
    behavior: SplitDelimiterBehavior,
    emit: &'a mut Tell<'a>,
    /// A part that may become longer.
    held: Option<Range<usize>>,
    /// The part before was a delimiter.
    after_match: bool,
}

impl<'a> Cuts<'a> {
    fn new(behavior: SplitDelimiterBehavior, emit: &'a mut Tell<'a>) -> Cuts<'a> {
        Cuts { behavior, emit, held: None, after_match: false }
    }

    fn add(&mut self, part: Range<usize>, is_match: bool) -> Result<()> {
        use SplitDelimiterBehavior::*;
        let after_match = std::mem::replace(&mut self.after_match, is_match);
        let joins = match self.behavior {
            Isolated => return (self.emit)(SearchEvent::Match(part)),
            Removed if is_match => return Ok(()),
            Removed => return (self.emit)(SearchEvent::Match(part)),
            Contiguous => is_match == after_match,
            MergedWithPrevious => is_match && !after_match,
            // A delimiter is held until it shows what follows.
            MergedWithNext => after_match && !is_match,
        };
        match (&mut self.held, joins) {
            (Some(held), true) => held.end = part.end,
            (held, _) => {
                if let Some(done) = held.replace(part) {
                    return (self.emit)(SearchEvent::Match(done));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.held.map_or(Ok(()), |held| (self.emit)(SearchEvent::Match(held)))
    }
}

fn byte_level(text: &str, add_prefix_space: bool, pattern: Option<&Expression>, go_on: &mut Visit) -> Result<()> {
    let prefixed;
    let text = match add_prefix_space && !text.starts_with(' ') {
        true => {
            prefixed = copy(text.len() + 1, [" ", text])?;
            &prefixed
        }
        false => text,
    };
    match pattern {
        Some(pattern) => cover(text, pattern, &mut |part| match part {
            Covered::Match((word, _)) => go_on(Told::Match(&alphabet::spelled(&text[word])?)),
            Covered::Read(read) => go_on(Told::Read(read)),
        }),
        None => go_on(Told::Match(&alphabet::spelled(text)?)),
    }
}

/// Spaces become the step's character, and words begin with it. A text gets one before it as the scheme says.
fn metaspace(
    step: &Metaspace,
    text: &str,
    from_start: bool,
    go_on: &mut dyn FnMut(&str, bool) -> Result<()>,
) -> Result<()> {
    let mark = step.get_replacement();
    let is_mark = |c: char| c == ' ' || c == mark;
    let prepends = match step.prepend_scheme {
        PrependScheme::Always => true,
        PrependScheme::First => from_start,
        PrependScheme::Never => false,
    };
    let prefix = if prepends && !text.starts_with(is_mark) { mark.to_string() } else { String::new() };
    let marked = |prefix: &str, text: &str| {
        let spaces = text.bytes().filter(|&byte| byte == b' ').count();
        let mut word = String::new();
        let bytes = prefix.len() + text.len() + spaces * mark.len_utf8();
        word.try_reserve(bytes).map_err(|_| Error::memory("a part of the text", bytes as u64))?;
        word.push_str(prefix);
        word.extend(text.chars().map(|c| if c == ' ' { mark } else { c }));
        Ok::<_, Error>(word)
    };
    if !step.split {
        return go_on(&marked(&prefix, text)?, from_start);
    }
    let mut start = 0;
    while start < text.len() {
        let first = text[start..].chars().next().map_or(1, char::len_utf8);
        let end = text[start + first..].find(is_mark).map_or(text.len(), |at| start + first + at);
        let prefix = if start == 0 { prefix.as_str() } else { "" };
        go_on(&marked(prefix, &text[start..end])?, from_start && start == 0)?;
        start = end;
    }
    Ok(())
}

/// A step as the crate does it, on all of a text.
fn other(step: &PreTokenizerWrapper, text: &str, go_on: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    if text.len() > TEXT_PIECE_BYTES_MAX {
        let message = format!(
            "the tokenizer's `pre_tokenizer` is run on at most {TEXT_PIECE_BYTES_MAX} bytes without a special token"
        );
        return Err(Error::unsupported(message).numbers(Unit::Bytes, text.len() as u64, TEXT_PIECE_BYTES_MAX as u64));
    }
    let mut parts = PreTokenizedString::from(text);
    step.pre_tokenize(&mut parts).map_err(|e| Error::format(format!("the tokenizer's `pre_tokenizer` failed: {e}")))?;
    let parts = parts.get_splits(OffsetReferential::Normalized, OffsetType::None);
    parts.into_iter().try_for_each(|(word, _, _)| go_on(word))
}

fn copy<const N: usize>(bytes: usize, parts: [&str; N]) -> Result<String> {
    let mut text = String::new();
    text.try_reserve(bytes).map_err(|_| Error::memory("a part of the text", bytes as u64))?;
    text.extend(parts);
    Ok(text)
}
