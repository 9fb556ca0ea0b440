//! Where the tokens that a file adds to its vocabulary stand in a text.
//!
//! The rules are the `tokenizers` crate's: of the names that begin first, the longest; `single_word`, `lstrip` and
//! `rstrip` as the file says. What is ours is the text's content ([`super::MarkedText`]): a special token whose name
//! touches it is none. Then a shorter name at the same place counts, or one that begins later, so that a marker of the
//! template is not lost because what stands before it spells the beginning of another one.
//!
//! A text is searched piece by piece ([`Output::worked`] is asked in between), and nothing of its length is kept.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use fancy_regex::Regex;

use super::output::Output;
use crate::error::{Error, Result};
use crate::limits::TEXT_PIECE_BYTES_MAX;

/// A token with the name that is looked for.
pub(crate) struct Name {
    pub id: u32,
    pub text: String,
    pub special: bool,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
}

/// The names of one tokenizer that are looked for at one time: before the normalizer, or after it.
pub(crate) struct Names {
    names: Vec<Name>,
    search: Option<AhoCorasick>,
    /// Bytes of the longest name.
    longest: usize,
    /// Whether a character is part of a word; for `single_word`.
    word: Option<Regex>,
}

/// A part of a text.
pub(crate) enum Part {
    /// No added token.
    Text(Range<usize>),
    /// One.
    Token(u32),
}

/// What becomes of a name that was found.
enum Verdict<'a> {
    Token(&'a Name),
    /// No token; the search goes on at this place.
    Continue(usize),
}

impl Names {
    /// # Errors
    /// [`crate::error::Status::Format`] when there are too many or too long ones to be searched for.
    pub(crate) fn new(names: Vec<Name>) -> Result<Names> {
        let unusable = |e| Error::format(format!("the names of `added_tokens` cannot be searched for: {e}"));
        let search = match names.is_empty() {
            true => None,
            false => {
                let builder =
                    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(names.iter().map(|n| &n.text));
                Some(builder.map_err(unusable)?)
            }
        };
        let word = match names.iter().any(|n| n.single_word) {
            true => Some(Regex::new(r"^\w$").map_err(|e| Error::internal(e.to_string()))?),
            false => None,
        };
        let longest = names.iter().map(|n| n.text.len()).max().unwrap_or(0);
        Ok(Names { names, search, longest, word })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Name> {
        self.names.iter()
    }

    /// Tells of every part of `text`, in order. `content`: sorted ranges in which special tokens have no names.
    pub(crate) fn split(
        &self,
        text: &str,
        content: &[Range<usize>],
        out: &mut Output,
        mut visit: impl FnMut(Part, &mut Output) -> Result<()>,
    ) -> Result<()> {
        let (mut at, mut told) = (0, 0);
        while let Some((index, found)) = self.find(text, at, out)? {
            let name = match self.verdict(text, index, &found, content) {
                Verdict::Token(name) => name,
                Verdict::Continue(from) => {
                    at = from;
                    continue;
                }
            };
            // `told` is the end of the token before, which may have taken the spaces that this one could take.
            let end = found.start + name.text.len();
            let (mut start, mut stop) = (found.start, end);
            if name.lstrip {
                start = text[..start].trim_end_matches(char::is_whitespace).len().max(told);
            }
            if name.rstrip {
                stop = text.len() - text[stop..].trim_start_matches(char::is_whitespace).len();
            }
            if told < start {
                visit(Part::Text(told..start), out)?;
            }
            visit(Part::Token(name.id), out)?;
            (told, at) = (stop, end);
        }
        if told < text.len() {
            visit(Part::Text(told..text.len()), out)?;
        }
        Ok(())
    }

    /// The next name from `at` on, by its index.
    fn find(&self, text: &str, mut at: usize, out: &mut Output) -> Result<Option<(usize, Range<usize>)>> {
        let Some(search) = &self.search else { return Ok(None) };
        while at < text.len() {
            // A name that begins before `certain` lies within the window with all that could be longer.
            let certain = at.saturating_add(TEXT_PIECE_BYTES_MAX).min(text.len());
            let end = certain.saturating_add(self.longest).min(text.len());
            let found = search.find(Input::new(text).range(at..end)).filter(|m| m.start() < certain);
            if let Some(m) = found {
                return Ok(Some((m.pattern().as_usize(), m.range())));
            }
            at = certain;
            out.check()?;
        }
        Ok(None)
    }

    fn verdict(&self, text: &str, index: usize, found: &Range<usize>, content: &[Range<usize>]) -> Verdict<'_> {
        let Some(name) = self.names.get(index) else { return Verdict::Continue(found.end) };
        if name.special && touches(content, found) {
            // All of it content: ordinary text, like any other.
            if content.iter().any(|c| c.start <= found.start && found.end <= c.end) {
                return Verdict::Continue(found.end);
            }
            let shorter = |n: &&Name| {
                n.text.len() < name.text.len()
                    && name.text.starts_with(&n.text)
                    && !(n.special && touches(content, &(found.start..found.start + n.text.len())))
                    && self.stands_alone(text, n, found.start)
            };
            return match self.names.iter().filter(shorter).max_by_key(|n| n.text.len()) {
                Some(name) => Verdict::Token(name),
                None => Verdict::Continue(found.start + name.text.chars().next().map_or(1, char::len_utf8)),
            };
        }
        if self.stands_alone(text, name, found.start) { Verdict::Token(name) } else { Verdict::Continue(found.end) }
    }

    /// False for a name that must be a word of its own and is not.
    fn stands_alone(&self, text: &str, name: &Name, start: usize) -> bool {
        let (true, Some(word)) = (name.single_word, &self.word) else { return true };
        let is_word = |c: Option<char>| c.is_some_and(|c| word.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false));
        let after = text.get(start + name.text.len()..).unwrap_or_default();
        !is_word(text[..start].chars().next_back()) && !is_word(after.chars().next())
    }
}

/// Whether a range has something of the content in it.
pub(crate) fn touches(content: &[Range<usize>], range: &Range<usize>) -> bool {
    let next = content.partition_point(|c| c.end <= range.start);
    content.get(next).is_some_and(|c| c.start < range.end)
}

/// The part of the content within a range, by its distance from the range's start.
///
/// # Errors
/// [`crate::error::Status::Memory`].
pub(crate) fn within(content: &[Range<usize>], range: &Range<usize>) -> Result<Vec<Range<usize>>> {
    let first = content.partition_point(|c| c.end <= range.start);
    let end = content.partition_point(|c| c.start < range.end);
    let parts = content.get(first..end).unwrap_or_default();
    let mut inside = crate::error::reserved("the parts of a prompt", parts.len())?;
    inside.extend(parts.iter().map(|c| c.start.max(range.start) - range.start..c.end.min(range.end) - range.start));
    Ok(inside)
}
