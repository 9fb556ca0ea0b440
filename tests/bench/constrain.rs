//! What constraints cost at a real vocabulary size: the tree of the vocabulary, a compile, a request's matcher, a mask;
//! and what one constrained stream costs others.
//!
//!     cargo bench --bench constrain
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use astrai::Error;
use astrai::constrain::{Grammar, Kind, TokenTrie, compile, is_set, mask_words};
use astrai::engine::{Engine, EngineOptions, Prompt, PromptPart, Request, RequestOptions, Settings, Sink};
use astrai::text::Tokenizer;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

const VOCAB: usize = 151_936;
const SEED: u64 = 3;
const ANSWERS: usize = 40;
const TOKENS_MAX: usize = 200;
const STREAM_TOKENS: u32 = 200;
const ROUNDS: usize = 11;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// A byte-level vocabulary of that many names: all bytes, runs of digits and marks, and words with and without a space before them.
fn tokenizer() -> Result<Tokenizer, Error> {
    let mut random = Random(SEED);
    let letters = "etaoinshrdlcumwfgypbvkjxqz".as_bytes();
    let mut names: BTreeSet<String> = ('!'..='~').map(String::from).collect();
    names.extend(('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='ń').map(String::from));
    let marks =
        ["{\"", "\":", "\",", "},", "\"}", "\":\"", "[\"", "\"]", "Ġ\"", "ĊĠĠ", "://", "();", "==", "0", "12", "345"];
    names.extend(marks.map(String::from));
    while names.len() < VOCAB {
        let mut name = String::from(["", "Ġ"][random.below(2)]);
        for _ in 0..2 + random.below(8) {
            // Frequent letters more often.
            let most = 12 + random.below(15);
            name.push(char::from(letters[random.below(most) % 26]));
        }
        names.insert(name);
    }
    let vocab: Map<String, Value> = names.into_iter().enumerate().map(|(id, name)| (name, id.into())).collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let file = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(file.to_string().as_bytes(), "bench")
}

/// Ten fields of several kinds.
fn schema() -> String {
    let kinds = [
        json!({"type": "string", "minLength": 1, "maxLength": 60}),
        json!({"enum": ["glad", "cross", "weary"]}),
        json!({"type": "integer", "minimum": 0, "maximum": 9999}),
        json!({"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 1, "maxItems": 4}),
        json!({"type": "number"}),
    ];
    let fields: Map<String, Value> = (0..10).map(|i| (format!("field_{i}"), kinds[i % kinds.len()].clone())).collect();
    let names: Vec<String> = fields.keys().cloned().collect();
    json!({"type": "object", "properties": fields, "required": names, "additionalProperties": false}).to_string()
}

fn told(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what:34} {:9.1} median {:9.1} p90 {:9.1} longest, of {}", at(0.5), at(0.9), at(1.0), times.len());
}

/// Microseconds since.
fn micros(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e6
}

fn main() -> Result<(), Error> {
    let tokenizer = tokenizer()?;
    println!("vocabulary {}, seed {SEED}; microseconds", tokenizer.vocab_size());
    let begin = Instant::now();
    let trie = Arc::new(TokenTrie::new(&tokenizer, VOCAB)?);
    told("tree of the vocabulary", vec![micros(begin)]);
    let text = schema();
    let compiles = (0..20).map(|_| {
        let begin = Instant::now();
        compile(&trie, Kind::JsonSchema, &text).map(|grammar| (micros(begin), grammar))
    });
    let compiles: Vec<(f64, Arc<dyn Grammar>)> = compiles.collect::<Result<_, _>>()?;
    told("compile of ten fields", compiles.iter().map(|(time, _)| *time).collect());
    let grammar = &compiles[0].1;
    let (mut random, mut mask) = (Random(SEED), vec![0; mask_words(VOCAB)]);
    let (mut matchers, mut masks, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ANSWERS {
        let begin = Instant::now();
        let mut matcher = grammar.matcher()?;
        matchers.push(micros(begin));
        for _ in 0..TOKENS_MAX {
            let begin = Instant::now();
            matcher.allowed(&mut mask)?;
            masks.push(micros(begin));
            let start = random.below(VOCAB);
            let Some(id) = (0..VOCAB).map(|i| ((start + i) % VOCAB) as u32).find(|id| is_set(&mask, *id)) else {
                break;
            };
            let begin = Instant::now();
            matcher.accept(id)?;
            tokens.push(micros(begin));
        }
    }
    told("matcher of a request", matchers);
    told("mask", masks);
    told("token", tokens);
    streams()
}

/// What one constrained stream among sixteen costs the other fifteen, on the storyteller: time from submit to their last end.
fn streams() -> Result<(), Error> {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/storyteller");
    let engine = Engine::open(model.as_ref(), EngineOptions { max_running: 16, ..EngineOptions::default() })?;
    let constraint = engine.compile_constraint(Kind::Regex, "([a-z]{1,12} )*")?;
    let settings = Some(Arc::new(Settings { constraint: Some(constraint), ..Settings::default() }));
    let run = |settings: Option<Arc<Settings>>| -> Result<f64, Error> {
        let begin = Instant::now();
        let submit = |seed: u64, settings: Option<Arc<Settings>>| {
            let part = PromptPart::Text { text: format!("Once upon a time {seed}"), special: false };
            let options = RequestOptions {
                seed: Some(seed),
                ignore_eos: true,
                max_tokens: Some(STREAM_TOKENS),
                temperature: Some(1.0),
                settings,
                ..RequestOptions::default()
            };
            engine.submit(&Prompt { parts: vec![part], ..Prompt::default() }, &options, Sink::Pull)
        };
        let first = submit(0, settings)?;
        let others: Vec<Request> = (1..16).map(|seed| submit(seed, None)).collect::<Result<_, _>>()?;
        for request in &others {
            request.wait(None)?;
        }
        let time = micros(begin);
        first.cancel();
        first.wait(None)?;
        engine.clear_cache()?;
        Ok(time)
    };
    let (mut free, mut one) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        free.push(run(None)?);
        one.push(run(settings.clone())?);
    }
    told("16 streams, none constrained", free);
    told("16 streams, one constrained", one);
    Ok(())
}
