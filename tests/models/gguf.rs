//! GGUF files: every family as its folder, every block format as the reference decodes it, hostile headers, vocabularies.

use crate::support::gguf::{Writer, random_model};
use crate::support::gguf_of_fixture::of_fixture;
use crate::support::models::{all_fixtures, copy, root, storyteller};
use crate::support::random::Random;
use astrai::dtype::BlockFormat;
use astrai::encoding::blocks;
use astrai::engine::*;
use astrai::error::Error;
use astrai::model::families::describe;
use astrai::source::{Gguf, ModelSource};
use astrai::text::Tokenizer;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

pub fn written(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

pub fn open(path: &Path, compute: Type) -> Engine {
    let options = EngineOptions {
        compute,
        threads: 2,
        memory_budget: 64 << 20,
        log_level: LogLevel::Off,
        ..EngineOptions::default()
    };
    Engine::open(path, options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Log probabilities of a prompt, and the greedy tokens after it.
fn answer(engine: &Engine, prompt: &[u32]) -> Event {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(prompt.to_vec())], ..Prompt::default() };
    let options = RequestOptions {
        temperature: Some(0.0),
        ignore_eos: true,
        max_tokens: Some(6),
        prompt_logprobs: true,
        logprobs: Some(1),
        ..RequestOptions::default()
    };
    match engine.submit(&prompt, &options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => *event,
        other => panic!("{other:?}"),
    }
}

pub fn prompt(len: usize, vocab: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 37 + 11) % vocab).collect()
}

#[test]
fn every_family_gives_what_its_folder_gives() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = std::collections::BTreeSet::new();
    for folder in all_fixtures() {
        let Some(converted) = of_fixture(&folder, false) else { continue };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let published = dir.path().join(&name);
        copy(&folder, &published);
        written(&published, "config.json", converted.config.to_string().as_bytes());
        let from_folder = open(&published, Type::F32);
        let vocab = from_folder.info().vocab_size;
        // Of the windows of Qwen's configs, those of some layers alone are not in these files.
        let config = &converted.config;
        let len = match config["use_sliding_window"] == true && config["model_type"] != "mistral" {
            true => config["sliding_window"].as_u64().unwrap() as usize - 7,
            false => 60,
        };
        let want = answer(&from_folder, &prompt(len, vocab));
        for (fused, writer) in [(false, converted.writer), (true, of_fixture(&folder, true).unwrap().writer)] {
            let file = written(dir.path(), &format!("{name}.{fused}.gguf"), &writer.file());
            let from_file = open(&file, Type::F32);
            let got = answer(&from_file, &prompt(len, vocab));
            assert_eq!(want.tokens, got.tokens, "{name}, fused {fused}");
            for (want, got) in want.prompt_logprobs.iter().zip(&got.prompt_logprobs).skip(1) {
                assert!((want - got).abs() < 2e-4, "{name}, fused {fused}: {want} {got}");
            }
            opened.insert(format!("{} {}", converted.arch, from_file.info().model_type));
        }
    }
    let opened: Vec<&str> = opened.iter().map(String::as_str).collect();
    let expected = [
        "arcee arcee",
        "chatglm glm",
        "cohere2 cohere2",
        "deepseek2 deepseek_v2",
        "deepseek2 deepseek_v3",
        "ernie4_5 ernie4_5",
        "exaone4 exaone4",
        "falcon-h1 falcon_h1",
        "gemma gemma",
        "gemma2 gemma2",
        "gemma3 gemma3_text",
        "gemma4 gemma4_text",
        "glm4 glm4",
        "glm4moe glm4_moe",
        "gpt-oss gpt_oss",
        "gptneox gpt_neox",
        "granite granite",
        "granitehybrid granitemoehybrid",
        "granitemoe granitemoe",
        "hunyuan-dense hunyuan_v1_dense",
        "lfm2 lfm2",
        "lfm2moe lfm2_moe",
        "llama llama",
        "llama mistral",
        "llama mixtral",
        "mellum mellum",
        "mistral3 ministral3",
        "nemotron nemotron",
        "nemotron_h nemotron_h",
        "nemotron_h_moe nemotron_h",
        "olmo2 olmo2",
        "olmo2 olmo3",
        "olmoe olmoe",
        "phi2 phi",
        "phi3 phi3",
        "qwen2 qwen2",
        "qwen2moe qwen2_moe",
        "qwen3 qwen3",
        "qwen35 qwen3_5_text",
        "qwen35moe qwen3_5_moe_text",
        "qwen3moe qwen3_moe",
        "qwen3next qwen3_next",
        "seed_oss seed_oss",
        "smollm3 smollm3",
        "stablelm stablelm",
        "starcoder2 starcoder2",
    ];
    assert_eq!(opened, expected);
}

/// `tests/fixtures/gguf/blocks.safetensors`, which `tools/make_gguf_fixtures.py` wrote with the `gguf` package.
#[test]
fn every_format_decodes_to_the_values_of_the_reference() {
    let bytes = std::fs::read(root().join("tests/fixtures/gguf/blocks.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for format in BlockFormat::ALL {
        let stored = tensors.tensor(&format!("{}.bytes", format.name())).unwrap();
        let values = tensors.tensor(&format!("{}.values", format.name())).unwrap();
        let values: Vec<f32> = values.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(stored.data().len() / format.bytes() * format.weights(), values.len());
        assert!(values.len() >= 8 * format.weights());
        let mut got = vec![0.0; values.len()];
        blocks::widen(format, stored.data(), &mut got);
        for (i, (got, want)) in got.iter().zip(&values).enumerate() {
            assert_eq!(got.to_bits() & 0x7fff_ffff, want.to_bits() & 0x7fff_ffff, "{format:?} {i}: {got} {want}");
            assert!(*want == 0.0 || got == want, "{format:?} {i}: {got} {want}");
        }
    }
}

/// Law 1, for every format: a request gives the same bits alone and among others, whatever the number of rows.
#[test]
fn no_format_lets_a_request_notice_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    for format in BlockFormat::ALL {
        let file = written(dir.path(), &format!("{}.gguf", format.name()), &random_model(format).file());
        let engine = open(&file, Type::Auto);
        let submit = |i: usize| {
            let prompt = Prompt { parts: vec![PromptPart::Tokens(prompt(3 + i * 5, 96))], ..Prompt::default() };
            let options = RequestOptions {
                seed: Some(i as u64),
                temperature: Some(0.8),
                ignore_eos: true,
                max_tokens: Some(12),
                logprobs: Some(2),
                ..RequestOptions::default()
            };
            engine.submit(&prompt, &options, Sink::Pull).unwrap()
        };
        let wait = |request: Request| match request.wait(None).unwrap() {
            Next::Event(event) => *event,
            other => panic!("{other:?}"),
        };
        let alone: Vec<Event> = (0..12).map(|i| wait(submit(i))).collect();
        let together: Vec<Request> = (0..12).map(submit).collect();
        for (alone, together) in alone.iter().zip(together.into_iter().map(wait)) {
            assert_eq!(alone.tokens, together.tokens, "{format:?}");
            let bits = |event: &Event| event.top_logprobs.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(alone), bits(&together), "{format:?}");
            assert!(alone.top_logprobs.iter().all(|l| l.is_finite()), "{format:?}");
        }
    }
}

#[test]
fn rounded_inputs_are_close_to_f32_inputs() {
    let dir = tempfile::tempdir().unwrap();
    for format in BlockFormat::ALL {
        let file = written(dir.path(), &format!("{}.gguf", format.name()), &random_model(format).file());
        let (exact, rounded) = (open(&file, Type::F32), open(&file, Type::Auto));
        let (exact, rounded) = (answer(&exact, &prompt(50, 96)), answer(&rounded, &prompt(50, 96)));
        let pairs = exact.prompt_logprobs.iter().zip(&rounded.prompt_logprobs).skip(1);
        let mean = pairs.map(|(a, b)| (a - b).abs()).sum::<f32>() / 49.0;
        assert!(mean > 0.0 && mean < 0.05, "{format:?}: {mean}");
    }
}

#[test]
fn split_files_and_folders_that_hold_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let writer = random_model(BlockFormat::Q8_0);
    let whole = open(&written(dir.path(), "whole.gguf", &writer.file()), Type::F32);
    let want = answer(&whole, &prompt(9, 96)).prompt_logprobs;
    let folder = dir.path().join("split");
    std::fs::create_dir(&folder).unwrap();
    let cut = [0, 4, 11, writer.tensors()];
    for part in 0..3 {
        let bytes = writer.part(cut[part]..cut[part + 1], 3);
        written(&folder, &format!("model-0000{}-of-00003.gguf", part + 1), &bytes);
    }
    written(&folder, "mmproj-model.gguf", b"another thing");
    for path in [folder.clone(), folder.join("model-00002-of-00003.gguf")] {
        let got = answer(&open(&path, Type::F32), &prompt(9, 96)).prompt_logprobs;
        assert_eq!(got[1..], want[1..], "{}", path.display());
    }
    std::fs::remove_file(folder.join("model-00003-of-00003.gguf")).unwrap();
    let error = Engine::open(&folder, EngineOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.message.contains("model-00003-of-00003.gguf is not there"), "{error}");
    // Two models in one folder: which one?
    written(&folder, "other.gguf", &writer.file());
    let error = Engine::open(&folder, EngineOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.message.contains("name one of them"), "{error}");
}

pub fn headers(dir: &Path, bytes: &[u8]) -> Result<Gguf, Error> {
    Gguf::headers(&written(dir, "hostile.gguf", bytes), false)
}

#[test]
fn hostile_headers_are_clear_errors() {
    let dir = tempfile::tempdir().unwrap();
    let good = random_model(BlockFormat::Q8_0);
    let file = good.file();
    headers(dir.path(), &file).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let changed = |change: &dyn Fn(&mut Writer)| {
        let mut writer = good.clone();
        change(&mut writer);
        writer.file()
    };
    let mut twice = good.clone();
    twice.text("general.architecture", "llama");
    let huge = (1u64 << 63).to_le_bytes();
    let cases: [(&str, Vec<u8>, &str); 14] = [
        ("cut", file[..file.len() - 1].to_vec(), "cut off"),
        ("cut in the header", file[..200].to_vec(), "cut off"),
        ("only a beginning", file[..6].to_vec(), "cut off"),
        ("version 1", with(4, &1u32.to_le_bytes()), "version 1"),
        ("version 9", with(4, &9u32.to_le_bytes()), "version 9"),
        ("big-endian", with(4, &3u32.to_be_bytes()), "big-endian"),
        ("tensors", with(8, &huge), "tensors"),
        ("keys", with(16, &huge), "keys of metadata"),
        ("a string of 2^40", with(24, &(1u64 << 40).to_le_bytes()), "bytes"),
        ("a key twice", twice.file(), "twice"),
        ("unknown type", changed(&|w| w.tensor("x", &[32], 77, vec![0; 32])), "unknown type 77"),
        ("a type that is not computed", changed(&|w| w.tensor("x", &[256], 16, vec![0; 66])), "IQ2_XXS"),
        ("no whole blocks", changed(&|w| w.tensor("x", &[2, 40], 8, vec![0; 96])), "no whole blocks"),
        ("twice", changed(&|w| w.tensor("output_norm.weight", &[4], 0, vec![0; 16])), "twice"),
    ];
    for (what, bytes, word) in cases {
        let error = headers(dir.path(), &bytes).map(|_| ()).expect_err(what);
        assert!(error.message.contains(word) && error.message.contains("hostile.gguf"), "{what}: {error}");
    }
    // Places of tensors: the last eight bytes of a tensor's entry are its offset.
    let name = b"blk.0.attn_k.weight";
    let at = file.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 16 + 4;
    for (offset, word) in [(0u64, "overlaps"), (1, "alignment"), (u64::MAX - 31, ""), (1 << 40, "cut off")] {
        let error = headers(dir.path(), &with(at, &offset.to_le_bytes())).map(|_| ()).unwrap_err();
        assert!(error.message.contains(word), "{offset}: {error}");
    }
    // An array in an array, and an alignment that is none.
    let mut nested = Writer::default();
    nested.text("general.architecture", "llama");
    nested.wholes("x", &[9, 0]);
    let mut bytes = nested.file();
    let at = bytes.windows(4).rposition(|window| window == 5u32.to_le_bytes()).unwrap();
    bytes[at..at + 4].copy_from_slice(&9u32.to_le_bytes());
    let error = headers(dir.path(), &bytes).map(|_| ()).unwrap_err();
    assert!(error.message.contains("arrays in an array"), "{error}");
    let error = headers(dir.path(), &changed(&|w| w.whole("general.alignment", 33))).map(|_| ()).unwrap_err();
    assert!(error.message.contains("general.alignment"), "{error}");
    // What is missing is named by its key, and what is not supported by its name.
    let mut bare = Writer::default();
    bare.text("general.architecture", "llama");
    let error = headers(dir.path(), &bare.file()).map(|_| ()).unwrap_err();
    assert!(error.message.contains("llama.block_count"), "{error}");
    let mut other = Writer::default();
    other.text("general.architecture", "mamba");
    let error = headers(dir.path(), &other.file()).map(|_| ()).unwrap_err();
    assert!(error.message.contains("\"mamba\"") && error.message.contains("qwen3moe"), "{error}");
}

/// A file with a key changed, or left out: an error that names it, as each architecture needs it.
#[test]
fn keys_that_are_missing_or_not_understood_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| of_fixture(&crate::support::models::fixture(name), false).unwrap().writer;
    let refused = |what: &str, writer: Writer, words: &[&str]| {
        let path = written(dir.path(), "hostile.gguf", &writer.file());
        let opened = Gguf::headers(&path, false).and_then(|gguf| describe(&gguf, 0).map(|_| ()));
        let error = opened.expect_err(what);
        assert!(words.iter().all(|word| error.message.contains(word)), "{what}: {error}");
    };
    for (fixture, key) in [
        ("gemma3_text", "gemma3.attention.layer_norm_rms_epsilon"),
        ("gemma3_text", "gemma3.feed_forward_length"),
        ("cohere2", "cohere2.attention.layer_norm_epsilon"),
        ("cohere2", "cohere2.logit_scale"),
        ("cohere2", "cohere2.attention.sliding_window"),
        ("granite", "granite.logit_scale"),
        ("glm4_moe", "glm4moe.expert_used_count"),
        ("ministral3", "mistral3.rope.scaling.original_context_length"),
        ("nemotron", "nemotron.attention.head_count"),
        ("gpt_neox", "gptneox.use_parallel_residual"),
        ("gpt_oss", "gpt-oss.attention.sliding_window"),
        ("deepseek_v3", "deepseek2.attention.kv_lora_rank"),
        ("deepseek_v3", "deepseek2.attention.q_lora_rank"),
        ("deepseek_v3", "deepseek2.attention.value_length_mla"),
        ("deepseek_v3", "deepseek2.expert_count"),
    ] {
        refused(key, of(fixture).without(key), &[key, "is missing"]);
    }
    let changed = |name: &str, change: &dyn Fn(&mut Writer)| {
        let mut writer = of(name);
        change(&mut writer);
        writer
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Writer), &'a [&'a str]);
    let cases: [Case; 16] = [
        ("deepseek_v2", &|w| w.whole("deepseek2.attention.temperature_scale", 1), &["deepseek2.attention.temperature"]),
        ("glm4_moe_lite", &|w| w.whole("deepseek2.expert_gating_func", 3), &["deepseek2.expert_gating_func is 3"]),
        ("gpt_oss", &|w| w.whole("gpt-oss.expert_gating_func", 1), &["gpt-oss.expert_gating_func is 1"]),
        ("gpt_oss", &|w| w.tensor("blk.9.ffn_up_exps.bias", &[4], 0, vec![0; 16]), &["stack of biases"]),
        ("glm4", &|w| w.wholes("glm4.rope.dimension_sections", &[8, 12, 12, 0]), &["glm4.rope.dimension_sections"]),
        ("seed_oss", &|w| w.whole("seed_oss.attention.sliding_window", 64), &["seed_oss.attention.sliding_window"]),
        ("gemma", &|w| w.whole("gemma.rope.dimension_count", 6), &["gemma.rope.dimension_count"]),
        ("gemma2", &|w| w.number("gemma2.rope.freq_base_swa", 77.0), &["gemma2.rope.freq_base_swa", "77"]),
        ("granite", &|w| w.flag("granite.rope.scaling.finetuned", false), &["without rotary"]),
        ("granite", &|w| w.whole("granite.expert_count", 5), &["granite.expert_count"]),
        ("granitemoe", &|w| w.whole("granitemoe.expert_shared_feed_forward_length", 5), &["expert_shared"]),
        ("olmoe", &|w| w.whole("olmoe.expert_gating_func", 2), &["olmoe.expert_gating_func"]),
        ("olmoe", &|w| w.number("olmoe.expert_weights_scale", 2.5), &["olmoe.expert_weights_scale", "2.5"]),
        ("olmoe", &|w| w.number("olmoe.attention.clamp_kqv", 8.0), &["olmoe.attention.clamp_kqv"]),
        ("stablelm", &|w| w.tensor("blk.0.attn_q_norm.weight", &[3, 16], 0, vec![0; 192]), &["attn_q_norm"]),
        ("phi3", &|w| w.tensor("rope_factors_long.weight", &[4], 0, vec![0; 16]), &["rope_factors_long", "above 0"]),
    ];
    for (fixture, change, words) in cases {
        refused(words[0], changed(fixture, change), words);
    }
    // A pattern that is not as long as the model is deep; rows that do not add up.
    let mut short = of("olmo3").without("olmo2.attention.sliding_window_pattern");
    short.wholes("olmo2.attention.sliding_window_pattern", &[1, 0]);
    refused("a short pattern", short, &["olmo2.attention.sliding_window_pattern", "each layer"]);
    let fused = || of_fixture(&crate::support::models::fixture("glm4"), true).unwrap().writer;
    let odd = fused().with_shape("blk.1.attn_qkv.weight", &[95, 32]);
    refused("rows", odd, &["blk.1.attn_qkv.weight", "cannot be taken apart"]);
    let odd = of("deepseek_v3").with_shape("blk.1.attn_k_b.weight", &[4, 10, 14]);
    refused("keys", odd, &["blk.1.attn_k_b.weight", "[4, 10, 14]", "[4, 14, 10]"]);
    let mut long = of("deepseek_v2").without("deepseek2.rope.dimension_count");
    long.whole("deepseek2.rope.dimension_count", 16);
    refused("rotated", long, &["deepseek2.attention.key_length_mla is 16", "16 elements"]);
}

/// Headers with bytes changed, cut and repeated: an error or a model, never a panic. `ASTRAI_TEST_ROUNDS` sets how many.
#[test]
fn damaged_headers_never_panic() {
    let rounds = std::env::var("ASTRAI_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000);
    let seed = 20261129;
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = vocabulary("gpt2");
    writer.number("general.sampling.temp", 0.5);
    for (name, shape) in [("token_embd", [8usize, 32]), ("blk.0.attn_q", [32, 32])] {
        writer.tensor(&format!("{name}.weight"), &shape, 8, vec![0; shape[0] * 34]);
    }
    let fixture = |name: &str| of_fixture(&crate::support::models::fixture(name), true).unwrap().writer;
    // Of the others, what is before the weights.
    let files: Vec<(Vec<u8>, usize)> = [
        (writer, usize::MAX),
        (fixture("gemma3"), 3000),
        (fixture("glm4_moe"), 4000),
        (fixture("gpt_oss"), 4000),
        (of_fixture(&crate::support::models::fixture("deepseek_v3"), false).unwrap().writer, 4000),
    ]
    .map(|(writer, most)| (writer.file(), most))
    .into();
    let (mut opened, mut refused) = (0, 0);
    for round in 0..rounds {
        let (file, most) = &files[if round % 6 < 2 { 0 } else { round % 6 - 1 }];
        let mut bytes = file.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len().min(*most));
            match random.below(5) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = random.below(256) as u8,
                2 => bytes[at] ^= 1 << random.below(8),
                3 => {
                    let end = bytes.len().min(at + 8);
                    bytes[at..end].fill([0, 0xff, 0x7f][random.below(3)]);
                }
                _ => {
                    let piece: Vec<u8> = bytes[at..].iter().take(16).copied().collect();
                    let to = random.below(bytes.len().min(*most));
                    bytes.splice(to..to, piece);
                }
            }
        }
        let described = |gguf: Gguf| describe(&gguf, 0).map(|_| gguf);
        let with_weights = !std::ptr::eq(file, &files[0].0);
        let read = headers(dir.path(), &bytes).and_then(|gguf| if with_weights { described(gguf) } else { Ok(gguf) });
        match read.and_then(|gguf| gguf.tokenizer_json()) {
            Ok(_) => opened += 1,
            Err(error) => {
                assert!(!error.message.is_empty());
                refused += 1;
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(refused > rounds / 10);
}

/// A file with a small vocabulary and no weights.
fn vocabulary(kind: &str) -> Writer {
    let mut writer = Writer::default();
    writer.text("general.architecture", "llama");
    for key in ["context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"] {
        writer.whole(&format!("llama.{key}"), 32);
    }
    writer.number("llama.attention.layer_norm_rms_epsilon", 1e-5);
    writer.text("tokenizer.ggml.model", kind);
    writer.text("tokenizer.chat_template", "{{ messages[0].content }}");
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    if kind == "gpt2" {
        writer.text("tokenizer.ggml.pre", "smollm");
        writer.texts(
            "tokenizer.ggml.tokens",
            &["<s>", "</s>", "<think>", "h", "e", "l", "o", "Ġ", "he", "ll", "hell", "Ġhe", "1", "2"],
        );
        writer.wholes("tokenizer.ggml.token_type", &[3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        writer.texts("tokenizer.ggml.merges", &["h e", "l l", "he ll", "Ġ he"]);
    } else {
        let words = ["<unk>", "<s>", "</s>", "\u{2581}", "h", "e", "l", "o", "\u{2581}h", "he", "ll", "llo", "hello"];
        let words: Vec<&str> = words.into_iter().chain(bytes.iter().map(String::as_str)).collect();
        let scores: Vec<f32> = (0..words.len()).map(|i| -(i as f32)).collect();
        let types: Vec<i32> =
            (0..words.len()).map(|i| [2, 3, 3].get(i).copied().unwrap_or(if i < 13 { 1 } else { 6 })).collect();
        writer.texts("tokenizer.ggml.tokens", &words);
        writer.floats("tokenizer.ggml.scores", &scores);
        writer.wholes("tokenizer.ggml.token_type", &types);
    }
    writer.whole("tokenizer.ggml.bos_token_id", u64::from(kind != "gpt2"));
    writer.whole("tokenizer.ggml.eos_token_id", 2);
    writer.whole("tokenizer.ggml.eot_token_id", 1);
    writer
}

fn tokenizer(path: &Path) -> Result<Tokenizer, Error> {
    let json = Gguf::headers(path, true)?.tokenizer_json()?.expect("a vocabulary");
    Tokenizer::from_json(json.as_slice(), "tokenizer")
}

fn tokens(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Vec<u32> {
    tokenizer.encode(text, add_special, false).unwrap()
}

#[test]
fn vocabularies_of_both_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = tokenizer(&written(dir.path(), "gpt2.gguf", &vocabulary("gpt2").file())).unwrap();
    assert_eq!(tokens(&bytes, "hell he12", false), [10, 11, 12, 13]);
    assert_eq!(tokens(&bytes, "he<think>", false), [8, 2]);
    let scores = tokenizer(&written(dir.path(), "llama.gguf", &vocabulary("llama").file())).unwrap();
    // Beginning and space; "▁h" scores better than "he".
    assert_eq!(tokens(&scores, "hello", true), [1, 8, 5, 11]);
    assert_eq!(tokens(&scores, "é", false), [3, 13 + 0xc3, 13 + 0xa9]);
    // Gemma's: no space in front, runs of spaces and new lines are tokens that are found first.
    let mut gemma = vocabulary("gpt2").without("tokenizer.ggml.model").without("tokenizer.ggml.tokens");
    gemma = gemma.without("tokenizer.ggml.token_type");
    gemma.text("tokenizer.ggml.model", "llama");
    gemma.flag("tokenizer.ggml.add_space_prefix", false);
    let names = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", "\n\n", "  ", "   ", "<0x0D>", "\u{2581}", "a", "\u{2581}a"];
    gemma.texts("tokenizer.ggml.tokens", &names);
    gemma.floats("tokenizer.ggml.scores", &[-9.0, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0, 0.0, -3.0, -4.0, -1.0]);
    gemma.wholes("tokenizer.ggml.token_type", &[3, 3, 3, 3, 4, 4, 4, 4, 6, 1, 1, 1]);
    let file = written(dir.path(), "gemma.gguf", &gemma.file());
    let gemma = tokenizer(&file).unwrap();
    assert_eq!(tokens(&gemma, "a a", false), [10, 11]);
    assert_eq!(tokens(&gemma, "a     a\n\n\na\r", false), [10, 7, 6, 10, 5, 4, 10, 8]);
    assert_eq!(gemma.decode(&[10, 7, 6, 11, 5], false).unwrap(), "a      a\n\n");
    // In its `tokenizer.json` the spaces of such tokens are written as in all others.
    let own = Gguf::headers(&file, true).unwrap().tokenizer_json().unwrap().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(own.as_slice()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for (name, id) in [("  ", 6), ("   ", 7)] {
        vocab.remove(name);
        vocab.insert(name.replace(' ', "\u{2581}"), id.into());
    }
    json["added_tokens"] = serde_json::json!([]);
    written(dir.path(), "tokenizer.json", json.to_string().as_bytes());
    assert_eq!(Gguf::headers(&file, true).unwrap().warnings(), Vec::<String>::new().as_slice());
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    // Gemma 4's: the same pieces by merges, whatever the scores say.
    let mut gemma = vocabulary("llama").without("tokenizer.ggml.model");
    gemma.text("tokenizer.ggml.model", "gemma4");
    gemma.flag("tokenizer.ggml.add_space_prefix", false);
    gemma.texts("tokenizer.ggml.merges", &["h e", "l l"]);
    let gemma = tokenizer(&written(dir.path(), "gemma4.gguf", &gemma.file())).unwrap();
    assert_eq!(tokens(&gemma, "hello h", false), [9, 10, 7, 3, 4]);
    assert_eq!(tokens(&gemma, "é", true), [1, 13 + 0xc3, 13 + 0xa9]);
    // Kinds and pre-tokenizers that are not known are refused by name.
    for (key, value) in [("tokenizer.ggml.pre", "newest"), ("tokenizer.ggml.model", "t5")] {
        let mut bytes = vocabulary("gpt2").file();
        let old: &[u8] = if key.ends_with("pre") { b"smollm" } else { b"gpt2" };
        let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
        bytes.splice(at..at + old.len(), value.bytes());
        bytes[at - 8] = value.len() as u8;
        let error = tokenizer(&written(dir.path(), "other.gguf", &bytes)).map(|_| ()).unwrap_err();
        assert!(error.message.contains(&format!("{value:?}")) && error.message.contains("tokenizer.json"), "{error}");
    }
}

/// A `tokenizer.json` beside the file is used where it has the file's tokens.
#[test]
fn a_tokenizer_beside_the_file_has_to_agree() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "model.gguf", &vocabulary("gpt2").file());
    let said = || Gguf::headers(&file, true).unwrap().warnings().to_vec();
    let own = Gguf::headers(&file, true).unwrap().tokenizer_json().unwrap().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(own.as_slice()).unwrap();
    json["model"]["merges"] = serde_json::json!([]);
    written(dir.path(), "tokenizer.json", json.to_string().as_bytes());
    assert_eq!(tokens(&tokenizer(&file).unwrap(), "he", false), [3, 4], "it has no merges");
    assert_eq!(said(), Vec::<String>::new());
    json["model"]["vocab"]["h"] = 12.into();
    json["model"]["vocab"]["1"] = 3.into();
    written(dir.path(), "tokenizer.json", json.to_string().as_bytes());
    assert_eq!(tokens(&tokenizer(&file).unwrap(), "he", false), [8], "it is another vocabulary");
    for (bytes, why) in
        [(json.to_string(), "does not have the same tokens"), ("[".into(), "cannot be read as a tokenizer")]
    {
        written(dir.path(), "tokenizer.json", bytes.as_bytes());
        let [warning] = said().try_into().unwrap();
        assert!(
            warning.contains("tokenizer.json") && warning.contains(why) && warning.contains("model.gguf"),
            "{warning}"
        );
        assert_eq!(tokens(&tokenizer(&file).unwrap(), "he", false), [8]);
    }
}

#[test]
fn metadata_is_what_a_folder_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = vocabulary("gpt2");
    writer.number("general.sampling.temp", 0.5);
    writer.text("tokenizer.chat_template.tool_use", "tools");
    writer.tensor("token_embd.weight", &[14, 32], 0, vec![0; 14 * 128]);
    let gguf = Gguf::headers(&written(dir.path(), "model.gguf", &writer.file()), false).unwrap();
    let generation = gguf.generation_config().unwrap().unwrap();
    assert_eq!(generation["eos_token_id"], serde_json::json!([2, 1]));
    assert_eq!((generation["temperature"].as_f64(), generation["do_sample"].as_bool()), (Some(0.5), Some(true)));
    assert_eq!(gguf.special_tokens().unwrap().get("eos_token"), Some("<think>"));
    assert_eq!(gguf.chat_template().unwrap().as_deref(), Some("{{ messages[0].content }}"));
    assert_eq!(gguf.named_templates()[0].name, "tool_use");
    let config = gguf.config().unwrap();
    assert_eq!((config["vocab_size"].as_u64(), config["tie_word_embeddings"].as_bool()), (Some(14), Some(true)));
    assert_eq!(config["rms_norm_eps"].as_f64(), Some(1e-5));
    assert!(storyteller().is_dir());
}
