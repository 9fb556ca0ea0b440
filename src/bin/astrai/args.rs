//! Options that several subcommands share.

use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::pull;
use astrai::engine::{CpuTier, Device, EngineOptions, MessageFlags, RequestOptions, Settings, Speculation, Type};
use astrai::limits;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// The model folder by its position, for commands that have no other argument there.
#[derive(Args)]
pub struct PositionArgs {
    /// Model: its folder (config.json, *.safetensors, tokenizer.json), a .gguf file or hf://owner/name[:quant]; or --model
    #[arg(value_name = "MODEL_DIR", conflicts_with = "folder", required_unless_present = "folder")]
    position: Option<PathBuf>,
}

impl PositionArgs {
    /// The folder, which may be given by `--model` instead, and is downloaded if it is a hub's.
    pub fn folder(&self, option: &Option<PathBuf>, interrupt: Option<&Interrupt>) -> Outcome<PathBuf> {
        let missing = || Failure::Usage("there is no model; name its folder, here or with --model".to_owned());
        pull::model(self.position.as_ref().or(option.as_ref()).ok_or_else(missing)?, interrupt)
    }
}

/// Which model, and how it computes.
#[derive(Args)]
pub struct ModelArgs {
    /// Model folder, .gguf file or hf://owner/name[:quant], if it is not given by its position
    #[arg(long = "model", value_name = "MODEL")]
    pub folder: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// How a model computes.
#[derive(Args)]
pub struct ComputeArgs {
    /// Threads that compute [default: physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=limits::THREADS_MAX as i64))]
    pub threads: Option<u32>,
    /// Precision of activations; f32 is the reference mode [default: bf16]
    #[arg(long, value_parser = one_of(&COMPUTE))]
    pub compute: Option<Type>,
    #[arg(long, value_parser = device, value_name = "DEVICE", default_value = Device::Auto.name(), help = Device::SYNTAX)]
    pub device: (Device, i32),
    /// Instruction set of the CPU kernels [default: the fastest this processor has]
    #[arg(long, value_name = "TIER", value_parser = one_of(&TIERS))]
    pub cpu_tier: Option<CpuTier>,
    /// Quantize the weights while opening [default: as stored]
    #[arg(long, value_name = "FORMAT", value_parser = one_of(&WEIGHTS))]
    pub weights: Option<Type>,
}

/// A model in an engine.
#[derive(Args)]
pub struct EngineArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
}

/// Where drafts of tokens come from.
#[derive(Args)]
pub struct SpeculationArgs {
    /// Draft tokens and check several in one step, which changes none of them [default: no drafts]
    #[arg(long, value_name = "FROM", value_parser = one_of(&SPECULATE))]
    speculate: Option<Speculation>,
    /// A smaller model of the same vocabulary that drafts, too: its folder or .gguf file
    #[arg(long, value_name = "MODEL")]
    draft_model: Option<PathBuf>,
    /// With --speculate or --draft-model: most drafts of a request in one step [default: 16]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=limits::DRAFT_TOKENS_MAX as i64))]
    draft_tokens: Option<u32>,
}

/// Values of `--speculate`.
const SPECULATE: [(&str, &str, Speculation); 2] = [
    (
        "own",
        "what followed the same words earlier in the request's own text",
        Speculation { own_text: true, shared_texts: false, draft_tokens: 0, always: false },
    ),
    (
        "shared",
        "or in earlier answers of this process",
        Speculation { own_text: true, shared_texts: true, draft_tokens: 0, always: false },
    ),
];

impl SpeculationArgs {
    /// Added to options of the engine.
    pub fn add(&self, options: EngineOptions) -> EngineOptions {
        let draft_tokens = self.draft_tokens.unwrap_or(0);
        let speculation = Speculation { draft_tokens, ..self.speculate.unwrap_or_default() };
        EngineOptions { speculation, draft_model: self.draft_model.clone(), ..options }
    }
}

/// What an engine keeps in memory.
#[derive(Args)]
pub struct MemoryArgs {
    /// Context length in tokens [default: the model's, within memory]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=limits::CONTEXT_MAX as i64))]
    pub context: Option<u32>,
    /// Format of the KV cache [default: bf16, or f32 with --compute f32]
    #[arg(long, value_name = "FORMAT", value_parser = one_of(&KV))]
    pub kv: Option<Type>,
    /// Folder where quantized weights are kept, so that the next run maps them [default: made each time]
    #[arg(long, value_name = "DIR", requires = "weights")]
    pub weights_cache: Option<PathBuf>,
    /// Write every page of the KV cache while opening, so that a lack of memory shows there
    #[arg(long)]
    pub touch_kv: bool,
}

/// Values of `--kv`, with what help says of them.
pub const KV: [(&str, &str, Type); 2] =
    [("bf16", "16 bits", Type::Bf16), ("q8", "8 bits, one scale for each token and head", Type::Q8)];

/// Values of `--weights`.
pub const WEIGHTS: [(&str, &str, Type); 3] = [
    ("q8", "8 bits", Type::Q8),
    ("q5", "some 5 bits: as q4, with 8 bits where it pays most", Type::Q5),
    ("q4", "4 bits, value projections and the output matrix 8", Type::Q4),
];

/// Values of `--compute`.
const COMPUTE: [(&str, &str, Type); 2] = [("f32", "", Type::F32), ("bf16", "", Type::Bf16)];

/// Values of `--cpu-tier`.
pub const TIERS: [(&str, &str, CpuTier); 7] = [
    ("auto", "", CpuTier::Auto),
    ("reference", "", CpuTier::Reference),
    ("portable", "", CpuTier::Portable),
    ("neon", "", CpuTier::Neon),
    ("avx2", "", CpuTier::Avx2),
    ("avx512", "", CpuTier::Avx512),
    ("amx", "", CpuTier::Amx),
];

/// Takes one of these names for its value; an empty help is none.
pub fn one_of<T: Copy + Send + Sync>(
    values: &'static [(&'static str, &'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let shown = |(name, help, _): &(&'static str, &'static str, T)| match *help {
        "" => PossibleValue::new(*name),
        help => PossibleValue::new(*name).help(help),
    };
    PossibleValuesParser::new(values.iter().map(shown)).try_map(|name| {
        let known = values.iter().find(|(known, ..)| *known == name);
        known.map(|(.., value)| *value).ok_or("no such value")
    })
}

impl ModelArgs {
    /// As options of the engine.
    pub fn options(&self) -> EngineOptions {
        self.compute.options()
    }
}

impl ComputeArgs {
    /// As options of the engine.
    pub fn options(&self) -> EngineOptions {
        EngineOptions {
            threads: self.threads.unwrap_or(0),
            device: self.device.0,
            device_index: self.device.1,
            compute: self.compute.unwrap_or(Type::Auto),
            cpu_tier: self.cpu_tier.unwrap_or_default(),
            weights: self.weights.unwrap_or(Type::Auto),
            ..EngineOptions::default()
        }
    }
}

impl EngineArgs {
    /// As options of the engine.
    pub fn options(&self) -> EngineOptions {
        self.speculation.add(self.memory.add(self.model.options()))
    }
}

impl MemoryArgs {
    /// Added to options of the engine.
    pub fn add(&self, options: EngineOptions) -> EngineOptions {
        EngineOptions {
            context_length: self.context.unwrap_or(0),
            kv: self.kv.unwrap_or(Type::Auto),
            weights_cache: self.weights_cache.clone(),
            touch_kv: self.touch_kv,
            ..options
        }
    }
}

/// How an answer is drawn. What is absent comes from the model's generation_config.json.
#[derive(Args)]
pub struct SamplingArgs {
    /// Most tokens to generate [default: what the context leaves]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u32>,
    /// 0 takes the likeliest token
    #[arg(long, value_name = "T", value_parser = finite)]
    pub temperature: Option<f32>,
    /// Draw from the smallest set of tokens whose probability reaches this
    #[arg(long, value_name = "P", value_parser = finite)]
    pub top_p: Option<f32>,
    /// Draw from the K likeliest tokens; 0 = all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Draw from tokens at least this fraction as probable as the best
    #[arg(long, value_name = "P", value_parser = finite)]
    pub min_p: Option<f32>,
    /// XTC: how often a token is drawn without the top choices
    #[arg(long, value_name = "P", value_parser = finite)]
    pub xtc_probability: Option<f32>,
    /// XTC: how probable a top choice is at least
    #[arg(long, value_name = "P", value_parser = finite)]
    pub xtc_threshold: Option<f32>,
    /// DRY: the penalty of a token that goes on with a repetition
    #[arg(long, value_name = "X", value_parser = finite)]
    pub dry_multiplier: Option<f32>,
    /// DRY: what the penalty is multiplied by for each further token
    #[arg(long, value_name = "X", value_parser = finite)]
    pub dry_base: Option<f32>,
    /// DRY: the least length of a repetition, in tokens
    #[arg(long, value_name = "N")]
    pub dry_allowed_length: Option<u32>,
    /// DRY: tokens that are looked at; -1 is all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub dry_penalty_last_n: Option<i32>,
    /// DRY: a repetition does not reach across this text; may be given several times, and replaces the usual ones
    #[arg(long, value_name = "TEXT")]
    pub dry_sequence_breaker: Vec<String>,
    /// Seed of the random stream; the one used is told at the end
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End the answer before this text, or at this special token; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Show the names of special tokens in the answer, such as a marker of a tool call [default: they have no text]
    #[arg(long)]
    pub special: bool,
}

impl SamplingArgs {
    /// As options of a request.
    pub fn options(&self) -> RequestOptions {
        RequestOptions {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_penalty_last_n: self.dry_penalty_last_n,
            seed: self.seed,
            special: self.special,
            settings: Some(Arc::new(Settings {
                stops: self.stop.clone(),
                dry_breakers: (!self.dry_sequence_breaker.is_empty()).then(|| self.dry_sequence_breaker.clone().into()),
                ..Settings::default()
            })),
            ..RequestOptions::default()
        }
    }
}

/// Variables of the chat template.
#[derive(Args)]
pub struct TemplateArgs {
    /// Variable of the chat template; a value is JSON when it parses as JSON, else text; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, Value)>,
}

impl TemplateArgs {
    /// As a JSON object; the last of equal keys counts.
    pub fn variables(&self) -> Map<String, Value> {
        self.set.iter().cloned().collect()
    }
}

/// Flags of `count` messages: names of special tokens in them are those tokens; the last one is the start of the answer.
pub fn message_flags(count: usize, special: bool, continued: bool) -> Vec<MessageFlags> {
    let flags = |at| MessageFlags { special, continued: continued && at + 1 == count };
    (0..count).map(flags).collect()
}

/// `key=value`, the value being JSON when it parses as JSON, else text.
fn assignment(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = astrai::text::exact::parse(value).unwrap_or_else(|_| Value::from(value));
            Ok((key.to_owned(), value))
        }
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// A device and its index.
pub fn device(text: &str) -> Result<(Device, i32), String> {
    Device::parse(text).map_err(|error| error.message)
}

/// A number that is neither NaN nor infinite.
fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("expected a finite number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_json_when_it_parses_as_json_else_text() {
        assert_eq!(assignment("n=3"), Ok(("n".into(), json!(3))));
        assert_eq!(assignment("b=false"), Ok(("b".into(), json!(false))));
        assert_eq!(assignment("s=<s>"), Ok(("s".into(), json!("<s>"))));
        assert_eq!(assignment("s=\"3\""), Ok(("s".into(), json!("3"))));
        assert_eq!(assignment("o={\"a\": [1]}"), Ok(("o".into(), json!({"a": [1]}))));
        assert_eq!(assignment("e=a=b"), Ok(("e".into(), json!("a=b"))));
        assert_eq!(assignment("empty="), Ok(("empty".into(), json!(""))));
        assert!(assignment("novalue").is_err());
        assert!(assignment("=x").is_err());
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!(finite("0.5"), Ok(0.5));
        for bad in ["nan", "inf", "1e99", "", "x"] {
            assert!(finite(bad).is_err(), "{bad}");
        }
    }
}
