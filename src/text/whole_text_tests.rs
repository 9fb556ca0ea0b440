//! Encoding in pieces against the `tokenizers` crate on the whole text, and what bounds it.

mod bounds;

use std::ops::Range;

use serde_json::{Value, json};

use super::fixtures::{self, Random};
use super::{EncodeLimits, MarkedText, Tokenizer};

const STORYTELLER: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/storyteller/tokenizer.json"));

fn open(file: &str) -> Tokenizer {
    Tokenizer::from_json(file.as_bytes(), "tokenizer.json").unwrap()
}

/// A file with some of its parts replaced.
fn with(file: &str, parts: &[(&str, Value)]) -> String {
    let mut file: Value = serde_json::from_str(file).unwrap();
    for (name, part) in parts {
        file[*name] = part.clone();
    }
    file.to_string()
}

fn sequence(part: &str, steps: Value) -> Value {
    json!({"type": "Sequence", part: steps})
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn split(pattern: &str, behavior: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false})
}

fn byte_level(regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex})
}

const QWEN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A Unigram vocabulary with scores that no two sums of are equal by chance, and every letter of ASCII.
fn wide_unigram(split: bool, byte_fallback: bool) -> String {
    let mut random = Random(99);
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["<s>", 0.0]), json!(["</s>", 0.0])];
    if byte_fallback {
        vocab.extend((0..=255u8).map(|b| json!([format!("<0x{b:02X}>"), -20.0])));
    }
    let letters: Vec<String> = ('a'..='p').map(String::from).chain(["▁".into(), "é".into(), "語".into()]).collect();
    let mut names: Vec<String> = letters.clone();
    for length in 2..=5 {
        for _ in 0..120 {
            let most = if random.below(2) == 0 { 5 } else { letters.len() };
            let name: String = (0..length).map(|_| letters[random.below(most)].as_str()).collect();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.extend(["aa", "aaaa", "▁▁"].map(String::from));
    names.dedup();
    let score =
        |random: &mut Random, name: &str| -4.0 - random.below(1_000_000) as f64 / 300_000.0 - name.len() as f64 / 3.0;
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if seen.insert(name.clone()) {
            let score = score(&mut random, &name);
            vocab.push(json!([name, score]));
        }
    }
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": split});
    json!({"version": "1.0", "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "pre_tokenizer": metaspace, "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": byte_fallback}})
    .to_string()
}

fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

/// All kinds of files.
fn files() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = fixtures::all().into_iter().map(|(kind, file)| (kind.into(), file)).collect();
    let bytes = [("storyteller", STORYTELLER.to_owned()), ("fixture", fixtures::byte_level())];
    for (base, file) in &bytes {
        let mut add = |kind: &str, parts: &[(&str, Value)]| all.push((format!("{base} {kind}"), with(file, parts)));
        add("as it is", &[]);
        let words = |pattern| sequence("pretokenizers", json!([split(pattern, "Isolated"), byte_level(false)]));
        add("qwen", &[("normalizer", json!({"type": "NFC"})), ("pre_tokenizer", words(QWEN))]);
        add("tekken", &[("pre_tokenizer", words(TEKKEN))]);
        add("nfkc", &[("normalizer", json!({"type": "NFKC"})), ("pre_tokenizer", words(QWEN))]);
        let deepseek = json!([
            split(r"\p{N}{1,3}", "Isolated"),
            split("[一-龥぀-ゟ゠-ヿ]+", "Isolated"),
            split(QWEN, "Isolated"),
            byte_level(false)
        ]);
        add("deepseek", &[("pre_tokenizer", sequence("pretokenizers", deepseek))]);
        add("one word", &[("pre_tokenizer", byte_level(false))]);
        add("bytes first", &[("normalizer", json!({"type": "ByteLevel"})), ("pre_tokenizer", Value::Null)]);
        for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
            let punctuation = json!({"type": "Punctuation", "behavior": behavior});
            let steps = json!([punctuation, split(r"\s+", behavior), byte_level(true)]);
            add(behavior, &[("pre_tokenizer", sequence("pretokenizers", steps))]);
        }
        let lower = json!([{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": true, "strip_right": true}]);
        add("lower", &[("normalizer", sequence("normalizers", lower)), ("pre_tokenizer", words(QWEN))]);
        let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
        add(
            "bert",
            &[
                ("normalizer", bert),
                ("pre_tokenizer", sequence("pretokenizers", json!([{"type": "BertPreTokenizer"}, byte_level(false)]))),
            ],
        );
        let digits = json!([{"type": "Digits", "individual_digits": false}, {"type": "FixedLength", "length": 7}, byte_level(false)]);
        add("digits", &[("pre_tokenizer", sequence("pretokenizers", digits))]);
        let delimiter =
            json!([{"type": "CharDelimiterSplit", "delimiter": "e"}, {"type": "WhitespaceSplit"}, byte_level(false)]);
        add("delimiter", &[("pre_tokenizer", sequence("pretokenizers", delimiter))]);
    }
    let llama = fixtures::llama();
    let mut add = |kind: &str, parts: &[(&str, Value)]| all.push((kind.into(), with(&llama, parts)));
    add("gemma", &[("normalizer", replace(json!({"String": " "}), "▁"))]);
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    add(
        "strip",
        &[(
            "normalizer",
            sequence(
                "normalizers",
                json!([strip, {"type": "Prepend", "prepend": "▁"}, replace(json!({"String": " "}), "▁")]),
            ),
        )],
    );
    add(
        "spaces",
        &[(
            "normalizer",
            sequence(
                "normalizers",
                json!([{"type": "NFKC"}, replace(json!({"Regex": " {2,}"}), " "), replace(json!({"String": " "}), "▁")]),
            ),
        )],
    );
    add(
        "quotes",
        &[(
            "normalizer",
            sequence(
                "normalizers",
                json!([replace(json!({"String": "``"}), "\""), {"type": "Nmt"}, replace(json!({"Regex": "[ \t]+"}), "▁")]),
            ),
        )],
    );
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    for (scheme, split) in [("always", true), ("first", true), ("first", false), ("never", true)] {
        add(
            &format!("metaspace {scheme} {split}"),
            &[("normalizer", Value::Null), ("pre_tokenizer", metaspace(scheme, split))],
        );
    }
    for (split, fallback) in [(true, false), (false, false), (false, true)] {
        all.push((format!("wide unigram {split} {fallback}"), wide_unigram(split, fallback)));
    }
    all
}

const PIECES: &[&str] = &[
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "'s",
    "'ll",
    "the",
    "The",
    " the",
    "tea",
    "12",
    "3",
    "½",
    "...",
    "!?",
    "_",
    "é",
    "e\u{301}",
    "语",
    "語言",
    "。",
    "한국",
    "\u{1112}\u{1161}",
    "👩‍👩‍👧",
    "🦀",
    "🇫🇷",
    "\u{feff}",
    "\u{fffd}",
    "``",
    "Ⅷ",
    "ﷺ",
    "İ",
    "K",
    "<|end|>",
    "<|bos|>",
    "<think>",
    "a b é",
    "<s>",
    "</s>",
    "Ġ",
    "▁",
    "<|user|>",
    "<|",
    "か",
    "\u{3099}",
    "क्षि",
    " ا",
    "\u{600}",
    "ا",
    "a",
    "b",
    "aaaa",
    "nd",
];

/// Random text: pieces, and runs of them.
fn random_text(random: &mut Random, bytes: usize) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        let piece = match random.below(3) {
            0 => PIECES[random.below(PIECES.len())],
            1 => [" the", " tea", " at", "hand", " 12", ",", "\n"][random.below(7)],
            _ => " ",
        };
        let times = match random.below(400) {
            0 => random.below(30_000 / piece.len()),
            1..8 => random.below(100),
            _ => 1,
        };
        text.push_str(&piece.repeat(times));
    }
    text
}

/// Text without any place where words could end.
fn run_of_letters(random: &mut Random, letters: &str, bytes: usize) -> String {
    let letters: Vec<char> = letters.chars().collect();
    let mut text = String::new();
    while text.len() < bytes {
        let times = if random.below(30) == 0 { random.below(400) } else { 1 };
        text.extend(std::iter::repeat_n(letters[random.below(letters.len())], times));
    }
    text
}

/// Holds one text to the crate.
fn compare(kind: &str, ours: &Tokenizer, theirs: &tokenizers::Tokenizer, text: &str) -> usize {
    let shown: String = text.chars().take(60).collect();
    match (ours.encode(text, true, true), theirs.encode_fast(text, true)) {
        (Ok(tokens), Ok(expected)) => {
            let expected = expected.get_ids();
            if let Some(at) = tokens.iter().zip(expected).position(|(a, b)| a != b) {
                panic!(
                    "{kind}: token {at} of {} differs: {:?} {:?}; {shown:?}",
                    expected.len(),
                    &tokens[at..(at + 5).min(tokens.len())],
                    &expected[at..(at + 5).min(expected.len())]
                );
            }
            assert_eq!(tokens.len(), expected.len(), "{kind}: {shown:?}");
            if let Some(most) = ours.bytes_per_token() {
                assert!(
                    tokens.len() * most >= text.len(),
                    "{kind}: {} tokens of {} bytes, at most {most} each",
                    tokens.len(),
                    text.len()
                );
            }
            tokens.len()
        }
        (Err(_), Err(_)) => 0,
        (got, expected) => {
            panic!("{kind}: {shown:?}: {:?}, the crate has {:?}", got.map(|t| t.len()), expected.map(|e| e.len()))
        }
    }
}

#[test]
fn long_texts_have_the_tokens_of_the_whole() {
    let mut random = Random(20_261_129);
    let texts: Vec<String> = (0..3).map(|_| random_text(&mut random, 90_000)).collect();
    for (kind, file) in files() {
        let (ours, theirs) = (open(&file), tokenizers::Tokenizer::from_bytes(&file).unwrap());
        for text in &texts {
            compare(&kind, &ours, &theirs, text);
        }
    }
}

#[test]
fn words_without_end_have_the_tokens_of_the_whole() {
    let mut random = Random(4711);
    let mut texts: Vec<String> = ["abcdefghijklmnop", "ab", "theand", "theé語", "aXbYq", "xyz"]
        .iter()
        .map(|letters| run_of_letters(&mut random, letters, 60_000))
        .collect();
    texts.extend(["a", "ab", " ", "\n", "é", "語", "▁", "ha", "</", "🦀"].map(|run| run.repeat(40_000 / run.len())));
    for (kind, file) in files() {
        let (ours, theirs) = (open(&file), tokenizers::Tokenizer::from_bytes(&file).unwrap());
        for text in &texts {
            compare(&kind, &ours, &theirs, text);
        }
    }
}

#[test]
fn content_makes_no_special_token_however_it_is_cut() {
    let mut random = Random(5);
    for (kind, file) in files() {
        let (ours, theirs) = (open(&file), tokenizers::Tokenizer::from_bytes(&file).unwrap());
        let unknown = ours.id("<unk>");
        for _ in 0..60 {
            let mut text = random_text(&mut random, 60);
            text.truncate(super::floor_boundary(&text, 400));
            let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let mut cuts: Vec<usize> = (0..4).map(|_| bounds[random.below(bounds.len())]).collect();
            cuts.sort_unstable();
            let content: Vec<Range<usize>> =
                [cuts[0]..cuts[1], cuts[2]..cuts[3]].into_iter().filter(|r| !r.is_empty()).collect();
            let names: Vec<&str> = ["<|end|>", "<|bos|>", "<s>", "</s>", "<unk>", "<|user|>"]
                .into_iter()
                .filter(|n| ours.id(n).is_some())
                .collect();
            let in_content = |at: usize, name: &str| content.iter().any(|c| c.start < at + name.len() && at < c.end);
            // Special names that touch no content are the only ones that may become tokens.
            let mut outside = 0;
            let mut touched = false;
            for name in &names {
                for (at, _) in text.match_indices(name) {
                    if in_content(at, name) { touched = true } else { outside += 1 }
                }
            }
            let marked = MarkedText { text: text.clone(), content };
            let encoded = ours.encode_marked(&marked, false, &mut EncodeLimits::new(usize::MAX, &mut || Ok(())));
            let Ok(ids) = encoded else {
                assert!(theirs.encode_fast(text.as_str(), false).is_err(), "{kind}: {encoded:?}");
                continue;
            };
            let special = ids.iter().filter(|&&id| ours.is_special(id) && Some(id) != unknown).count();
            assert!(special <= outside, "{kind}: {special} special tokens of {outside} outside: {marked:?}");
            if !touched {
                let expected = theirs.encode_fast(text.as_str(), false).unwrap();
                // A vocabulary may hold a special name that the text spells across a token's end: only content is fenced.
                assert_eq!(ids, expected.get_ids(), "{kind}: {marked:?}");
            }
        }
    }
}

fn marked(parts: &[(&str, bool)]) -> MarkedText {
    let mut text = MarkedText::default();
    for (part, content) in parts {
        let start = text.text.len();
        text.text.push_str(part);
        if *content && !part.is_empty() {
            text.content.push(start..text.text.len());
        }
    }
    text
}

#[test]
fn a_name_of_content_and_template_is_none_and_hides_none() {
    let tokenizer = open(&fixtures::byte_level());
    let end = tokenizer.id("<|end|>").unwrap();
    let count = |parts: &[(&str, bool)]| {
        let ids =
            tokenizer.encode_marked(&marked(parts), false, &mut EncodeLimits::new(usize::MAX, &mut || Ok(()))).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), marked(parts).text);
        ids.iter().filter(|&&id| id == end).count()
    };
    assert_eq!(count(&[("<|end|>", false), ("<|end|>", true), ("<|end|>", false)]), 2);
    assert_eq!(count(&[("<|end", true), ("|>", false)]), 0);
    assert_eq!(count(&[("<|", false), ("end", true), ("|>", false)]), 0);
    assert_eq!(count(&[("<", true), ("<|end|>", false), (">", true)]), 1);
    assert_eq!(count(&[("<|end|", true), ("<|end|>", false)]), 1);
    // Not special: a word of the vocabulary like any other.
    let think = tokenizer.id("<think>").unwrap();
    let ids = tokenizer.encode("a<think>", false, false).unwrap();
    assert!(ids.contains(&think));
}

#[test]
fn normalized_special_names_know_what_was_content() {
    let mut file: Value = serde_json::from_str(&fixtures::llama()).unwrap();
    file["normalizer"] = json!({"type": "Lowercase"});
    file["added_tokens"][2]["normalized"] = json!(true);
    let tokenizer = open(&file.to_string());
    let end = tokenizer.id("</s>").unwrap();
    let count = |parts: &[(&str, bool)]| {
        let ids =
            tokenizer.encode_marked(&marked(parts), false, &mut EncodeLimits::new(usize::MAX, &mut || Ok(()))).unwrap();
        ids.iter().filter(|&&id| id == end).count()
    };
    assert_eq!(count(&[("the </S>", false)]), 1);
    assert_eq!(count(&[("the </S>", true), ("</S>", false)]), 1);
    assert_eq!(count(&[("İ</S", true), (">", false)]), 0);
    let long = "the tea İ ".repeat(20_000);
    assert_eq!(count(&[(&long, false), ("</S>", true), (&long, false), ("</S>", false)]), 1);
}
