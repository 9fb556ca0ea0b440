//! Quantized weights kept in a file: used when they are this model's, made anew whenever they are not, and never in the way.

use crate::support::lines::Lines;
use crate::support::models::{copy, fixture};
use astrai::Status;
use astrai::dtype::DType;
use astrai::engine::*;
use astrai::model::random_model;
use astrai::source::{TensorFile, TensorInfo};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const USED: &str = "quantized weights are those of";
const KEPT: &str = "quantized weights are kept in";
const ANEW: &str = "made anew";

/// What the log lines about kept weights have in them.
const ABOUT: &str = "quantized weights";

fn options(weights: Type, cache: Option<&Path>, lines: &Lines) -> EngineOptions {
    let options = EngineOptions {
        weights,
        weights_cache: cache.map(Path::to_owned),
        threads: 2,
        memory_budget: 64 << 20,
        ..EngineOptions::default()
    };
    lines.at(LogLevel::Debug, options)
}

/// Log probabilities of a prompt, as bits.
fn bits(engine: &Engine) -> Vec<u32> {
    let prompt = Prompt {
        parts: vec![PromptPart::Tokens((0..50).map(|i| (i * i * 7 + 3) % 64).collect())],
        ..Prompt::default()
    };
    let options = RequestOptions { max_tokens: Some(0), prompt_logprobs: true, ..RequestOptions::default() };
    match engine.submit(&prompt, &options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => {
            assert_eq!(event.error, None);
            event.prompt_logprobs.iter().skip(1).map(|l| l.to_bits()).collect()
        }
        other => panic!("{other:?} instead of the terminal event"),
    }
}

/// The bits of a model opened with these options, and what was said about kept weights.
fn open(dir: &Path, weights: Type, cache: Option<&Path>) -> (Vec<u32>, Vec<String>) {
    let lines = Lines::default();
    let engine = Engine::open(dir, options(weights, cache, &lines)).unwrap();
    let bits = bits(&engine);
    drop(engine);
    (bits, lines.with(ABOUT))
}

/// The files of a folder, which are whole safetensors files.
fn files(cache: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(cache) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    files
}

fn metadata(file: &Path, key: &str) -> String {
    let bytes = std::fs::read(file).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    metadata.metadata().as_ref().unwrap()[key].clone()
}

#[track_caller]
fn said(lines: &[String], wanted: &[&str]) {
    let fits = lines.len() == wanted.len() && lines.iter().zip(wanted).all(|(line, part)| line.contains(part));
    assert!(fits, "{lines:#?} instead of {wanted:?}");
}

#[test]
fn the_second_open_uses_what_the_first_one_kept_and_answers_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("made/if/need be");
    let mut count = 0;
    // Own head, tied head, biases, experts, several files.
    for name in ["astrai_gqa", "llama_bias", "qwen3", "qwen3_moe", "llama_sharded"] {
        for weights in [Type::Q8, Type::Q5, Type::Q4] {
            let (want, none) = open(&fixture(name), weights, None);
            said(&none, &[]);
            let (first, lines) = open(&fixture(name), weights, Some(&cache));
            said(&lines, &[KEPT]);
            let (second, lines) = open(&fixture(name), weights, Some(&cache));
            said(&lines, &[USED]);
            assert!(first == want && second == want, "{name} {weights:?}");
            count += 1;
            assert_eq!(files(&cache).len(), count, "a file for each model and format");
        }
    }
    // Weights as stored have nothing to keep.
    let (_, lines) = open(&fixture("qwen3"), Type::Auto, Some(&cache));
    said(&lines, &["option weights_cache is not used"]);
    assert_eq!(files(&cache).len(), count);
}

/// What is computed with is the file: other scales in it are other answers.
#[test]
fn it_is_the_file_that_is_used_mapped_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let (want, _) = open(&fixture("qwen3"), Type::Q8, Some(cache));
    let file = &files(cache)[0];
    let mut bytes = std::fs::read(file).unwrap();
    // The last panel of the last tensor has its scales here.
    let (header, parsed) = SafeTensors::read_metadata(&bytes).unwrap();
    let info = parsed.tensors()["model.layers.0.mlp.down_proj.weight"].clone();
    let at = 8 + header + info.data_offsets.0;
    assert_eq!(at % 64, 0, "panels lie on cache lines");
    bytes[at..at + 32].fill(0);
    std::fs::write(file, &bytes).unwrap();
    for no_mmap in [false, true] {
        let lines = Lines::default();
        let engine =
            Engine::open(&fixture("qwen3"), EngineOptions { no_mmap, ..options(Type::Q8, Some(cache), &lines) })
                .unwrap();
        assert_ne!(bits(&engine), want, "no_mmap: {no_mmap}");
        said(&lines.with(ABOUT), &[USED]);
    }
}

#[test]
fn a_damaged_file_costs_a_log_line_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let (want, _) = open(&fixture("qwen3"), Type::Q4, Some(cache));
    let file = files(cache).remove(0);
    let good = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let edit = |from: &str, to: &str| {
        let text = String::from_utf8(good[8..header].to_vec()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        let text = text.replacen(from, to, 1);
        [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &good[header..]].concat()
    };
    let mut damaged: Vec<(String, Vec<u8>)> = [0, 1, 8, 100, header, header + 1, good.len() / 2, good.len() - 1]
        .map(|n| (format!("{n} bytes"), good[..n].to_vec()))
        .into();
    let version = format!("\"version\":\"{}\"", astrai::encoding::VERSION);
    for (from, to) in [
        (version.as_str(), "\"version\":\"0\""),
        ("\"recipe\":\"q4\"", "\"recipe\":\"q8\""),
        ("\"version\"", "\"another\""),
        ("\"__metadata__\":{", "\"__metadata__\":{\"a\":3,"),
        ("model.layers.0.mlp.down_proj.weight", "model.layers.7.mlp.down_proj.weight"),
        ("\"U8\"", "\"I8\""),
        // One byte less of padding: the matrices are no longer on cache lines.
        ("} ", "}"),
    ] {
        damaged.push((format!("{to} for {from}"), edit(from, to)));
    }
    for (what, bytes) in damaged {
        std::fs::write(&file, bytes).unwrap();
        let (got, lines) = open(&fixture("qwen3"), Type::Q4, Some(cache));
        assert_eq!(lines.len(), 2, "{what}: {lines:?}");
        said(&lines, &[ANEW, KEPT]);
        assert!(got == want, "{what}");
        assert_eq!(files(cache), [&*file], "{what}: nothing is left beside it");
        assert!(std::fs::read(&file).unwrap() == good, "{what}: it is as it was");
    }
}

#[test]
fn other_weights_under_the_same_name_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (model, cache) = (folder.path().join("model"), folder.path().join("cache"));
    copy(&fixture("qwen3"), &model);
    open(&model, Type::Q8, Some(&cache));
    // A quarter into a tensor, where no sample is taken.
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, parsed) = SafeTensors::read_metadata(&bytes).unwrap();
    let (begin, end) = parsed.tensors()["model.layers.0.mlp.up_proj.weight"].data_offsets;
    // The signs of two elements, be they f32 or bf16.
    let mut change = |at: usize| {
        let at = 8 + header + at / 4 * 4;
        (bytes[at + 1], bytes[at + 3]) = (bytes[at + 1] ^ 0x80, bytes[at + 3] ^ 0x80);
        std::fs::write(&path, &bytes).unwrap();
    };
    change(begin + (end - begin) / 4);
    let (want, _) = open(&model, Type::Q8, None);
    let (got, lines) = open(&model, Type::Q8, Some(&cache));
    said(&lines, &["was made of other weights", KEPT]);
    assert_eq!(got, want);
    assert_eq!(files(&cache).len(), 1, "the sample is the same, and so is the name");
    said(&open(&model, Type::Q8, Some(&cache)).1, &[USED]);
    // The middle is sampled, of every tensor.
    for count in 2..4 {
        change(begin + (end - begin) / 2);
        change(begin + (end - begin) / 2 - 8 * count);
        said(&open(&model, Type::Q8, Some(&cache)).1, &[KEPT]);
        assert_eq!(files(&cache).len(), count);
    }
}

/// Makes the weights of a folder as old as this.
fn written_ago(model: &Path, age: Duration) {
    let file = File::options().write(true).open(model.join("model.safetensors")).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn a_copy_of_the_model_uses_the_file_and_is_known_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, cache] = ["one", "two", "cache"].map(|name| folder.path().join(name));
    copy(&fixture("qwen3"), &one);
    copy(&fixture("qwen3"), &two);
    written_ago(&one, Duration::from_secs(7200));
    written_ago(&two, Duration::from_secs(3600));
    let (want, lines) = open(&one, Type::Q8, Some(&cache));
    said(&lines, &[KEPT]);
    let file = files(&cache).remove(0);
    let (stamp, rest) = (metadata(&file, "stamp"), std::fs::read(&file).unwrap());
    let (got, lines) = open(&two, Type::Q8, Some(&cache));
    said(&lines, &[USED]);
    assert_eq!(got, want);
    let noted = metadata(&file, "stamp");
    assert_ne!(noted, stamp, "the copy has other times");
    let now = std::fs::read(&file).unwrap();
    let changed = now.iter().zip(&rest).filter(|(a, b)| a != b).count();
    assert!(now.len() == rest.len() && changed <= noted.len(), "{changed} bytes were changed");
    open(&two, Type::Q8, Some(&cache));
    assert_eq!(metadata(&file, "stamp"), noted);
    assert_eq!(files(&cache).len(), 1);
    // Written a moment ago, times do not tell, and the hash decides; a known stamp stays.
    written_ago(&two, Duration::ZERO);
    said(&open(&two, Type::Q8, Some(&cache)).1, &[USED]);
    assert_eq!(metadata(&file, "stamp"), noted);
}

/// What was checked is what is used, though another file took its name in between.
#[test]
fn a_file_is_loaded_from_where_its_header_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.safetensors");
    let write = |value: u8| {
        let info = TensorInfo { name: "a".into(), dtype: DType::U8, shape: vec![2, 64] };
        TensorFile::write(&path, &[("value", &value.to_string())], &[(info, &[value; 128])], &mut || true).unwrap();
    };
    for no_mmap in [false, true] {
        write(1);
        let file = TensorFile::find(&path).unwrap().unwrap();
        write(2);
        assert_eq!(file.metadata("value"), Some("1"));
        assert!(file.overwrite("value", "3").is_err(), "the other file is not touched");
        let loaded = file.load(no_mmap, &mut || true).unwrap();
        assert_eq!(loaded[0].1.as_slice(), [1; 128]);
        assert_eq!(TensorFile::find(&path).unwrap().unwrap().metadata("value"), Some("2"));
    }
    let given_up = TensorFile::find(&path).unwrap().unwrap().load(true, &mut || false).unwrap_err();
    assert_eq!(given_up.status, Status::Aborted);
    assert!(TensorFile::find(&folder.path().join("none")).unwrap().is_none());
}

#[test]
fn a_folder_that_cannot_be_used_costs_a_log_line() {
    let folder = tempfile::tempdir().unwrap();
    let (want, _) = open(&fixture("qwen3"), Type::Q8, None);
    std::fs::write(folder.path().join("a file"), "").unwrap();
    for place in ["a file", "a file/below"] {
        let (got, lines) = open(&fixture("qwen3"), Type::Q8, Some(&folder.path().join(place)));
        assert!(lines.last().is_some_and(|line| line.contains("are not kept")), "{lines:?}");
        assert_eq!(got, want);
    }
    assert_eq!(std::fs::read(folder.path().join("a file")).unwrap(), b"");
    let empty = options(Type::Q8, Some(Path::new("")), &Lines::default());
    let error = Engine::open(&fixture("qwen3"), empty).map(|_| ()).unwrap_err();
    assert_eq!((error.status, error.subject.as_str()), (Status::Argument, "weights_cache"));
}

/// A model that is no files has no stamp: its bytes are hashed each time.
#[test]
fn a_model_made_in_memory_is_known_by_its_contents() {
    let folder = tempfile::tempdir().unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(fixture("qwen3/config.json")).unwrap()).unwrap();
    let open = |seed| {
        let lines = Lines::default();
        let source = random_model("random", config.clone(), seed).unwrap();
        let engine = Engine::open_source(Box::new(source), options(Type::Q8, Some(folder.path()), &lines)).unwrap();
        (bits(&engine), lines.with(ABOUT))
    };
    let (first, lines) = open(1);
    said(&lines, &[KEPT]);
    let (second, lines) = open(1);
    said(&lines, &[USED]);
    assert_eq!(first, second);
    let (other, lines) = open(2);
    said(&lines, &[KEPT]);
    assert_ne!(first, other);
    assert_eq!(files(folder.path()).len(), 2);
}

/// At every call of the progress function, those while the file is written included: no file, and no part of one.
#[test]
fn giving_up_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let open = |stop: usize| {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        let progress: ProgressFn = Box::new(move |done, total| {
            let mut seen = seen.lock().unwrap();
            seen.push((done, total));
            seen.len() <= stop
        });
        let options = EngineOptions { progress: Some(progress), ..options(Type::Q4, Some(&cache), &Lines::default()) };
        let engine = Engine::open(&fixture("llama"), options);
        let seen = calls.lock().unwrap().clone();
        (engine.map(|_| ()), seen)
    };
    let (engine, seen) = open(usize::MAX);
    engine.unwrap();
    assert_eq!(files(&cache).len(), 1);
    assert!(seen.iter().map(|(done, _)| done).is_sorted(), "{seen:?}");
    assert!(seen.iter().all(|(_, total)| *total == seen[0].1), "{seen:?}");
    assert!(seen.iter().filter(|(done, total)| done == total).count() > 1, "writing asks too: {seen:?}");
    // With the file there: while it is loaded.
    let (engine, with_file) = open(usize::MAX);
    engine.unwrap();
    for stop in 0..with_file.len() {
        let (engine, calls) = open(stop);
        assert_eq!(engine.unwrap_err().status, Status::Aborted, "call {stop}");
        assert_eq!(calls.len(), stop + 1);
        assert_eq!(files(&cache).len(), 1);
    }
    for stop in 0..seen.len() {
        std::fs::remove_dir_all(&cache).ok();
        let (engine, calls) = open(stop);
        assert_eq!(engine.unwrap_err().status, Status::Aborted, "call {stop}");
        assert_eq!(calls, seen[..=stop]);
        assert_eq!(files(&cache), <[PathBuf; 0]>::default());
    }
}

/// Two that open at the same time both have a whole file at any moment.
#[test]
fn engines_that_open_together_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (want, _) = open(&fixture("astrai_moe"), Type::Q4, None);
    for _ in 0..5 {
        std::fs::remove_dir_all(folder.path().join("cache")).ok();
        let cache = &folder.path().join("cache");
        std::thread::scope(|scope| {
            let openers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| open(&fixture("astrai_moe"), Type::Q4, Some(cache)).0)).collect();
            assert!(openers.into_iter().all(|opener| opener.join().unwrap() == want));
        });
        assert_eq!(files(cache).len(), 1);
    }
}

#[test]
fn a_budget_counts_kept_weights_as_made_ones() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |cache| Engine::plan(&fixture("qwen3"), &options(Type::Q8, cache, &Lines::default())).unwrap();
    let before = plan(Some(folder.path()));
    open(&fixture("qwen3"), Type::Q8, Some(folder.path()));
    assert_eq!(plan(Some(folder.path())), before);
    assert_eq!(plan(None), before);
}
