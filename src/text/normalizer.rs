//! The `normalizer` of a tokenizer file: its steps one after another, with a look at the length after each.
//!
//! A long text is normalized in pieces that give what the whole gives. The crate's steps keep some fifty bytes for each byte
//! of text, so pieces are also what bounds the memory. A cut between two characters is safe when no step does anything
//! across it, which [`Changes::is_safe_cut`] finds out by following both characters through the steps:
//!
//! - the right one is printable ASCII, a kana or a CJK ideograph: a starter that combines with nothing before it, and the
//!   beginning of a grapheme (Unicode normalization, `Precompiled`);
//! - a `Replace` whose pattern cannot match both characters matches nothing across the cut;
//! - `Prepend` and the ends of `Strip` belong to the first and the last piece; `Strip` needs something else than a space
//!   left of the cut.
//!
//! Where that proves nothing (look-around in a `Replace`, text without such a place) the piece is longer, up to
//! [`TEXT_PIECE_BYTES_MAX`], and a longer one is refused.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use fancy_regex::{Expr, Regex};
use serde_json::Value;
use tokenizers::normalizer::Range as TextRange;
use tokenizers::normalizers::{NormalizerWrapper, Strip};
use tokenizers::pattern::Pattern;
use tokenizers::{NormalizedString, Normalizer, Offsets};

use super::added::touches;
use super::alphabet;
use super::expression::{Effort, Expression, SearchEvent};
use super::output::Output;
use super::{ceil_boundary, floor_boundary};
use crate::error::{Error, Result, Unit};
use crate::limits::*;
use crate::os::shortage;

/// The `normalizer` of a file, its sequences laid flat.
#[derive(Clone)]
pub(crate) struct Changes {
    steps: Arc<[Change]>,
}

enum Change {
    /// Writes the text in the byte-level alphabet.
    ByteLevel,
    Prepend(String),
    Replace(Replace),
    Strip(Strip),
    /// A step of the crate that changes characters one by one, or together with the marks that follow them.
    Characters(NormalizerWrapper),
    /// Unicode normalization.
    Unicode(NormalizerWrapper),
}

/// Takes what expressions have read, as [`SearchEvent::Read`].
type Searched<'a> = dyn FnMut(usize) -> Result<()> + 'a;

/// A piece of a text: whether it is its beginning and its end.
#[derive(Clone, Copy)]
struct SectionEnds {
    first: bool,
    last: bool,
}

/// A normalized text.
#[derive(Default)]
pub(crate) struct Normalized {
    pub text: String,
    /// The first character stands for the first one of the text as it was.
    pub from_start: bool,
    /// What was content, if that was asked for.
    pub content: Vec<Range<usize>>,
}

impl Changes {
    /// # Errors
    /// [`crate::error::Status::Format`] for what cannot be used, or too much of it.
    pub(crate) fn new(read: NormalizerWrapper) -> Result<Changes> {
        let mut steps = Vec::new();
        add(read, &mut steps)?;
        Ok(Changes { steps: steps.into() })
    }

    /// Steps that write in the byte-level alphabet.
    pub(crate) fn byte_levels(&self) -> usize {
        self.steps.iter().filter(|s| matches!(s, Change::ByteLevel)).count()
    }

    /// Memory of its expressions, in bytes at most.
    pub(crate) fn search_bytes(&self) -> usize {
        let expressions = self.steps.iter().filter_map(|step| match step {
            Change::Replace(step) => Some(&step.expression),
            _ => None,
        });
        expressions.map(Expression::search_bytes).sum()
    }

    /// How many times shorter a text can become; none when there is no such number.
    pub(crate) fn shrinks(&self) -> Option<usize> {
        self.steps.iter().try_fold(1usize, |product, step| {
            let factor = match step {
                Change::ByteLevel | Change::Prepend(_) => 1,
                Change::Replace(step) => step.shrinks()?,
                // U+212A, the Kelvin sign, becomes one byte of three; a mathematical letter one of four, and marks may
                // join a letter. Eight is more than any of them.
                Change::Unicode(_) => 8,
                Change::Characters(NormalizerWrapper::Lowercase(_)) => 4,
                Change::Strip(_) | Change::Characters(_) => return None,
            };
            product.checked_mul(factor)
        })
    }

    /// Normalizes a part of a text that has no added token; `with_content`: says what was content, too.
    pub(crate) fn normalize_text(
        &self,
        text: &str,
        content: &[Range<usize>],
        with_content: bool,
        out: &mut Output,
    ) -> Result<Normalized> {
        let mut normalized = Normalized::default();
        let mut start = 0;
        while start < text.len() {
            let end = self.cut(text, start)?;
            let place = SectionEnds { first: start == 0, last: end == text.len() };
            let mut run = || {
                let mut piece = NormalizedString::from(&text[start..end]);
                self.run(&mut piece, place, &mut |read| out.searched(read)).map(|()| piece)
            };
            let piece = match end - start {
                usual if usual <= ENCODE_PIECE_BYTES => run()?,
                // What an encoding is estimated to take is not for such a piece.
                long => shortage::backed("a normalized text", long.saturating_mul(PIECE_MEMORY_FACTOR), run)??,
            };
            if start == 0 {
                let begin = piece.get().chars().next().map_or(0, char::len_utf8);
                let slice = piece.slice(TextRange::Normalized(0..begin));
                normalized.from_start = slice.is_some_and(|s| s.offsets_original().0 == 0);
            }
            if with_content {
                mark_content(&piece, start, content, &mut normalized)?;
            }
            append(&mut normalized.text, piece.get())?;
            out.worked(end - start)?;
            start = end;
        }
        Ok(normalized)
    }

    /// Where the piece that begins at `start` ends.
    fn cut(&self, text: &str, start: usize) -> Result<usize> {
        let rest = text.len() - start;
        if rest <= 2 * TEXT_PIECE_BYTES {
            return Ok(text.len());
        }
        let from = ceil_boundary(text, start + TEXT_PIECE_BYTES);
        let until = floor_boundary(text, start + TEXT_PIECE_BYTES_MAX.min(rest));
        let mut before = None;
        let mut left = text[start..from].chars().next_back().unwrap_or(' ');
        for (at, right) in text[from..until].char_indices() {
            let after = text[from + at + right.len_utf8()..].chars().next();
            if self.is_safe_cut(before, left, right, after) {
                return Ok(from + at);
            }
            (before, left) = (Some(left), right);
        }
        if rest <= TEXT_PIECE_BYTES_MAX {
            return Ok(text.len());
        }
        let message = format!(
            "the text has {TEXT_PIECE_BYTES_MAX} bytes in a row that the tokenizer's normalizer must see at once; put spaces into it"
        );
        Err(Error::unsupported(message).numbers(Unit::Bytes, rest as u64, TEXT_PIECE_BYTES_MAX as u64))
    }

    /// Whether the text can be cut between `left` and `right`, which stand between `before` and `after`.
    fn is_safe_cut(&self, before: Option<char>, left: char, right: char, after: Option<char>) -> bool {
        let printable = |c: char| matches!(c, ' '..='~');
        if !begins_anew(right) || !ends_alone(left) {
            return false;
        }
        // With other ASCII around them, both are graphemes of their own and no mark follows them.
        let alone = [before, Some(left), Some(right), after].iter().all(|c| c.is_some_and(printable));
        let mut edge = alone.then_some((left, right));
        self.steps.iter().all(|step| step.is_safe_cut(&mut edge))
    }

    fn run(&self, text: &mut NormalizedString, place: SectionEnds, searched: &mut Searched) -> Result<()> {
        let most = text.get().len().saturating_mul(NORMALIZER_GROWTH_MAX).saturating_add(NORMALIZED_BYTES_FREE);
        for step in self.steps.iter() {
            step.run(text, place, most, searched)?;
            check_length(text.get().len(), most)?;
        }
        Ok(())
    }
}

/// For the names of added tokens.
impl Normalizer for Changes {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let mut effort = Effort::new(text.get().len(), SEARCH_EFFORT_FREE);
        Ok(self.run(text, SectionEnds { first: true, last: true }, &mut |read| effort.add(read))?)
    }
}

fn check_length(bytes: usize, most: usize) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    let message = format!(
        "the tokenizer's `normalizer` makes {bytes} bytes of a piece of text where at most {most} are supported; its steps are not \
         those of a language model"
    );
    Err(Error::format(message).numbers(Unit::Bytes, bytes as u64, most as u64))
}

fn append(text: &mut String, piece: &str) -> Result<()> {
    let bytes = text.len().saturating_add(piece.len());
    if bytes > NORMALIZED_BYTES_MAX {
        let message = format!("the normalized text has more than {NORMALIZED_BYTES_MAX} bytes; shorten it");
        return Err(Error::argument(message).numbers(Unit::Bytes, bytes as u64, NORMALIZED_BYTES_MAX as u64));
    }
    text.try_reserve(piece.len()).map_err(|_| Error::memory("the normalized text", bytes as u64))?;
    text.push_str(piece);
    Ok(())
}

/// Adds the ranges of a normalized piece that stand for content; the piece began at `start` of the text.
fn mark_content(
    piece: &NormalizedString,
    start: usize,
    content: &[Range<usize>],
    normalized: &mut Normalized,
) -> Result<()> {
    let base = normalized.text.len();
    for (at, c) in piece.get().char_indices() {
        let range = at..at + c.len_utf8();
        let Some(origin) = piece.convert_offsets(TextRange::Normalized(range.clone())) else { continue };
        if !touches(content, &(start + origin.start..start + origin.end.max(origin.start + 1))) {
            continue;
        }
        match normalized.content.last_mut() {
            Some(last) if last.end == base + range.start => last.end = base + range.end,
            _ => {
                let bytes = size_of_val(normalized.content.as_slice());
                normalized.content.try_reserve(1).map_err(|_| Error::memory("the parts of a prompt", bytes as u64))?;
                normalized.content.push(base + range.start..base + range.end);
            }
        }
    }
    Ok(())
}

/// Whether a character is a starter that nothing before it combines with, and begins a grapheme after most others.
fn begins_anew(c: char) -> bool {
    matches!(c, ' '..='~' | '\n' | '\u{3001}' | '\u{3002}' | '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}' | '\u{4E00}'..='\u{9FFF}')
}

/// Whether a character holds nothing that follows: no CR before LF, no Hangul letter, no sign of the kind "prepend".
fn ends_alone(c: char) -> bool {
    !matches!(
        c,
        '\r' | '\u{200D}' | '\u{600}'..='\u{605}' | '\u{6DD}' | '\u{70F}' | '\u{890}'..='\u{891}' | '\u{8E2}' | '\u{D4E}'
            | '\u{1100}'..='\u{11FF}' | '\u{A960}'..='\u{A97F}' | '\u{110BD}' | '\u{110CD}' | '\u{111C2}'..='\u{111C3}'
            | '\u{1193F}' | '\u{11941}' | '\u{11A3A}' | '\u{11A84}'..='\u{11A89}' | '\u{11D46}' | '\u{11F02}'
            | '\u{1F1E6}'..='\u{1F1FF}'
    )
}

fn add(read: NormalizerWrapper, steps: &mut Vec<Change>) -> Result<()> {
    if steps.len() >= TOKENIZER_STEPS_MAX {
        return Err(Error::format(format!("its `normalizer` has more than {TOKENIZER_STEPS_MAX} steps")));
    }
    steps.push(match read {
        NormalizerWrapper::Sequence(sequence) => return sequence.into_iter().try_for_each(|part| add(part, steps)),
        NormalizerWrapper::ByteLevel(_) => Change::ByteLevel,
        NormalizerWrapper::Prepend(step) => Change::Prepend(step.prepend),
        NormalizerWrapper::StripNormalizer(step) => Change::Strip(step),
        NormalizerWrapper::Replace(step) => {
            let file = serde_json::to_value(&step).map_err(|e| Error::format(e.to_string()))?;
            Change::Replace(Replace::new(&file, "normalizer", BACKTRACKS_MAX)?)
        }
        NormalizerWrapper::NFC(_)
        | NormalizerWrapper::NFD(_)
        | NormalizerWrapper::NFKC(_)
        | NormalizerWrapper::NFKD(_) => Change::Unicode(read),
        NormalizerWrapper::Precompiled(_) => {
            check_table(&read)?;
            Change::Characters(read)
        }
        other => Change::Characters(other),
    });
    Ok(())
}

impl Change {
    fn run(&self, text: &mut NormalizedString, place: SectionEnds, most: usize, searched: &mut Searched) -> Result<()> {
        let failed = |e: tokenizers::Error| match e.downcast::<Error>() {
            Ok(own) => *own,
            Err(e) => Error::format(format!("the tokenizer's `normalizer` failed: {e}")),
        };
        match self {
            Change::ByteLevel if text.is_empty() => Ok(()),
            Change::ByteLevel => {
                alphabet::spell(text);
                Ok(())
            }
            Change::Prepend(prefix) => {
                if place.first && !text.is_empty() {
                    check_length(text.get().len().saturating_add(prefix.len()), most)?;
                    text.prepend(prefix);
                }
                Ok(())
            }
            Change::Replace(step) => {
                let bounded = Bounded { step, most, searched: RefCell::new(searched) };
                text.replace(bounded, &step.content).map_err(failed)
            }
            Change::Strip(step) => {
                let step = Strip::new(step.strip_left && place.first, step.strip_right && place.last);
                step.normalize(text).map_err(failed)
            }
            Change::Characters(step) | Change::Unicode(step) => step.normalize(text).map_err(failed),
        }
    }

    /// Whether the step does nothing across a cut between the two characters, which become what it makes of them. `None`:
    /// two that are there but not known.
    fn is_safe_cut(&self, edge: &mut Option<(char, char)>) -> bool {
        match (self, *edge) {
            (Change::Prepend(_), _) => true,
            (Change::ByteLevel, None) => true,
            (Change::ByteLevel, Some((left, right))) => {
                let last = left.to_string().bytes().next_back().map(alphabet::letter);
                *edge = last.zip(right.to_string().bytes().next().map(alphabet::letter));
                true
            }
            (Change::Strip(_), Some((left, _))) => !left.is_whitespace(),
            (Change::Replace(step), _) => step.is_safe_cut(edge),
            (Change::Unicode(_), None) => true,
            (Change::Characters(NormalizerWrapper::Lowercase(_)), None) => true,
            (Change::Characters(step) | Change::Unicode(step), Some((left, right)))
                if left.is_ascii() && right.is_ascii() =>
            {
                *edge = image(step, left)
                    .and_then(|s| s.chars().next_back())
                    .zip(image(step, right).and_then(|s| s.chars().next()));
                edge.is_some()
            }
            (Change::Strip(_) | Change::Characters(_) | Change::Unicode(_), _) => false,
        }
    }
}

/// What a step makes of one character.
fn image(step: &NormalizerWrapper, c: char) -> Option<String> {
    let mut text = NormalizedString::from(c.to_string());
    step.normalize(&mut text).ok()?;
    Some(text.get().to_owned())
}

/// `Replace` of a normalizer, or of a decoder.
pub(crate) struct Replace {
    expression: Expression,
    pub(crate) content: String,
    /// The pattern is a text of so many bytes.
    literal: Option<usize>,
    /// The pattern is this one character.
    single: Option<char>,
    /// What a match can be made of; none when that is not known.
    characters: Option<Vec<Regex>>,
}

impl Replace {
    /// Reads the step as the file has it. `backtracks`: what a match may cost where its expression backtracks.
    pub(crate) fn new(file: &Value, part: &str, backtracks: usize) -> Result<Replace> {
        let field = |name: &str| file["pattern"][name].as_str();
        let content = file["content"].as_str().unwrap_or_default().to_owned();
        let (expression, pattern) = match (field("String"), field("Regex")) {
            (Some(text), _) => (Expression::literal(text, part)?, fancy_regex::escape(text).into_owned()),
            (None, Some(pattern)) => (Expression::limited(pattern, part, backtracks)?, pattern.to_owned()),
            (None, None) => return Err(Error::format(format!("a `Replace` of its `{part}` has no pattern"))),
        };
        let single = field("String").and_then(|text| {
            let mut characters = text.chars();
            characters.next().filter(|_| characters.next().is_none())
        });
        let mut leaves = Vec::new();
        let tree = Expr::parse_tree(&pattern).ok();
        let known = tree.is_some_and(|t| add_leaves(&t.expr, &mut leaves)) && !expression.may_be_empty();
        let literal = field("String").map(str::len);
        Ok(Replace { expression, content, literal, single, characters: known.then_some(leaves) })
    }

    /// As [`Changes::shrinks`].
    fn shrinks(&self) -> Option<usize> {
        let literal = self.literal?;
        if self.content.is_empty() { None } else { Some(literal.div_ceil(self.content.len()).max(1)) }
    }

    /// How many times longer a text can become.
    pub(crate) fn grows(&self) -> usize {
        let shortest = self.literal.filter(|&bytes| bytes > 0);
        match (shortest, self.expression.may_be_empty()) {
            (Some(bytes), _) => self.content.len().div_ceil(bytes).max(1),
            // At least a byte each.
            (None, false) => self.content.len().max(1),
            (None, true) => self.content.len().saturating_add(1),
        }
    }

    /// Appends to `out` the text with every match replaced, if that has at most `most` bytes. In memory that `out` has, but for
    /// patterns that are regular expressions.
    pub(crate) fn replace_into(&self, text: &str, most: usize, out: &mut String) -> Result<()> {
        let before = out.len();
        let mut done = 0;
        let mut effort = Effort::new(text.len(), DECODER_EFFORT_FREE);
        self.expression.each(text, &mut |found| {
            let found = match found {
                SearchEvent::Match(found) => found,
                SearchEvent::Read(read) => return effort.add(read),
            };
            out.push_str(&text[done..found.start]);
            check_decoded((out.len() - before).saturating_add(self.content.len()), most)?;
            out.push_str(&self.content);
            done = found.end;
            Ok(())
        })?;
        out.push_str(&text[done..]);
        check_decoded(out.len() - before, most)
    }

    /// The text with every match replaced, for a decoder that sees all of it.
    pub(crate) fn replaced(&self, text: &str) -> Result<String> {
        let mut replaced = String::new();
        self.replace_into(text, DECODED_BYTES_MAX, &mut replaced)?;
        Ok(replaced)
    }

    fn may_match(&self, c: char) -> bool {
        let mut buffer = [0; 4];
        let c = &*c.encode_utf8(&mut buffer);
        self.characters.as_ref().is_none_or(|leaves| leaves.iter().any(|leaf| leaf.is_match(c).unwrap_or(true)))
    }

    /// As [`Change::is_safe_cut`].
    fn is_safe_cut(&self, edge: &mut Option<(char, char)>) -> bool {
        if let Some(single) = self.single {
            if let Some((left, right)) = *edge {
                let after = |c: char, new: Option<char>| if c == single { new } else { Some(c) };
                *edge = after(left, self.content.chars().next_back()).zip(after(right, self.content.chars().next()));
                return edge.is_some();
            }
            // It may vanish, and what was not at the edge is there now: still one character at a time.
            return !self.content.is_empty();
        }
        let Some((left, right)) = *edge else { return false };
        if self.characters.is_none() || (self.may_match(left) && self.may_match(right)) {
            return false;
        }
        if self.may_match(left) || self.may_match(right) {
            *edge = None;
            return !self.content.is_empty();
        }
        true
    }
}

/// Limits a decoder's text.
pub(crate) fn check_decoded(bytes: usize, most: usize) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    let message = format!(
        "the tokenizer's `decoder` makes {bytes} bytes of text at once where at most {most} are supported; its steps are not those \
         of a language model"
    );
    Err(Error::format(message).numbers(Unit::Bytes, bytes as u64, most as u64))
}

/// Adds what single characters an expression consists of; false when it looks at more than it matches.
fn add_leaves(expr: &Expr, leaves: &mut Vec<Regex>) -> bool {
    let mut leaf = |pattern: &str| Regex::new(pattern).map(|regex| leaves.push(regex)).is_ok();
    match expr {
        Expr::Empty => true,
        Expr::Any { .. } => leaf("(?s:.)"),
        Expr::Literal { val, casei } => val.chars().all(|c| {
            let c = c.to_string();
            let c = fancy_regex::escape(&c);
            leaf(&if *casei { format!("(?i:{c})") } else { c.into_owned() })
        }),
        Expr::Delegate { inner, casei, .. } => leaf(&if *casei { format!("(?i:{inner})") } else { inner.clone() }),
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().all(|part| add_leaves(part, leaves)),
        Expr::Group(inner) => add_leaves(inner, leaves),
        Expr::Repeat { child, .. } => add_leaves(child, leaves),
        _ => false,
    }
}

/// The matches of a `Replace` whose result stays within a length.
struct Bounded<'a, 'b> {
    step: &'a Replace,
    most: usize,
    searched: RefCell<&'a mut Searched<'b>>,
}

impl Pattern for Bounded<'_, '_> {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        let mut parts = Vec::new();
        let (mut done, mut length) = (0, inside.len());
        self.step.expression.each(inside, &mut |found| {
            let found = match found {
                SearchEvent::Match(found) => found,
                SearchEvent::Read(read) => return (self.searched.borrow_mut())(read),
            };
            if done < found.start {
                parts.push(((done, found.start), false));
            }
            length = length.saturating_sub(found.len()).saturating_add(self.step.content.len());
            check_length(length, self.most.saturating_add(inside.len()))?;
            parts.push(((found.start, found.end), true));
            done = found.end;
            Ok(())
        })?;
        if done < inside.len() {
            parts.push(((done, inside.len()), false));
        }
        Ok(parts)
    }
}

/// Refuses a table of `Precompiled` that replaces a character by very much.
fn check_table(step: &NormalizerWrapper) -> Result<()> {
    let file = serde_json::to_value(step).map_err(|e| Error::format(e.to_string()))?;
    let table = base64(file["precompiled_charsmap"].as_str().unwrap_or_default());
    // After the trie, whose length comes first, the replacements stand with a zero after each.
    let trie = table.first_chunk::<4>().map_or(0, |n| u32::from_le_bytes(*n) as usize);
    let texts = table.get(trie.saturating_add(4)..).unwrap_or_default();
    let longest = texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest <= CHARACTER_REPLACEMENT_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "its `normalizer` replaces a character by {longest} bytes; at most {CHARACTER_REPLACEMENT_BYTES_MAX} are supported"
    );
    Err(Error::format(message).numbers(Unit::Bytes, longest as u64, CHARACTER_REPLACEMENT_BYTES_MAX as u64))
}

/// The bytes of a text in base64, which was read as such before.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        (bits, held) = ((bits << 6) | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}
