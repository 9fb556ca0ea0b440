//! Words of any length, encoded in pieces that give the very tokens of the whole.
//!
//! Text without spaces, and all text of tokenizers that have no pre-tokenizer, is one word to the vocabulary. The crate takes
//! more than a hundred bytes for each byte of it, and cannot be stopped.
//!
//! **BPE** ([`LongWords::windows`]). A token sequence is the encoding of its text if and only if each two neighbours are the encoding of
//! theirs: merges are applied in the order of (rank, position), and the first one that would cross a border between two tokens
//! would be applied in the encoding of these two alone as well. So a word is encoded in windows that overlap: the next window
//! begins where a token of this one does, and when its first token is the same one, the two are joined there. Every two
//! neighbours then stand side by side in some window. The characters at the joint must be in the vocabulary, since unknown ones
//! may be fused into one symbol, and windows are longer than any name, for files that take whole words from the vocabulary
//! (`ignore_merges`).
//!
//! **Unigram** ([`BestPath`]). The best segmentation is found from left to right with the crate's own arithmetic, in its order
//! (sums of scores differ in their last bits with the order, and runs of one character have many equal segmentations). What all
//! open paths agree on is final, and is let go.
//!
//! **WordPiece** and **WordLevel** give an unknown or a known token for the whole word; a word that WordPiece would search for
//! long is refused.

use std::collections::BTreeSet;

use tokenizers::models::ModelWrapper;
use tokenizers::models::unigram::Unigram;
use tokenizers::{Model as _, Token};

use super::output::Output;
use super::vocabulary::no_tokens;
use crate::error::{Error, Result, Unit};
use crate::limits::{PIECE_MEMORY_FACTOR, WORD_BYTES, WORD_BYTES_MAX};
use crate::os::shortage;

/// Takes the tokens of a part of a word, whose offsets are in that part.
type Emit<'a> = dyn FnMut(&str, Vec<Token>, &mut Output) -> Result<()> + 'a;

/// What cutting a vocabulary's long words needs to know.
pub(super) struct LongWords {
    /// Bytes of the longest name.
    longest: usize,
    /// BPE whose symbols are the characters of the word, nothing else.
    plain: bool,
    /// BPE: characters that have no token leave no trace.
    drops_unknown: bool,
    /// Unigram: the unknown token.
    unknown: Option<u32>,
    /// Unigram: its names.
    scores: Scores,
}

/// The names of a vocabulary with what they are worth, in the order of their bytes. Made when the tokenizer is opened: no text
/// is estimated to take what a vocabulary does.
#[derive(Default)]
struct Scores {
    /// One behind the other.
    names: String,
    sorted: Vec<Scored>,
    longest: usize,
}

struct Scored {
    /// Where the name stands in all of them, and its length.
    place: u32,
    bytes: u32,
    id: u32,
    score: f64,
}

impl Scores {
    /// # Errors
    /// [`crate::error::Status::Memory`]; [`crate::error::Status::Format`] for more than 4 GiB of names.
    fn new(unigram: &Unigram) -> Result<Scores> {
        let named = unigram.iter().enumerate().filter_map(|(at, (name, score))| {
            let id = unigram.token_to_id(name)?;
            // Of a name that is there twice, the last one counts.
            (usize::try_from(id) == Ok(at) && !name.is_empty()).then_some((name.as_str(), *score, id))
        });
        let (count, bytes) =
            unigram.iter().fold((0, 0usize), |(count, bytes), (name, _)| (count + 1, bytes + name.len()));
        let mut names = String::new();
        names.try_reserve_exact(bytes).map_err(|_| Error::memory("the names of tokens", bytes as u64))?;
        let mut sorted: Vec<Scored> = crate::error::reserved("the names of tokens", count)?;
        for (name, score, id) in named {
            let place = u32::try_from(names.len()).ok().zip(u32::try_from(name.len()).ok());
            let too_many = || Error::format("the names of its tokens are longer than 4 GiB");
            let (place, bytes) = place.ok_or_else(too_many)?;
            names.push_str(name);
            sorted.push(Scored { place, bytes, id, score });
        }
        sorted.sort_unstable_by(|a, b| a.name(&names).cmp(b.name(&names)));
        let longest = sorted.iter().map(|s| s.bytes as usize).max().unwrap_or(0);
        Ok(Scores { names, sorted, longest })
    }
}

impl Scored {
    /// In the bytes of all names.
    fn name<'a>(&self, names: &'a str) -> &'a [u8] {
        let from = self.place as usize;
        names.as_bytes().get(from..from + self.bytes as usize).unwrap_or_default()
    }
}

impl LongWords {
    /// # Errors
    /// [`crate::error::Status::Memory`].
    pub(super) fn new(
        model: &ModelWrapper,
        longest: usize,
        unique_ids: bool,
        unknown: Option<u32>,
    ) -> Result<LongWords> {
        let (mut plain, mut drops_unknown) = (false, false);
        if let ModelWrapper::BPE(bpe) = model {
            let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|affix| !affix.is_empty());
            plain = unique_ids && !affix(&bpe.continuing_subword_prefix) && !affix(&bpe.end_of_word_suffix);
            drops_unknown = bpe.unk_token.is_none();
        }
        let scores = match model {
            ModelWrapper::Unigram(unigram) if unigram.alpha.is_none() => Scores::new(unigram)?,
            _ => Scores::default(),
        };
        Ok(LongWords { longest, plain, drops_unknown, unknown, scores })
    }

    /// Encodes a word longer than [`WORD_BYTES`].
    pub(super) fn encode(&self, model: &ModelWrapper, word: &str, out: &mut Output, emit: &mut Emit) -> Result<()> {
        match model {
            ModelWrapper::BPE(_) => {
                let known = |c: char| model.token_to_id(c.encode_utf8(&mut [0; 4])).is_some();
                if self.plain && (!self.drops_unknown || word.chars().all(known)) {
                    return self.windows(model, word, out, emit);
                }
            }
            ModelWrapper::Unigram(unigram) if unigram.alpha.is_none() => {
                return BestPath {
                    unigram,
                    scores: &self.scores,
                    unknown: self.unknown,
                    word,
                    nodes: vec![Node::default()],
                    base: 0,
                }
                .encode(out, emit);
            }
            ModelWrapper::Unigram(_) => {}
            ModelWrapper::WordLevel(_) => return whole(model, word, out, emit),
            ModelWrapper::WordPiece(pieces) => {
                if word.chars().count() > pieces.max_input_chars_per_word {
                    return whole(model, word, out, emit);
                }
                return Err(too_long(word.len(), WORD_BYTES));
            }
        }
        if word.len() > WORD_BYTES_MAX {
            return Err(too_long(word.len(), WORD_BYTES_MAX));
        }
        emit(word, at_once(model, word)?, out)?;
        out.worked(word.len())
    }

    /// BPE, in windows.
    fn windows(&self, model: &ModelWrapper, word: &str, out: &mut Output, emit: &mut Emit) -> Result<()> {
        let usual = WORD_BYTES.max(self.longest.saturating_mul(8));
        let known = |c: Option<char>| c.is_some_and(|c| model.token_to_id(c.encode_utf8(&mut [0; 4])).is_some());
        let window = |start: usize, size: usize| -> Result<(usize, Vec<Token>)> {
            // What is left after a window is never so short that the vocabulary could hold it.
            let end = start.saturating_add(size);
            let end = if end.saturating_add(self.longest) >= word.len() {
                word.len()
            } else {
                super::floor_boundary(word, end)
            };
            Ok((end, at_once(model, &word[start..end])?))
        };
        let (mut start, mut size) = (0, usual);
        let (mut end, mut tokens) = window(start, size)?;
        while end < word.len() {
            out.check()?;
            // Joints to try: beginnings of tokens in the middle of the window.
            let candidates = [0.75, 0.7, 0.6, 0.5].map(|part| (tokens.len() as f64 * part) as usize);
            let joint = |&at: &usize| {
                let offset = tokens.get(at).map(|t| t.offsets.0)?;
                let (left, right) = (word.get(start..start + offset)?, word.get(start + offset..)?);
                let good = at > 0 && offset > 0 && known(left.chars().next_back()) && known(right.chars().next());
                good.then_some((at, start + offset))
            };
            let mut joined = None;
            for (at, place) in candidates.iter().filter_map(joint) {
                let (next_end, next) = window(place, usual)?;
                let same =
                    |a: &Token, b: &Token| a.id == b.id && a.offsets.1 - a.offsets.0 == b.offsets.1 - b.offsets.0;
                if next.first().zip(tokens.get(at)).is_some_and(|(a, b)| same(a, b)) {
                    joined = Some((at, place, next_end, next));
                    break;
                }
            }
            match joined {
                Some((at, place, next_end, next)) => {
                    tokens.truncate(at);
                    emit(&word[start..place], std::mem::replace(&mut tokens, next), out)?;
                    (start, end, size) = (place, next_end, usual);
                }
                // A longer window decides; each at most twice the one before.
                None if size < WORD_BYTES_MAX => {
                    size *= 2;
                    (end, tokens) = window(start, size)?;
                }
                None => return Err(too_long(word.len() - start, WORD_BYTES_MAX)),
            }
        }
        emit(&word[start..], tokens, out)
    }
}

fn no_room(bytes: usize) -> Error {
    Error::memory("the tokens of a long word", bytes as u64)
}

fn too_long(bytes: usize, most: usize) -> Error {
    let message = format!(
        "the text has {bytes} bytes that are one word to the tokenizer and cannot be cut; at most {most} are supported: put spaces \
         into it"
    );
    Error::unsupported(message).numbers(Unit::Bytes, bytes as u64, most as u64)
}

/// The tokens of a word, or of a part of one, that the vocabulary gets at once. What an encoding is estimated to take is for
/// words of the usual length.
fn at_once(model: &ModelWrapper, word: &str) -> Result<Vec<Token>> {
    let tokens = || model.tokenize(word).map_err(no_tokens);
    match word.len() {
        ..=WORD_BYTES => tokens(),
        long => shortage::backed("the tokens of a long word", long.saturating_mul(PIECE_MEMORY_FACTOR), tokens)?,
    }
}

/// A word of which there is one token, known or not.
fn whole(model: &ModelWrapper, word: &str, out: &mut Output, emit: &mut Emit) -> Result<()> {
    let tokens = model.tokenize(word).map_err(no_tokens)?;
    emit(word, tokens, out)?;
    out.worked(word.len())
}

/// The best way to a place in the word, as the crate keeps it.
#[derive(Clone, Copy, Default)]
struct Node {
    /// None: an unknown character.
    id: Option<u32>,
    score: f64,
    /// Where the last token begins, plus one; 0: no way leads here.
    begins: usize,
}

/// Penalty of an unknown character beyond the worst score.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Unigram, from left to right.
struct BestPath<'a> {
    unigram: &'a Unigram,
    scores: &'a Scores,
    unknown: Option<u32>,
    word: &'a str,
    /// `nodes[i]` is the place `base + i`. What is before `base` is final, and out.
    nodes: Vec<Node>,
    base: usize,
}

impl BestPath<'_> {
    fn encode(mut self, out: &mut Output, emit: &mut Emit) -> Result<()> {
        let unknown_score = self.unigram.min_score - UNKNOWN_PENALTY;
        let reach = self.scores.longest.max(4);
        let word = self.word;
        let (mut at, mut next_flush) = (0, WORD_BYTES);
        while at < word.len() {
            let here = self.node(at).unwrap_or_default().score;
            let single = word[at..].chars().next().map_or(1, char::len_utf8);
            let mut has_single = false;
            let needed = at - self.base + reach.min(word.len() - at) + 1;
            if self.nodes.len() < needed {
                let more = needed - self.nodes.len();
                self.nodes.try_reserve(more).map_err(|_| no_room(needed * size_of::<Node>()))?;
                self.nodes.resize(needed, Node::default());
            }
            let (nodes, base) = (&mut self.nodes, self.base);
            let mut offer = |bytes: usize, id: Option<u32>, score: f64| {
                let score = score + here;
                match nodes.get_mut(at - base + bytes) {
                    Some(node) if node.begins == 0 || score > node.score => *node = Node { id, score, begins: at + 1 },
                    _ => {}
                }
            };
            prefixes(self.scores, &word.as_bytes()[at..], |s| {
                offer(s.bytes as usize, Some(s.id), s.score);
                has_single |= s.bytes as usize == single;
            });
            if !has_single {
                offer(single, None, unknown_score);
            }
            at += single;
            if at >= next_flush && at < word.len() {
                out.check()?;
                if let Some(agreed) = self.agreement(at) {
                    self.flush(agreed, out, emit)?;
                    self.nodes.drain(..agreed - self.base);
                    self.base = agreed;
                } else if at - self.base > WORD_BYTES_MAX {
                    return Err(too_long(word.len() - self.base, WORD_BYTES_MAX));
                }
                next_flush = at + WORD_BYTES;
            }
        }
        self.flush(word.len(), out, emit)
    }

    fn node(&self, place: usize) -> Option<Node> {
        self.nodes.get(place.checked_sub(self.base)?).copied()
    }

    /// Where the best last token before a place begins.
    fn begin(&self, place: usize) -> Option<usize> {
        self.node(place)?.begins.checked_sub(1)
    }

    /// An unknown character, or the unknown token by its own name.
    fn is_unknown(&self, node: &Node) -> bool {
        node.id.is_none() || node.id == self.unknown
    }

    /// A place that the best ways to `at` and to everywhere beyond go through, after a known token: unknown characters side by
    /// side become one token.
    fn agreement(&self, at: usize) -> Option<usize> {
        let reached = |&p: &usize| self.word.is_char_boundary(p) && self.begin(p).is_some();
        let mut open: BTreeSet<usize> = (at..self.base + self.nodes.len()).filter(reached).collect();
        // The one that is furthest goes back a token, until all are at one place.
        loop {
            let last = open.pop_last()?;
            if open.is_empty() && last <= at {
                let known = self.node(last).is_some_and(|node| !self.is_unknown(&node));
                if last > self.base && known {
                    return Some(last);
                }
            }
            open.insert(self.begin(last).filter(|&b| b >= self.base)?);
        }
    }

    /// Emits the tokens from `base` to `end`.
    fn flush(&self, end: usize, out: &mut Output, emit: &mut Emit) -> Result<()> {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        let (mut place, mut fuses) = (end, false);
        while place > self.base {
            let Some((node, begin)) = self.node(place).zip(self.begin(place)) else {
                return Err(Error::internal("a word has no segmentation"));
            };
            let is_unknown = self.is_unknown(&node);
            match parts.last_mut() {
                Some(last) if is_unknown && fuses => last.0 = begin,
                _ => {
                    parts.try_reserve(1).map_err(|_| no_room(size_of_val(parts.as_slice())))?;
                    parts.push((begin, place));
                }
            }
            (place, fuses) = (begin, is_unknown);
        }
        let mut tokens: Vec<Token> = crate::error::reserved("the tokens of a long word", parts.len())?;
        for (from, to) in parts.into_iter().rev() {
            let text = &self.word[from..to];
            let mut add = |id| tokens.push(Token::new(id, String::new(), (from - self.base, to - self.base)));
            match (self.unigram.token_to_id(text), bytes_of(self.unigram, text), self.unknown) {
                (Some(id), ..) => add(id),
                (None, Some(ids), _) => ids.into_iter().for_each(add),
                (None, None, Some(id)) => add(id),
                (None, None, None) => return Err(no_tokens("an unknown character, and `unk_id` is missing".into())),
            }
        }
        emit(&self.word[self.base..end], tokens, out)?;
        out.worked(end - self.base)
    }
}

/// Calls `found` for every name that `bytes` begin with, the shortest first.
fn prefixes(scores: &Scores, bytes: &[u8], mut found: impl FnMut(&Scored)) {
    let mut rest = scores.sorted.as_slice();
    for (depth, byte) in bytes.iter().enumerate() {
        // Of those that share the first `depth` bytes: those with this one next.
        let of = |s: &Scored| s.name(&scores.names).get(depth).copied();
        let from = rest.partition_point(|s| of(s).is_none_or(|b| b < *byte));
        let until = rest.partition_point(|s| of(s).is_none_or(|b| b <= *byte));
        rest = &rest[from..until];
        match rest.first() {
            Some(s) if s.bytes as usize == depth + 1 => found(s),
            Some(_) => {}
            None => return,
        }
    }
}

/// The byte tokens of a text, if the vocabulary uses them and has all.
fn bytes_of(unigram: &Unigram, text: &str) -> Option<Vec<u32>> {
    if !unigram.byte_fallback() {
        return None;
    }
    text.bytes().map(|byte| unigram.token_to_id(&format!("<0x{byte:02X}>"))).collect()
}
