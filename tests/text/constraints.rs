//! Constraints against instances of 200 JSON schemas, and texts that are nearly such
//! (`tests/fixtures/constraints/schemas.json`, by `tools/make_constraint_fixtures.py`).

use crate::support::models::{root, storyteller};
use crate::support::random::Random;
use astrai::constrain::{Grammar, Kind, TokenTrie, compile, is_set, mask_words};
use astrai::text::Tokenizer;
use serde_json::Value;
use std::sync::Arc;

/// A tokenizer, the tree of its vocabulary, and tokens by their bytes.
struct Vocabulary {
    tokenizer: Tokenizer,
    trie: Arc<TokenTrie>,
    bytes: Vec<Vec<u8>>,
}

impl Vocabulary {
    fn new() -> Vocabulary {
        let json = std::fs::read(storyteller().join("tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::from_json(&json, "storyteller").unwrap();
        let vocab = tokenizer.vocab_size();
        let ordinary = |id: &u32| !tokenizer.is_special(*id);
        let bytes =
            (0..vocab as u32).map(|id| if ordinary(&id) { tokenizer.token_bytes(id).unwrap() } else { Vec::new() });
        let bytes = bytes.collect();
        let trie = Arc::new(TokenTrie::new(&tokenizer, vocab).unwrap());
        Vocabulary { tokenizer, trie, bytes }
    }

    /// Tokens of a text that is cut anywhere.
    fn cut(&self, text: &str, random: &mut Random) -> Vec<u32> {
        let (mut rest, mut tokens) = (text.as_bytes(), Vec::new());
        while !rest.is_empty() {
            let begins = |(_, bytes): &(u32, &Vec<u8>)| !bytes.is_empty() && rest.starts_with(bytes);
            let all: Vec<(u32, &Vec<u8>)> = (0u32..).zip(&self.bytes).filter(begins).collect();
            let (id, bytes) = all[random.below(all.len())];
            tokens.push(id);
            rest = &rest[bytes.len()..];
        }
        tokens
    }

    /// Whether tokens are accepted one after the other, and the answer may end after the last.
    fn accepts(&self, grammar: &dyn Grammar, tokens: &[u32]) -> bool {
        let (mut matcher, mut mask) = (grammar.matcher().unwrap(), vec![0; mask_words(self.bytes.len())]);
        for &id in tokens {
            matcher.allowed(&mut mask).unwrap();
            if !is_set(&mask, id) {
                return false;
            }
            matcher.accept(id).unwrap();
        }
        matcher.allowed(&mut mask).unwrap()
    }
}

#[test]
fn instances_are_accepted_and_near_misses_are_not() {
    let file = std::fs::read(root().join("tests/fixtures/constraints/schemas.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&file).unwrap();
    assert_eq!(cases.len(), 200);
    let (vocabulary, mut random, mut accepted) = (Vocabulary::new(), Random(3), 0);
    for (index, case) in cases.iter().enumerate() {
        let schema = case["schema"].to_string();
        let made = compile(&vocabulary.trie, Kind::JsonSchema, &schema);
        if case["refused"] == true {
            assert!(made.is_err(), "{schema}");
            continue;
        }
        let grammar = made.unwrap_or_else(|e| panic!("{schema}: {e}"));
        accepted += 1;
        let texts = |key: &str| -> Vec<String> { serde_json::from_value(case[key].clone()).unwrap() };
        let (valid, invalid) = (texts("valid"), texts("invalid"));
        assert_eq!((valid.len(), invalid.len()), (20, 20));
        for text in &valid {
            let canonical = vocabulary.tokenizer.encode(text, false, false).unwrap();
            assert!(vocabulary.accepts(&*grammar, &canonical), "{index}: {schema}\n{text}");
            let cut = vocabulary.cut(text, &mut random);
            assert!(vocabulary.accepts(&*grammar, &cut), "{index}: {schema}\n{text} as {cut:?}");
        }
        for text in &invalid {
            let tokens = vocabulary.tokenizer.encode(text, false, false).unwrap();
            assert!(!vocabulary.accepts(&*grammar, &tokens), "{index}: {schema}\n{text}");
        }
    }
    assert!(accepted >= 190, "{accepted}");
}
