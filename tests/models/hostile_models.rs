//! Checkpoints whose parts contradict each other: every one a clear error that names what was found and what was
//! expected, before any memory is sized by it.

use crate::support::lines::Lines;
use crate::support::models::{self, storyteller};
use crate::support::own_process::alone;
use astrai::engine::*;
use astrai::{Error, Status, limits};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// A copy of a fixture with its config changed.
fn changed(fixture: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let from = models::fixture(fixture);
    let dir = TempDir::new().unwrap();
    std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

/// Type, shape and bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// As [`changed`], with other tensors.
fn rewritten(
    fixture: &str,
    change: impl FnOnce(&mut Value),
    tensors: impl FnOnce(&mut BTreeMap<String, Tensor>),
) -> TempDir {
    let dir = changed(fixture, change);
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
    let mut all = all.map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect();
    tensors(&mut all);
    let views = all.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a sound tensor"))
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    dir
}

/// A fixture with more tensors, all zero and of f32.
fn with_more(fixture: &str, names: &[(&str, &[usize])]) -> TempDir {
    let zeros = |shape: &[usize]| (Dtype::F32, shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()]);
    let add = |all: &mut BTreeMap<String, Tensor>| {
        all.extend(names.iter().map(|(name, shape)| ((*name).to_owned(), zeros(shape))));
    };
    rewritten(fixture, |_| {}, add)
}

/// Opens and returns the warnings of the log.
fn warnings(dir: &TempDir) -> (Engine, Vec<String>) {
    let lines = Lines::default();
    let options = EngineOptions { memory_budget: 12 << 20, threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(dir.path(), lines.at(LogLevel::Warn, options)).unwrap();
    (engine, lines.all())
}

/// The log probabilities of a few greedy tokens.
fn logprobs(engine: &Engine) -> (Vec<u32>, Vec<f32>) {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![3, 1, 4, 1, 5])], ..Prompt::default() };
    let options = RequestOptions {
        max_tokens: Some(4),
        ignore_eos: true,
        temperature: Some(0.0),
        logprobs: Some(0),
        ..RequestOptions::default()
    };
    match engine.submit(&prompt, &options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => (event.tokens.clone(), event.logprobs.clone()),
        other => panic!("{other:?}"),
    }
}

fn open(dir: &TempDir) -> Result<Engine, Error> {
    Engine::open(dir.path(), EngineOptions { memory_budget: 12 << 20, threads: 1, ..EngineOptions::default() })
}

fn refused(dir: &TempDir, status: Status, says: &[&str]) {
    // A budget that even absurd sizes fit into: what is wrong is the checkpoint, not the memory.
    let options = EngineOptions { memory_budget: 1 << 50, threads: 1, ..EngineOptions::default() };
    let error = Engine::open(dir.path(), options).map(|_| ()).expect_err("the checkpoint is broken");
    assert_eq!(error.status, status, "{error}");
    for part in says {
        assert!(error.message.contains(part) || error.subject.contains(part), "{error} does not mention {part}");
    }
}

#[test]
fn nonsense_in_the_config_names_its_key() {
    for (key, value) in [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(-4)),
        ("num_attention_heads", json!(1e300)),
        ("num_key_value_heads", json!(3)),
        ("num_hidden_layers", json!(4_000_000_000u64)),
        ("hidden_size", json!("wide")),
        ("vocab_size", json!(1u64 << 60)),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!(-1.0)),
        ("hidden_act", json!(7)),
    ] {
        let dir = changed("llama_f16", |c| c[key] = value);
        refused(&dir, Status::Format, &["config.json", key]);
    }
}

#[test]
fn hidden_size_must_divide_into_heads() {
    let dir = changed("llama_f16", |c| {
        c["num_attention_heads"] = json!(7);
        c["num_key_value_heads"] = json!(7);
        c.as_object_mut().unwrap().remove("head_dim");
    });
    refused(&dir, Status::Format, &["hidden_size", "num_attention_heads"]);
}

#[test]
fn absurd_sizes_within_the_limits_fail_on_the_tensors_and_allocate_nothing() {
    for key in ["intermediate_size", "vocab_size"] {
        let dir = changed("llama_f16", |c| c[key] = json!(1 << 20));
        refused(&dir, Status::Format, &["shape"]);
    }
}

#[test]
fn a_long_advertised_context_opens() {
    let dir = changed("llama_f16", |c| c["max_position_embeddings"] = json!(16_000_000));
    let engine = open(&dir).unwrap();
    assert!(engine.info().context_length < 16_000_000, "what the pages hold");
    let dir = changed("llama_f16", |c| c["max_position_embeddings"] = json!(1u64 << 40));
    refused(&dir, Status::Format, &["max_position_embeddings"]);
}

#[test]
fn an_unknown_family_lists_the_known_ones() {
    let dir = changed("llama", |c| c["model_type"] = json!("llamma"));
    refused(&dir, Status::Unsupported, &["llamma", "qwen3_moe", "autoregressive_lm"]);
}

#[test]
fn an_unknown_activation_or_rope_scaling_is_not_guessed() {
    refused(&changed("llama_f16", |c| c["hidden_act"] = json!("warp")), Status::Unsupported, &["warp", "silu"]);
    let dir = changed("llama_f16", |c| c["rope_scaling"] = json!({"rope_type": "warp", "factor": 2.0}));
    refused(&dir, Status::Unsupported, &["warp", "llama3"]);
    let dir = changed("llama_f16", |c| c["rope_scaling"] = json!({"rope_type": "llama3", "factor": "two"}));
    refused(&dir, Status::Format, &["factor"]);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let dir = changed("llama_f16", |c| c["num_hidden_layers"] = json!(4));
    refused(&dir, Status::Format, &["model.layers.3.", "no tensor", "lacks 8 others", "download is incomplete"]);
    let dir = changed("llama", |c| c["tie_word_embeddings"] = json!(false));
    refused(&dir, Status::Format, &["lm_head.weight", "no tensor", "tie_word_embeddings"]);
}

#[test]
fn a_tensor_that_would_change_the_model_is_an_error() {
    let dir = changed("llama_bias", |c| c["attention_bias"] = json!(false));
    refused(&dir, Status::Format, &["not part of", "bias", "another model"]);
    for name in
        ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight", "lm_head.bias", "new.weight"]
    {
        refused(&with_more("llama_f16", &[(name, &[8])]), Status::Format, &["not part of", name]);
    }
    let adapter = with_more("llama_f16", &[("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 8])]);
    refused(&adapter, Status::Format, &["not part of", "lora_A", "adapter"]);
}

/// What nobody needs is left, with one warning that names it; the model computes the same.
#[test]
fn tensors_nobody_needs_are_left_with_a_warning() {
    let (engine, none) = warnings(&changed("llama_f16", |_| {}));
    assert!(none.is_empty(), "{none:?}");
    let expected = logprobs(&engine);
    for names in [
        &[("v_head.summary.weight", &[1, 32][..]), ("v_head.summary.bias", &[1])][..],
        &[("model.layers.0.self_attn.k_scale", &[1]), ("model.layers.0.self_attn.v_scale", &[1])],
        &[("model.layers.0.self_attn.rotary_emb.inv_freq", &[4]), ("rope.freqs", &[4])],
        &[("model.layers.0.self_attn.masked_bias", &[]), ("model.layers.0.attn.bias", &[1, 1, 4, 4])],
        &[("model.layers.3.input_layernorm.weight", &[32]), ("mtp.norm.weight", &[32])],
        &[("vision_tower.patch.weight", &[4, 4]), ("score.weight", &[2, 32])],
    ] {
        let (engine, lines) = warnings(&with_more("llama_f16", names));
        let [line] = lines.as_slice() else { panic!("{names:?}: {lines:?}") };
        assert!(names.iter().all(|(name, _)| line.contains(name)), "{line}");
        assert_eq!(logprobs(&engine), expected, "{names:?}");
    }
    // A config that counts fewer layers than there are: the others are extra.
    let (_, lines) = warnings(&changed("llama_f16", |c| c["num_hidden_layers"] = json!(2)));
    assert!(lines.len() == 1 && lines[0].contains("model.layers.2.") && lines[0].contains(": 9: "), "{lines:?}");
}

/// As transformers: the head in the file counts, unless it is the embedding.
#[test]
fn a_tied_checkpoint_with_a_head_of_its_own_uses_it() {
    let (untied, none) = warnings(&changed("llama_f16", |_| {}));
    assert!(none.is_empty(), "{none:?}");
    let (both, lines) = warnings(&changed("llama_f16", |c| c["tie_word_embeddings"] = json!(true)));
    assert!(
        lines.len() == 1 && lines[0].contains("lm_head.weight") && lines[0].contains("tie_word_embeddings"),
        "{lines:?}"
    );
    assert_eq!(logprobs(&both), logprobs(&untied));

    let head = |all: &mut BTreeMap<String, Tensor>, from: &str, to: &str| {
        let tensor = all.get(from).unwrap().clone();
        all.insert(to.to_owned(), tensor);
    };
    let tied = |c: &mut Value| c["tie_word_embeddings"] = json!(true);
    let equal = rewritten("llama_f16", tied, |all| head(all, "model.embed_tokens.weight", "lm_head.weight"));
    let without = rewritten("llama_f16", tied, |all| drop(all.remove("lm_head.weight")));
    let only = rewritten("llama_f16", tied, |all| {
        head(all, "model.embed_tokens.weight", "lm_head.weight");
        all.remove("model.embed_tokens.weight");
    });
    let (engine, lines) = warnings(&without);
    let expected = logprobs(&engine);
    assert!(lines.is_empty() && expected != logprobs(&untied));
    let (engine, lines) = warnings(&equal);
    assert!(lines.len() == 1 && lines[0].contains("not held twice"), "{lines:?}");
    assert_eq!(logprobs(&engine), expected);
    let (engine, _) = warnings(&only);
    assert_eq!(logprobs(&engine), expected, "saved with the output matrix only");

    let wrong = rewritten("llama_f16", tied, |all| {
        all.insert("lm_head.weight".into(), (Dtype::F32, vec![4, 32], vec![0; 4 * 32 * 4]));
    });
    refused(&wrong, Status::Format, &["lm_head.weight", "[4, 32]", "[128, 32]"]);
    // Quantized, the head is made of the right matrix, too.
    let quantized = |dir: &TempDir| {
        let options =
            EngineOptions { weights: Type::Q8, memory_budget: 12 << 20, threads: 1, ..EngineOptions::default() };
        logprobs(&Engine::open(dir.path(), options).unwrap())
    };
    assert_eq!(quantized(&changed("llama_f16", tied)), quantized(&changed("llama_f16", |_| {})));
    assert_eq!(quantized(&equal), quantized(&without));
}

/// The weights' format is the cause, not the tensor that is missing because of it.
#[test]
fn weights_that_others_quantized_are_refused_by_their_format() {
    let renamed = |method: Value, part: &str, dtype: Dtype| {
        rewritten(
            "llama_f16",
            |c| c["quantization_config"] = method,
            |all| {
                for name in all.keys().filter(|name| name.contains("proj.weight")).cloned().collect::<Vec<_>>() {
                    all.remove(&name);
                    let size = dtype.bitsize() / 8;
                    all.insert(name.replace("weight", part), (dtype, vec![4, 4], vec![0; 16 * size]));
                }
            },
        )
    };
    let gptq = json!({"quant_method": "gptq", "bits": 4});
    refused(&renamed(gptq, "qweight", Dtype::I32), Status::Unsupported, &["quantized by GPTQ, 4 bits", "qweight"]);
    refused(&renamed(json!({"quant_method": "awq"}), "qweight", Dtype::I32), Status::Unsupported, &["AWQ"]);
    refused(&renamed(Value::Null, "qweight", Dtype::I32), Status::Unsupported, &["GPTQ or AWQ", "original model"]);
    let bnb = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
    refused(&renamed(bnb, "weight", Dtype::U8), Status::Unsupported, &["bitsandbytes"]);
    refused(&renamed(json!({"quant_method": "fp8"}), "weight", Dtype::F8_E4M3), Status::Unsupported, &["FP8"]);
    refused(&renamed(Value::Null, "weight", Dtype::F8_E4M3), Status::Unsupported, &["FP8", "there is a tensor"]);
    refused(&renamed(Value::Null, "weight_packed", Dtype::I32), Status::Unsupported, &["compressed-tensors"]);
    let mlx = rewritten(
        "llama_f16",
        |c| c["quantization"] = json!({"group_size": 64, "bits": 4}),
        |all| {
            all.insert("model.layers.0.mlp.up_proj.scales".into(), (Dtype::F16, vec![4], vec![0; 8]));
        },
    );
    refused(&mlx, Status::Unsupported, &["MLX, 4 bits"]);
    let scale = with_more("llama_f16", &[("model.layers.0.mlp.up_proj.weight_scale", &[1])]);
    refused(&scale, Status::Unsupported, &["weight_scale", "scales"]);
    // Weights that are as they should be are used, whatever the config says of them.
    let plain = changed("llama_f16", |c| c["quantization_config"] = json!({"quant_method": "bitsandbytes"}));
    let (_, lines) = warnings(&plain);
    assert!(lines.len() == 1 && lines[0].contains("not quantized although"), "{lines:?}");
    // What is wrong with plain weights is not what the config says of them.
    let headless = rewritten(
        "llama_f16",
        |c| c["quantization_config"] = json!({"quant_method": "gptq"}),
        |all| {
            all.remove("model.norm.weight").unwrap();
        },
    );
    refused(&headless, Status::Format, &["no tensor model.norm.weight", "config.json says", "GPTQ"]);
    // The plan says the same, and not that memory is short.
    let gptq = renamed(json!({"quant_method": "gptq"}), "qweight", Dtype::I32);
    let tiny = EngineOptions { memory_budget: 1, ..EngineOptions::default() };
    assert_eq!(Engine::plan(gptq.path(), &tiny).unwrap_err().status, Status::Unsupported);
}

#[test]
fn the_inside_of_another_model_is_named() {
    let wrapped = |prefix: &'static str| {
        rewritten(
            "llama_f16",
            |c| *c = json!({"model_type": "mistral3", "text_config": c.clone()}),
            move |all| {
                let old = std::mem::take(all);
                all.extend(old.into_iter().map(|(name, t)| (prefix.replace('*', &name), t)));
            },
        )
    };
    for prefix in ["language_model.*", "*"] {
        assert!(open(&wrapped(prefix)).is_ok(), "{prefix}");
    }
    refused(&wrapped("text_tower.*"), Status::Unsupported, &["mistral3", "multimodal", "\"llama\"", "text_tower."]);
    let inside = rewritten(
        "llama_f16",
        |c| *c = json!({"model_type": "gemma9", "text_config": {"model_type": "gemma9_text"}}),
        |_| {},
    );
    refused(&inside, Status::Unsupported, &["gemma9_text", "inside the multimodal \"gemma9\"", "qwen3_moe"]);
    let nameless = changed("llama_f16", |c| *c = json!({"model_type": "llava", "text_config": {"hidden_size": 8}}));
    refused(&nameless, Status::Unsupported, &["llava", "no model_type"]);
    let between = rewritten(
        "llama_f16",
        |c| *c = json!({"model_type": "qwen3_5", "text_config": c.clone()}),
        |all| {
            let old = std::mem::take(all);
            all.extend(old.into_iter().map(|(name, t)| (name.replace("model.", "model.language_model."), t)));
        },
    );
    assert!(open(&between).is_ok(), "names of a text model inside another");
    // A model whose names lack their first part, and such a one that was saved without its head.
    let bare = |headless: bool| {
        let rename = |name: String| name.trim_start_matches("model.").to_owned();
        rewritten(
            "llama_f16",
            |_| {},
            |all| {
                let old = std::mem::take(all);
                let kept = old.into_iter().filter(|(name, _)| !headless || name != "lm_head.weight");
                all.extend(kept.map(|(name, t)| (rename(name), t)));
            },
        )
    };
    assert_eq!(logprobs(&open(&bare(false)).unwrap()), logprobs(&open(&changed("llama_f16", |_| {})).unwrap()));
    let headless = open(&bare(true)).unwrap();
    let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![5])], ..Prompt::default() };
    let submit = |options| headless.submit(&prompt, &options, Sink::Pull);
    let error = submit(RequestOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.status == Status::Unsupported && error.message.contains("no output matrix"), "{error}");
    submit(RequestOptions { embed: true, ..RequestOptions::default() }).unwrap();
    let partly = rewritten(
        "llama_f16",
        |_| {},
        |all| {
            let old = std::mem::take(all);
            all.extend(old.into_iter().map(|(name, t)| (name.replace("model.embed", "embed"), t)));
        },
    );
    refused(&partly, Status::Format, &["no tensor model.embed_tokens.weight", "it has embed_tokens.weight", "lacks"]);
    // One whose model_type is missing.
    let unnamed = changed("llama_f16", |c| drop(c.as_object_mut().unwrap().remove("model_type")));
    refused(&unnamed, Status::Unsupported, &["no model_type", "LlamaForCausalLM", "\"model_type\": \"llama\""]);
    let unnamed = changed("llama_f16", |c| {
        c.as_object_mut().unwrap().remove("model_type");
        c["architectures"] = json!(["BloomForCausalLM"]);
    });
    refused(&unnamed, Status::Unsupported, &["no model_type", "BloomForCausalLM", "qwen3_moe"]);
    let unnamed =
        changed("llama_f16", |c| c.as_object_mut().unwrap().retain(|k, _| k != "model_type" && k != "architectures"));
    refused(&unnamed, Status::Format, &["it has model.embed_tokens.weight", "no model_type"]);
    let astrai = changed("astrai_gqa", |c| drop(c.as_object_mut().unwrap().remove("model_type")));
    assert!(open(&astrai).is_ok(), "absent means AstrAI's");
}

/// A scaling reaches further than `max_position_embeddings` where model cards leave that as it was.
#[test]
fn a_scaling_extends_the_context() {
    let scaled = |scaling: Value| changed("llama_f16", |c| c["rope_scaling"] = scaling);
    let with = |dir: &TempDir, context_length| {
        let options = EngineOptions { context_length, memory_budget: 64 << 20, threads: 1, ..EngineOptions::default() };
        Engine::open(dir.path(), options)
    };
    let length = |dir: &TempDir, asked| with(dir, asked).map(|engine| engine.info().context_length);
    let yarn = scaled(json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}));
    assert_eq!((length(&yarn, 0), length(&yarn, 1024)), (Ok(1024), Ok(1024)));
    let error = length(&yarn, 1025).unwrap_err();
    assert_eq!((error.status, error.needed, error.available), (Status::Argument, 1025, 1024));
    let dynamic = scaled(json!({"type": "dynamic", "factor": 2.0}));
    assert_eq!((length(&dynamic, 0), length(&dynamic, 512)), (Ok(256), Ok(512)));
    assert_eq!(length(&dynamic, 513).unwrap_err().available, 512);
    // Within the plain context its numbers are those of the plain model, beyond that they are its own.
    let plain = logprobs(&with(&changed("llama_f16", |_| {}), 0).unwrap());
    assert_eq!(logprobs(&with(&dynamic, 0).unwrap()), plain);
    assert_eq!(logprobs(&with(&dynamic, 200).unwrap()), plain);
    assert_ne!(logprobs(&with(&dynamic, 512).unwrap()), plain);
}

/// What is advised is what open would do.
#[test]
fn a_prompt_that_is_too_long_is_told_what_the_model_can() {
    let dir = changed("llama_f16", |c| c["rope_scaling"] = json!({"type": "yarn", "factor": 2.0}));
    let refused = |context_length| {
        let options = EngineOptions { context_length, memory_budget: 64 << 20, threads: 1, ..EngineOptions::default() };
        let engine = Engine::open(dir.path(), options).unwrap();
        let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![1; 600])], ..Prompt::default() };
        let error = engine.submit(&prompt, &RequestOptions::default(), Sink::Pull).map(|_| ()).unwrap_err();
        assert_eq!((error.status, error.needed), (Status::Context, 600));
        error.message
    };
    assert!(refused(300).contains("context_length, up to 512"), "{}", refused(300));
    assert!(refused(512).contains("the longest that this model was made for"), "{}", refused(512));
    // A budget that holds weights, workspace and some pages.
    let options = |memory_budget, context_length| EngineOptions {
        threads: 1,
        memory_budget,
        context_length,
        ..EngineOptions::default()
    };
    let plan = Engine::plan(dir.path(), &options(1 << 30, 0)).unwrap();
    let memory_budget = plan.weight_bytes + plan.workspace_bytes + 200 * plan.kv_bytes_per_token;
    let refused = |context_length| {
        let engine = Engine::open(dir.path(), options(memory_budget, context_length)).unwrap();
        let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![1; 600])], ..Prompt::default() };
        engine.submit(&prompt, &RequestOptions::default(), Sink::Pull).map(|_| ()).unwrap_err()
    };
    let error = refused(0);
    assert!(error.available < 200 && error.message.contains("more memory (memory_budget)"), "{error}");
    let error = refused(32);
    let advised = error.message.split("up to ").nth(1).and_then(|tail| tail.parse::<u32>().ok());
    let advised = advised.filter(|&n| n > 32 && n < 512).unwrap_or_else(|| panic!("{error}"));
    let again = refused(advised);
    assert_eq!((again.status, again.available), (Status::Context, advised.into()), "what is advised opens");
}

/// Advice that makes no sense is left out, and said so; what it leaves is used.
#[test]
fn a_generation_config_is_advice() {
    let with = |text: &str| {
        let dir = changed("llama_f16", |_| {});
        std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
        warnings(&dir)
    };
    for (text, says) in [
        (r#"{"do_sample": true, "temperature": 0.2,}"#, "generation_config.json is not valid JSON"),
        ("", "generation_config.json is not valid JSON: it is empty"),
        ("[]", "generation_config.json holds an array"),
        (r#"{"top_k": -1}"#, "generation_config.json: top_k is -1"),
        (r#"{"top_p": 0.0}"#, "generation_config.json: top_p is 0.0"),
        (r#"{"bos_token_id": -1}"#, "generation_config.json: bos_token_id is -1"),
        (r#"{"eos_token_id": -1}"#, "generation_config.json: eos_token_id is -1"),
        (r#"{"repetition_penalty": 0.0}"#, "generation_config.json: repetition_penalty is 0.0"),
        (r#"{"temperature": NaN}"#, "generation_config.json: temperature is \"NaN\""),
    ] {
        let (engine, lines) = with(text);
        assert!(lines.len() == 1 && lines[0].contains(says), "{text}: {lines:?}");
        logprobs(&engine);
    }
    let (engine, lines) = with(r#"{"top_k": -1, "eos_token_id": 7}"#);
    assert_eq!((engine.info().eos_token, lines.len()), (Some(7), 1));
}

/// No config makes the sizes of a model before they are held to the limits.
#[test]
fn layers_times_experts_have_a_limit() {
    let with = |layers: usize, experts: usize| {
        changed("qwen3_moe", |c| {
            c["num_hidden_layers"] = json!(layers);
            c["num_experts"] = json!(experts);
            c.as_object_mut().unwrap().remove("mlp_only_layers");
            c.as_object_mut().unwrap().remove("layer_types");
        })
    };
    let error = {
        let dir = with(limits::LAYERS_MAX, limits::EXPERTS_MAX);
        refused(&dir, Status::Format, &["num_experts", "4096 experts a layer, in 1024 layers 4194304", "131072"]);
        Engine::plan(dir.path(), &EngineOptions::default()).unwrap_err()
    };
    assert_eq!((error.needed, error.available), (4_194_304, limits::MODEL_EXPERTS_MAX as u64));
    // The worst that is accepted is refused by its tensors, at once.
    let most = with(limits::LAYERS_MAX, limits::MODEL_EXPERTS_MAX / limits::LAYERS_MAX);
    refused(&most, Status::Format, &["no tensor"]);
}

#[test]
fn a_wrong_shape_says_both() {
    let dir = changed("llama_f16", |c| c["intermediate_size"] = json!(24));
    refused(&dir, Status::Format, &["gate_proj.weight", "24"]);
}

#[test]
fn a_type_no_kernel_reads_is_refused_by_name() {
    let dir = changed("qwen3", |_| {});
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|w| w == b"\"F32\"").expect("an f32 tensor");
    bytes[at + 1] = b'I';
    std::fs::write(&path, bytes).unwrap();
    refused(&dir, Status::Unsupported, &["i32", "bf16"]);
}

/// A tokenizer that makes ids the model has no embedding for: the request is refused, the engine lives.
#[test]
fn a_vocabulary_smaller_than_the_tokenizers_is_noticed_at_submit() {
    let from = storyteller();
    let dir = TempDir::new().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    let (rows, hidden) = (300, config["hidden_size"].as_u64().unwrap() as usize);
    config["vocab_size"] = json!(rows);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let cut = all.tensors().into_iter().map(|(name, t)| {
        let view = match name.as_str() {
            "model.embed_tokens.weight" => {
                let data = &t.data()[..rows * hidden * 2];
                safetensors::tensor::TensorView::new(t.dtype(), vec![rows, hidden], data).unwrap()
            }
            _ => t,
        };
        (name, view)
    });
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(cut, None).unwrap()).unwrap();
    let engine = open(&dir).unwrap();
    let text = "Tell me a story about Mira, the old lighthouse and a silver key.";
    let chat = Prompt { messages: vec![json!({"role": "user", "content": text})], ..Prompt::default() };
    let raw = Prompt { parts: vec![PromptPart::Text { text: text.into(), special: false }], ..Prompt::default() };
    for prompt in [&chat, &raw] {
        let error = engine.submit(prompt, &RequestOptions::default(), Sink::Pull).map(|_| ()).unwrap_err();
        assert_eq!((error.status, error.available), (Status::Argument, rows as u64), "{error}");
    }
    engine.check().unwrap();
}

/// The whole of the KV pages is reserved at open, but the system only gives what is written.
#[cfg(target_os = "linux")]
#[test]
fn opening_does_not_touch_the_pages() {
    if !alone(opening_does_not_touch_the_pages) {
        return;
    }
    let dir = changed("llama_f16", |c| c["max_position_embeddings"] = json!(16_000_000));
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let options = EngineOptions { memory_budget: 2 << 30, threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(dir.path(), options).unwrap();
    let grown = resident().saturating_sub(before);
    assert!(grown < 512 << 20, "{grown} bytes became resident, of 2 GiB reserved");
    drop(engine);
}

#[test]
fn options_out_of_range_or_not_built_are_refused_by_name() {
    let dir = changed("llama_f16", |_| {});
    let refused = |options: EngineOptions, status, name: &str| {
        let error = Engine::open(dir.path(), options).map(|_| ()).expect_err(name);
        assert_eq!((error.status, error.subject.as_str()), (status, name), "{error}");
    };
    let base = EngineOptions::default;
    refused(EngineOptions { threads: 1 << 20, ..base() }, Status::Argument, "threads");
    refused(EngineOptions { context_length: 1 << 20, ..base() }, Status::Argument, "context_length");
    refused(EngineOptions { memory_budget: 1, ..base() }, Status::Memory, "memory_budget");
    // A build that has the backend is held to more in tests/cuda/opening.rs.
    if !astrai::backend::cuda::BUILT {
        refused(EngineOptions { device: Device::Cuda, ..base() }, Status::Unsupported, "device");
    }
    refused(EngineOptions { device_index: -1, ..base() }, Status::Argument, "device_index");
    refused(EngineOptions { device: Device::Cpu, device_index: 1, ..base() }, Status::Argument, "device_index");
    refused(EngineOptions { weights: Type::Bf16, ..base() }, Status::Unsupported, "weights");
    let foreign = if cfg!(target_arch = "aarch64") { CpuTier::Avx2 } else { CpuTier::Neon };
    refused(EngineOptions { cpu_tier: foreign, ..base() }, Status::Unsupported, "cpu_tier");
}
