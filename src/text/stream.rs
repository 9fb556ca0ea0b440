//! The text of a request while its tokens come in.
//!
//! Invariant: all that [`TextStream::push`] and [`TextStream::finish`] append is what [`Tokenizer::decode`] makes of
//! the same ids, and every piece is whole UTF-8. The state is that of the decoder's stages: an unfinished character
//! (three bytes at most) and a few counters; a genuine U+FFFD passes like any other character.

use std::sync::Arc;

use super::decoder::{Chain, Memory};
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Incremental detokenizer of one request.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    keep_special: bool,
    /// Special tokens that have text all the same, in ascending order.
    kept: Arc<[u32]>,
    memory: Vec<Memory>,
}

impl TextStream {
    /// A stream before its first token. Special tokens give text only with `keep_special`.
    pub fn new(tokenizer: Arc<Tokenizer>, keep_special: bool) -> TextStream {
        let memory = tokenizer.chain().memory();
        TextStream { tokenizer, keep_special, kept: Arc::default(), memory }
    }

    /// A stream in which also these special tokens have text. `ids` are in ascending order.
    pub fn keeping(self, ids: Arc<[u32]>) -> TextStream {
        TextStream { kept: ids, ..self }
    }

    /// Whether a token is one of those of [`TextStream::keeping`].
    pub fn keeps(&self, id: u32) -> bool {
        self.kept.binary_search(&id).is_ok()
    }

    /// The name of a special token that has text.
    pub fn special_name(&self, id: u32) -> Option<&str> {
        let kept = self.keep_special || self.keeps(id);
        if kept && self.tokenizer.is_special(id) { self.tokenizer.decoded_name(id, true) } else { None }
    }

    /// As after tokens whose text is known already: decoders treat the first token of a text in its own way, and the one that
    /// comes next is not.
    pub fn continuing(mut self) -> TextStream {
        self.memory.iter_mut().for_each(Memory::begin);
        self
    }

    /// Makes room for tokens whose names and text have so many bytes.
    ///
    /// # Errors
    /// [`crate::error::Status::Memory`].
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        Chain::reserve(&mut self.memory, bytes)
    }

    /// Takes the next token and appends the text that became certain, possibly none.
    pub fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        match self.tokenizer.decoded_name(id, self.keep_special || self.keeps(id)) {
            Some(name) => self.tokenizer.chain().push(&mut self.memory, name, out),
            None => Ok(()),
        }
    }

    /// No more tokens: appends what was held back, and is ready for another answer.
    pub fn finish(&mut self, out: &mut String) -> Result<()> {
        self.tokenizer.chain().finish(&mut self.memory, out)
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a failing test names its seed")]
mod tests {
    use super::super::fixtures::{self, Random};
    use super::*;

    /// Streams `ids`; the pieces, the text of the last `finish` at the end.
    fn pieces(tokenizer: &Arc<Tokenizer>, ids: &[u32], keep_special: bool) -> Vec<String> {
        let mut stream = TextStream::new(tokenizer.clone(), keep_special);
        let mut pieces = Vec::new();
        for &id in ids {
            let mut piece = String::new();
            stream.push(id, &mut piece).unwrap();
            pieces.push(piece);
        }
        let mut piece = String::new();
        stream.finish(&mut piece).unwrap();
        pieces.push(piece);
        pieces
    }

    /// What the crate makes of `ids`; with byte tokens this holds only where no run of them is partly good.
    fn crate_decode(json: &str, ids: &[u32], keep_special: bool) -> String {
        tokenizers::Tokenizer::from_bytes(json).unwrap().decode(ids, !keep_special).unwrap()
    }

    /// Random ids: mostly from all of the vocabulary and a little beyond, at times the bytes of a real character.
    fn random_ids(random: &mut Random, tokenizer: &Tokenizer, longest: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        for _ in 0..random.below(longest + 1) {
            if random.below(3) == 0 {
                let c = ["é", "▁", "語", "\u{FFFD}", "🦀"][random.below(5)];
                let bytes = c.bytes().take(1 + random.below(4));
                ids.extend(bytes.filter_map(|b| fixtures::byte_id(tokenizer, b)));
            } else {
                ids.push(u32::try_from(random.below(tokenizer.vocab_size() + 3)).unwrap());
            }
        }
        ids
    }

    /// Byte tokens of `ids`, in their runs, are all good or all bad: where the crate and we must agree.
    fn runs_are_uniform(tokenizer: &Tokenizer, ids: &[u32], keep_special: bool) -> bool {
        let mut run = Vec::new();
        let mut uniform = true;
        let mut check = |run: &mut Vec<u8>| {
            let all_bad = run.utf8_chunks().all(|chunk| chunk.valid().is_empty());
            uniform &= std::str::from_utf8(run).is_ok() || all_bad;
            run.clear();
        };
        for &id in ids {
            let Some(name) = tokenizer.decoded_name(id, keep_special) else { continue };
            match name.strip_prefix("<0x").and_then(|n| u8::from_str_radix(n.trim_end_matches('>'), 16).ok()) {
                Some(byte) => run.push(byte),
                None => check(&mut run),
            }
        }
        check(&mut run);
        uniform
    }

    #[test]
    fn any_ids_in_pieces_are_the_ids_decoded_whole() {
        let seed = 0xDEC0DE_u64;
        println!("seed {seed:#x}");
        for (kind, json) in fixtures::all() {
            let mut random = Random(seed);
            let tokenizer = Arc::new(Tokenizer::from_json(json.as_bytes(), kind).unwrap());
            let reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            let mut compared = 0;
            for round in 0..4_000 {
                let ids = random_ids(&mut random, &tokenizer, 12);
                let keep_special = random.below(2) == 0;
                let streamed = pieces(&tokenizer, &ids, keep_special).concat();
                assert_eq!(streamed, tokenizer.decode(&ids, keep_special).unwrap(), "{kind} round {round}: {ids:?}");
                let names = ids.iter().any(|&id| tokenizer.decoded_name(id, keep_special).is_some());
                if names && runs_are_uniform(&tokenizer, &ids, keep_special) {
                    let theirs = reference.decode(&ids, !keep_special).unwrap();
                    assert_eq!(streamed, theirs, "{kind} round {round}: {ids:?}");
                    compared += 1;
                }
            }
            assert!(compared > 500, "{kind}: only {compared} of 4000 compared with the crate");
        }
    }

    #[test]
    fn a_text_goes_on_where_another_ended() {
        let seed = 0xC0_7714_u64;
        println!("seed {seed:#x}");
        for (kind, json) in fixtures::streaming() {
            let mut random = Random(seed);
            let tokenizer = Arc::new(Tokenizer::from_json(json.as_bytes(), kind).unwrap());
            let mut compared = 0;
            for round in 0..2_000 {
                let ids = random_ids(&mut random, &tokenizer, 12);
                let (before, after) = ids.split_at(random.below(ids.len() + 1));
                let pieces = pieces(&tokenizer, &ids, false);
                let start = tokenizer.decode(before, false).unwrap();
                // A start that ends inside a character, or that has no text yet, is none.
                if start.trim().is_empty() || pieces[..before.len()].concat() != start {
                    continue;
                }
                let mut stream = TextStream::new(tokenizer.clone(), false).continuing();
                let mut text = String::new();
                after.iter().for_each(|&id| stream.push(id, &mut text).unwrap());
                stream.finish(&mut text).unwrap();
                assert_eq!(text, pieces[before.len()..].concat(), "{kind} round {round}: {before:?} {after:?}");
                compared += 1;
            }
            assert!(compared > 200, "{kind}: only {compared} compared");
        }
    }

    #[test]
    fn at_most_three_bytes_are_held() {
        let seed = 0x3_B17E5_u64;
        println!("seed {seed:#x}");
        for (kind, json) in fixtures::streaming() {
            let mut random = Random(seed);
            let tokenizer = Arc::new(Tokenizer::from_json(json.as_bytes(), kind).unwrap());
            for round in 0..500 {
                let ids = random_ids(&mut random, &tokenizer, 60);
                let pieces = pieces(&tokenizer, &ids, false);
                let mut held = String::new();
                for (at, piece) in pieces.iter().enumerate() {
                    held.push_str(piece);
                    let whole = tokenizer.decode(&ids[..ids.len().min(at + 1)], false).unwrap();
                    let rest = whole.chars().count().saturating_sub(held.chars().count());
                    assert!(rest <= 3, "{kind} round {round}: {rest} characters held after {at} of {ids:?}");
                }
            }
        }
    }

    #[test]
    fn a_genuine_replacement_character_passes_at_once() {
        for (kind, json) in fixtures::byte_kinds() {
            let tokenizer = Arc::new(Tokenizer::from_json(json.as_bytes(), kind).unwrap());
            let ids: Vec<u32> = "\u{FFFD}".bytes().map(|b| fixtures::byte_id(&tokenizer, b).unwrap()).collect();
            assert_eq!(pieces(&tokenizer, &ids, false), ["", "", "\u{FFFD}", ""], "{kind}");
        }
    }

    #[test]
    fn good_characters_before_an_invalid_byte_stay() {
        let json = fixtures::llama();
        let tokenizer = Arc::new(Tokenizer::from_json(json.as_bytes(), "llama").unwrap());
        let ids: Vec<u32> =
            [0xC3, 0xA9, 0xE8, 0xAA].iter().map(|&b| fixtures::byte_id(&tokenizer, b).unwrap()).collect();
        assert_eq!(pieces(&tokenizer, &ids, false), ["", "é", "", "", "\u{FFFD}\u{FFFD}"]);
        assert_eq!(crate_decode(&json, &ids, false), "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}");
    }

    #[test]
    fn a_character_with_a_skipped_token_inside_comes_whole() {
        let tokenizer = Arc::new(Tokenizer::from_json(fixtures::byte_level().as_bytes(), "bytes").unwrap());
        let byte = |b| fixtures::byte_id(&tokenizer, b).unwrap();
        let end = tokenizer.id("<|end|>").unwrap();
        let ids = [byte(0xC3), end, 1_000_000, byte(0xA9)];
        assert_eq!(pieces(&tokenizer, &ids, false), ["", "", "", "é", ""]);
        assert_eq!(pieces(&tokenizer, &ids, true).concat(), "\u{FFFD}<|end|>\u{FFFD}");
    }

    #[test]
    fn a_finished_stream_is_fresh() {
        let tokenizer = Arc::new(Tokenizer::from_json(fixtures::llama().as_bytes(), "llama").unwrap());
        let word = tokenizer.id("▁the").unwrap();
        let mut stream = TextStream::new(tokenizer, false);
        let mut out = String::new();
        for _ in 0..2 {
            stream.push(word, &mut out).unwrap();
            stream.push(word, &mut out).unwrap();
            stream.finish(&mut out).unwrap();
        }
        assert_eq!(out, "the thethe the");
    }
}
