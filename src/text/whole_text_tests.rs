//! Encoding in pieces against the `tokenizers` crate on the whole text, and what bounds it.

use std::ops::Range;

use serde_json::{Value, json};

use super::fixtures::{self, Random};
use super::{EncodeLimits, MarkedText, Tokenizer};
use crate::error::{Error, Result, Status, Unit};
use crate::limits::*;

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

/// A text's error within limits.
fn refused(tokenizer: &Tokenizer, text: &str, tokens: usize) -> Error {
    tokenizer.encode_marked(&text.to_owned().into(), false, &mut EncodeLimits::new(tokens, &mut || Ok(()))).unwrap_err()
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_encoded() {
    let tokenizer = open(STORYTELLER);
    let most = tokenizer.bytes_per_token().unwrap();
    let text = "once upon a time there was ".repeat(2_000_000);
    let mut looks = 0;
    let mut go_on = || {
        looks += 1;
        Ok(())
    };
    let text = MarkedText::from(text);
    let error = tokenizer.encode_marked(&text, true, &mut EncodeLimits::new(512, &mut go_on)).unwrap_err();
    assert_eq!((error.status, error.unit, error.available), (Status::Context, Unit::Tokens, 512));
    assert!(error.needed >= (text.text.len() / most) as u64, "{error:?}");
    assert_eq!(looks, 0);
}

#[test]
fn what_exceeds_the_context_ends_there() {
    for (kind, file) in files() {
        let tokenizer = open(&file);
        let text = "the tea at hand, ".repeat(300_000);
        let mut looks = 0;
        let mut go_on = || {
            looks += 1;
            Ok(())
        };
        let text = MarkedText::from(text);
        let result = tokenizer.encode_marked(&text, false, &mut EncodeLimits::new(5_000, &mut go_on));
        let Err(error) = result else { panic!("{kind} has {} tokens", result.unwrap().len()) };
        if error.status == Status::Unsupported {
            continue;
        }
        assert_eq!(
            (error.status, error.unit, error.available),
            (Status::Context, Unit::Tokens, 5_000),
            "{kind}: {error}"
        );
        assert!(error.needed > 5_000 && error.message.contains("at least"), "{kind}: {error}");
        // A normalizer has all of the text before there is a token, and each of its expressions reads it as well.
        let pieces = text.text.len() / TEXT_PIECE_BYTES;
        let normalized = !serde_json::from_str::<Value>(&file).unwrap()["normalizer"].is_null();
        assert!(looks <= if normalized { 5 * pieces } else { pieces / 4 }, "{kind}: {looks} of {pieces}");
    }
    // A short text is counted to its end.
    let tokenizer = open(&fixtures::byte_level());
    let short = "a".repeat(COUNTED_BYTES_MAX);
    let mut go_on = || Ok(());
    let mut limits = EncodeLimits { other_tokens: 2, ..EncodeLimits::new(5, &mut go_on) };
    assert_eq!(tokenizer.encode_content(&short, &[], false, &mut limits).unwrap().len(), short.len());
    assert!(refused(&tokenizer, &(short + "a"), 5).needed > 5);
}

#[test]
fn who_wants_no_more_ends_it_at_the_next_piece() {
    let mut random = Random(77);
    let texts =
        [random_text(&mut random, 400_000), run_of_letters(&mut random, "abcdefgh", 400_000), " ".repeat(400_000)];
    for (kind, file) in files() {
        let tokenizer = open(&file);
        for text in &texts {
            let mut looks = 0;
            let mut go_on = || -> Result<()> {
                looks += 1;
                if looks < 3 { Ok(()) } else { Err(Error::new(Status::Closed, "enough")) }
            };
            let result =
                tokenizer.encode_marked(&text.clone().into(), false, &mut EncodeLimits::new(usize::MAX, &mut go_on));
            match result {
                Err(e) => assert!(e.message == "enough" || e.status == Status::Unsupported, "{kind}: {e}"),
                // Words that are dropped, or one unknown token for everything, take no time.
                Ok(ids) => assert!(ids.len() < 4_000, "{kind}: {} tokens after {looks} looks", ids.len()),
            }
        }
    }
}

#[test]
fn what_makes_text_of_text_is_bounded() {
    let doubling: Vec<Value> = (0..40).map(|_| replace(json!({"String": "a"}), "aa")).collect();
    let normalizer = with(&fixtures::byte_level(), &[("normalizer", sequence("normalizers", json!(doubling)))]);
    // The names of added tokens are normalized when the file is read.
    let mut file: Value = serde_json::from_str(&normalizer).unwrap();
    let tokenizer = open(&normalizer);
    let error = tokenizer.encode("aaaa", false, false).unwrap_err();
    assert_eq!((error.status, error.unit), (Status::Format, Unit::Bytes), "{error}");
    assert!(tokenizer.encode("the tee", false, false).is_ok());
    file["added_tokens"][3]["normalized"] = json!(true);
    assert!(Tokenizer::from_json(file.to_string().as_bytes(), "t").unwrap_err().message.contains("added_tokens"));
    // One step is enough, with a long text in it.
    let normalizer = replace(json!({"String": "a"}), &"a".repeat(1 << 20));
    let tokenizer = open(&with(&fixtures::byte_level(), &[("normalizer", normalizer)]));
    assert_eq!(tokenizer.encode(&"a".repeat(60_000), false, false).unwrap_err().status, Status::Format);

    for pattern in [json!({"Regex": "."}), json!({"String": "."}), json!({"Regex": ""}), json!({"Regex": "(?=.)"})] {
        let steps: Vec<Value> = (0..40).map(|_| replace(pattern.clone(), "..")).collect();
        let decoder = with(&fixtures::byte_level(), &[("decoder", sequence("decoders", json!(steps)))]);
        let error = Tokenizer::from_json(decoder.as_bytes(), "t").unwrap_err();
        assert_eq!((error.status, error.unit), (Status::Format, Unit::Bytes), "{error}");
        assert!(error.message.contains("decoder"), "{error}");
    }

    let twice = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {}});
    let many: Vec<Value> = (0..200).map(|_| json!({"Sequence": {"id": "A", "type_id": 0}})).collect();
    let mut long = twice.clone();
    long["single"] = json!(many);
    for steps in [json!([long, long]), json!([long])] {
        let file = with(&fixtures::byte_level(), &[("post_processor", sequence("processors", steps))]);
        let result = Tokenizer::from_json(file.as_bytes(), "t");
        if let Ok(tokenizer) = result {
            let one = tokenizer.encode("t", true, true).unwrap();
            assert_eq!(one.len(), 200);
            assert_eq!(refused(&tokenizer, &"t".repeat(400_000), 100).status, Status::Context);
        }
    }
    let bytes: Vec<Value> = (0..40).map(|_| byte_level(false)).collect();
    let file = with(&fixtures::byte_level(), &[("pre_tokenizer", sequence("pretokenizers", json!(bytes)))]);
    assert!(Tokenizer::from_json(file.as_bytes(), "t").unwrap_err().message.contains("ByteLevel"));
}

#[test]
fn an_expression_that_backtracks_ends() {
    let words = sequence("pretokenizers", json!([split(r"(?:(a+)+)\1b|\S", "Isolated"), byte_level(false)]));
    let tokenizer = open(&with(&fixtures::byte_level(), &[("pre_tokenizer", words)]));
    let error = tokenizer.encode(&"a".repeat(20_000), false, false).unwrap_err();
    assert_eq!((error.status, error.unit), (Status::Unsupported, Unit::Count), "{error}");
    assert!(tokenizer.encode("the tea", false, false).is_ok());

    // A decoder's runs for every token, on the engine's thread.
    let mut file: Value = serde_json::from_str(&fixtures::byte_level()).unwrap();
    file["decoder"] = sequence("decoders", json!(vec![replace(json!({"Regex": r"(?:(a+)+)\1b"}), "c"); 3]));
    file["added_tokens"][3]["content"] = json!("a".repeat(200));
    let tokenizer = open(&file.to_string());
    let error = tokenizer.decode(&[tokenizer.id(&"a".repeat(200)).unwrap()], true).unwrap_err();
    assert_eq!((error.status, error.available), (Status::Unsupported, DECODER_BACKTRACKS_MAX as u64), "{error}");
    assert_eq!(tokenizer.decode(&[tokenizer.id("t").unwrap()], true).unwrap(), "t");
}

/// A tokenizer that looks for words with this expression.
fn cutting(pattern: &str) -> Tokenizer {
    let words = sequence("pretokenizers", json!([split(pattern, "Isolated"), byte_level(false)]));
    open(&with(&fixtures::byte_level(), &[("pre_tokenizer", words)]))
}

#[test]
fn expressions_that_read_a_text_again_and_again_are_bounded_for_all_of_it() {
    let most = |bytes: usize| (SEARCH_EFFORT_FACTOR * bytes + SEARCH_EFFORT_FREE) as u64;
    // Every match is short, and known only at the end of the text.
    let quadratic = cutting("a+b|a");
    // Every match takes fewer backtracks than a match may.
    let cubic = cutting(r"(?:a*a*b|a)(?!x)");
    let end = "<|end|>";
    for (kind, tokenizer, text) in [
        ("quadratic", &quadratic, "a".repeat(60_000)),
        ("cubic", &cubic, "a".repeat(400)),
        // The parts between special tokens are one text.
        ("in parts", &quadratic, ("a".repeat(1000) + end).repeat(60)),
        ("backtracks in parts", &cubic, ("a".repeat(100) + end).repeat(80)),
    ] {
        let error = tokenizer.encode(&text, false, true).unwrap_err();
        assert_eq!(
            (error.status, error.unit, error.available),
            (Status::Unsupported, Unit::Count, most(text.len())),
            "{kind}: {error}"
        );
        assert!(error.message.contains("many times"), "{kind}: {error}");
    }
    // What does so little is done.
    assert_eq!(quadratic.encode(&"a".repeat(500), false, true).unwrap().len(), 500);
    assert_eq!(cubic.encode(&"a".repeat(20), false, true).unwrap().len(), 20);
    assert!(quadratic.encode(&"the tea at hand ".repeat(60_000), false, true).is_ok());
    // A step of the normalizer.
    let normalizer = replace(json!({"Regex": "a+b|a"}), "c");
    let tokenizer = open(&with(&fixtures::byte_level(), &[("normalizer", normalizer)]));
    assert_eq!(tokenizer.encode(&"a".repeat(15_000), false, true).unwrap_err().status, Status::Unsupported);
}

#[test]
fn expressions_that_read_much_are_looked_at_while_they_do() {
    let enough = |tokenizer: &Tokenizer, text: &str| {
        let mut looks = 0;
        let mut go_on = || -> Result<()> {
            looks += 1;
            if looks < 3 { Ok(()) } else { Err(Error::new(Status::Closed, "enough")) }
        };
        let limits = &mut EncodeLimits::new(usize::MAX, &mut go_on);
        let error = tokenizer.encode_content(text, &[], false, limits).unwrap_err();
        assert_eq!(error.message, "enough");
        assert!(limits.searched <= 3 * TEXT_PIECE_BYTES + 2 * BACKTRACKS_MAX, "{}", limits.searched);
    };
    // One search through all of the text, forwards; and back.
    enough(&cutting("a+b|a"), &"a".repeat(1_000_000));
    enough(&cutting("[^b]*b"), &("a".repeat(1_000_000) + "b"));
    enough(&cutting("ab"), &"a".repeat(1_000_000));
    // Many with backtracks, of words that are short.
    enough(&cutting(r"(?:a*a*b|a)(?!x)"), &"a".repeat(300));
    let normalizer = replace(json!({"Regex": "a+b|a"}), "c");
    enough(&open(&with(&fixtures::byte_level(), &[("normalizer", normalizer)])), &"a".repeat(15_000));
}
