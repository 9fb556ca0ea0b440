//! What reading a tokenizer, compiling a template and rendering a chat are estimated to take is not less than they take: so much is
//! tried as one block before (`src/os/shortage.rs`). Measured by an allocator that counts what is in use. One test in a process of
//! its own, since it counts for the whole process.

use astrai::limits;
use astrai::os::shortage::{self, Backups};
use astrai::text::{ChatTemplate, TemplateInput, Tokenizer};
use serde_json::{Map, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let used = USED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(used, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size().next_multiple_of(16) + 16);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size().next_multiple_of(16) + 16, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were in use more than before.
fn most<R>(work: impl FnOnce() -> R) -> (usize, R) {
    let before = USED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    (MOST.load(Ordering::Relaxed) - before, result)
}

/// A byte pair encoding of words that are all different, and as many merges.
fn large_tokenizer(words: usize) -> String {
    let mut vocab = Map::new();
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
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
    json!({ "version": "1.0", "model": { "type": "BPE", "vocab": vocab, "merges": merges } }).to_string()
}

#[allow(clippy::print_stdout, reason = "the figures that the factors are chosen by")]
fn told(what: &str, bytes: usize) {
    println!("{what}: {bytes} bytes of memory");
}

#[test]
fn estimates_are_not_too_small() {
    // The estimates themselves are not tried here: they would be counted.
    shortage::use_backups(Backups { begin: |_| 1, end: |_| {}, current: || 0, adopt: |_| {} });
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let storyteller = fs::read_to_string(root.join("models/storyteller/tokenizer.json")).unwrap();
    for (name, json) in [("the storyteller", storyteller), ("a large one", large_tokenizer(20_000))] {
        let (bytes, tokenizer) = most(|| Tokenizer::from_json(json.as_bytes(), name));
        let tokenizer = tokenizer.unwrap();
        told(&format!("{name}, {} bytes of JSON", json.len()), bytes);
        let estimate = limits::TOKENIZER_MEMORY_FACTOR * json.len() + limits::TEXT_MEMORY_BYTES;
        assert!(bytes <= estimate, "the tokenizer of {name}: {bytes} bytes for {} of JSON", json.len());
        for text in ["Once upon a time, the old lighthouse. ".repeat(10_000), "abcdefgh".repeat(10_000), "x".into()] {
            let (bytes, _) = most(|| tokenizer.encode(&text, true, true));
            told(&format!("{name}, encoding {} bytes", text.len()), bytes);
            let estimate = limits::ENCODE_MEMORY_FACTOR * text.len() + limits::ENCODE_MEMORY_BYTES;
            assert!(bytes <= estimate, "{name}: {bytes} bytes for {} of text", text.len());
        }
    }
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
