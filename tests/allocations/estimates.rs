//! What reading a tokenizer, compiling a template and rendering a chat are estimated to take is not less than they take: so much is
//! tried as one block before (`src/os/shortage.rs`). Measured for all threads, in a process of its own.

use crate::allocator::{kept, most};
use crate::support::own_process::alone;
use astrai::constrain::TokenTrie;
use astrai::limits;
use astrai::os::shortage::{self, Backups};
use astrai::text::{ChatTemplate, TemplateInput, Tokenizer};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all work that is being done is estimated to take, and the most it was.
static ESTIMATED: AtomicUsize = AtomicUsize::new(0);
static ESTIMATED_MOST: AtomicUsize = AtomicUsize::new(0);

/// Keeps the estimates themselves, which are not tried here: they would be counted.
const ESTIMATES: Backups = Backups {
    begin: |bytes| {
        let all = ESTIMATED.fetch_add(bytes, Ordering::Relaxed) + bytes;
        ESTIMATED_MOST.fetch_max(all, Ordering::Relaxed);
        bytes.max(1)
    },
    end: |bytes| _ = ESTIMATED.fetch_sub(bytes, Ordering::Relaxed),
    current: || 0,
    adopt: |_| {},
};

/// A byte pair encoding of at least so many words of the letters up to `last`, all different, and as many merges.
fn large_tokenizer(words: usize, last: char) -> String {
    let mut vocab = Map::new();
    let letters: Vec<String> = ('a'..=last).map(String::from).collect();
    let mut merges = Vec::new();
    let mut next: Vec<String> = letters.clone();
    letters.iter().for_each(|letter| _ = vocab.insert(letter.clone(), json!(vocab.len())));
    while vocab.len() < words {
        let longer: Vec<String> = next.iter().flat_map(|a| letters.iter().map(move |b| format!("{a}{b}"))).collect();
        for word in &longer {
            let (a, b) = word.split_at(word.len() - 1);
            vocab.insert(word.clone(), json!(vocab.len()));
            merges.push(format!("{a} {b}"));
        }
        next = longer;
    }
    let decoder = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let model = json!({ "type": "BPE", "vocab": vocab, "merges": merges });
    json!({ "version": "1.0", "decoder": decoder, "model": model }).to_string()
}

fn told(what: &str, bytes: usize) {
    println!("{what}: {bytes} bytes of memory");
}

/// A Unigram vocabulary of words that are all different.
fn unigram(words: usize) -> String {
    let letters = ('a'..='z').map(String::from).collect::<Vec<_>>();
    let word = |n: usize| format!("{}{}{}", letters[n % 26], letters[n / 26 % 26], n);
    let names = std::iter::once("<unk>".to_owned()).chain(letters.iter().cloned()).chain((0..words).map(word));
    let vocab: Vec<Value> = names.enumerate().map(|(at, name)| json!([name, -(at as f64) / 1000.0])).collect();
    json!({ "version": "1.0", "model": { "type": "Unigram", "unk_id": 0, "vocab": vocab } }).to_string()
}

/// Encodes a text in as much memory as was estimated. Its tokens are asked for as they become more.
fn encoded(name: &str, tokenizer: &Tokenizer, text: &str) {
    ESTIMATED_MOST.store(0, Ordering::Relaxed);
    let (bytes, ids) = most(|| tokenizer.encode(text, true, true).unwrap());
    // That of the text, and of a word or piece that cannot be cut.
    let estimate = ESTIMATED_MOST.load(Ordering::Relaxed);
    assert!(estimate >= tokenizer.encode_memory_bytes(text.len()));
    told(&format!("{name}, encoding {} bytes, estimated as {estimate}", text.len()), bytes);
    // The list before, and twice as many.
    let growing = 3 * size_of_val(ids.as_slice());
    assert!(
        bytes <= estimate + growing,
        "{name}: {bytes} bytes for {} of text, not {estimate} and {growing}",
        text.len()
    );
}

/// Makes the tree of a vocabulary in as much memory as was estimated, and keeps as much as a plan says.
fn tree(name: &str, tokenizer: &Tokenizer) {
    let words = tokenizer.vocab_size();
    ESTIMATED_MOST.store(0, Ordering::Relaxed);
    let (bytes, (kept, _tree)) = most(|| kept(|| TokenTrie::new(tokenizer, words).unwrap()));
    let estimate = ESTIMATED_MOST.load(Ordering::Relaxed);
    told(&format!("{name}, the tree of {words} tokens, estimated as {estimate}, of which {kept} are kept"), bytes);
    assert!(bytes <= estimate, "{name}: {bytes} bytes for a tree, not {estimate}");
    assert!(kept as u64 <= TokenTrie::kept_bytes(words), "{name}: a tree keeps {kept} bytes");
}

#[test]
fn estimates_are_not_too_small() {
    if !alone(estimates_are_not_too_small) {
        return;
    }
    shortage::use_backups(ESTIMATES);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let storyteller = fs::read_to_string(root.join("models/storyteller/tokenizer.json")).unwrap();
    let tokenizers = [
        ("the storyteller", storyteller),
        ("a large one", large_tokenizer(20_000, 'z')),
        ("a larger one of longer words", large_tokenizer(150_000, 'd')),
    ];
    for (name, json) in tokenizers {
        let (bytes, tokenizer) = most(|| Tokenizer::from_json(json.as_bytes(), name));
        let tokenizer = tokenizer.unwrap();
        told(&format!("{name}, {} bytes of JSON", json.len()), bytes);
        let estimate = limits::TOKENIZER_MEMORY_FACTOR * json.len() + limits::TEXT_MEMORY_BYTES;
        assert!(bytes <= estimate, "the tokenizer of {name}: {bytes} bytes for {} of JSON", json.len());
        tree(name, &tokenizer);
        for text in ["Once upon a time, the old lighthouse. ".repeat(10_000), "abcdefgh".repeat(10_000), "x".into()] {
            encoded(name, &tokenizer, &text);
        }
    }
    let json = unigram(60_000);
    ESTIMATED_MOST.store(0, Ordering::Relaxed);
    let (bytes, tokenizer) = most(|| Tokenizer::from_json(json.as_bytes(), "unigram"));
    let tokenizer = tokenizer.unwrap();
    told(&format!("unigram, {} bytes of JSON", json.len()), bytes);
    let tree = ESTIMATED_MOST.load(Ordering::Relaxed);
    let estimate = limits::TOKENIZER_MEMORY_FACTOR * json.len() + limits::TEXT_MEMORY_BYTES + tree;
    assert!(bytes <= estimate, "the tokenizer: {bytes} bytes for {} of JSON", json.len());
    // The first word that is cut, in a text that is not long, and one of many pieces.
    encoded("unigram", &tokenizer, &"abcdefgh".repeat(2_000));
    encoded("unigram", &tokenizer, &"ab27".repeat(200_000));

    // Text of any length takes what a piece does, with and without a normalizer.
    let storyteller = fs::read_to_string(root.join("models/storyteller/tokenizer.json")).unwrap();
    let long = "Once upon a time, the old lighthouse of 1874. ".repeat(30_000);
    let mut file: Value = serde_json::from_str(&storyteller).unwrap();
    let pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    encoded("words", &Tokenizer::from_json(file.to_string().as_bytes(), "words").unwrap(), &long);
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), "words").unwrap();
    let estimate = tokenizer.encode_memory_bytes(50_000_000);
    assert!(estimate < 20 << 20, "{estimate} bytes for 50 MB of text");
    // All scripts: what the automata make of them.
    let all: String = (1..=0x1F9FFu32).filter_map(char::from_u32).flat_map(|c| [c, c, ' ']).collect();
    encoded("all characters", &tokenizer, &all);
    // A text in one word, in its alphabet.
    file["pre_tokenizer"] =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), "one word").unwrap();
    let (bytes, ids) = most(|| tokenizer.encode(&long, true, true).unwrap());
    told(&format!("one word of {} bytes", long.len()), bytes);
    let own = 3 * size_of_val(ids.as_slice()) + 2 * long.len();
    assert!(
        bytes <= tokenizer.encode_memory_bytes(long.len()) + own,
        "{bytes} bytes, of which {own} grow with the text"
    );

    let folder = root.join("tests/fixtures/templates");
    let mut compiled = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(text) = fs::read_to_string(&path).ok().filter(|_| path.extension().is_some_and(|e| e == "jinja"))
        else {
            continue;
        };
        let (bytes, template) = most(|| ChatTemplate::new(&text, "template"));
        let estimate = limits::TEMPLATE_MEMORY_FACTOR * text.len() + limits::TEXT_MEMORY_BYTES;
        assert!(bytes <= estimate, "{}: {bytes} bytes for {} of text", path.display(), text.len());
        compiled += usize::from(template.is_ok());
    }
    assert!(compiled > 10, "only {compiled} templates were compiled");

    let text = fs::read_to_string(root.join("models/storyteller/chat_template.jinja")).unwrap();
    let template = ChatTemplate::new(&text, "template").unwrap();
    for len in [100, 1_000_000] {
        let messages = [json!({"role": "user", "content": "x".repeat(len)})];
        let variables = Map::new();
        let (bytes, rendered) = most(|| template.render(&TemplateInput::new(&messages, &variables)));
        rendered.unwrap();
        told(&format!("rendering {len} bytes"), bytes);
        let estimate = limits::RENDER_MEMORY_FACTOR * len + limits::TEXT_MEMORY_BYTES;
        assert!(bytes <= estimate, "a chat of {len} bytes: {bytes}");
    }
}
