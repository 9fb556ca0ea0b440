//! Arguments of `astrai bench`, and what they mean for each workload.

use super::shapes;
use crate::args;
use crate::failure::{Failure, Outcome};
use astrai::engine::{CpuTier, Device, EngineOptions, Type};
use astrai::limits;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Most requests of a run: the engine's queue.
const REQUESTS_MAX: i64 = limits::WAITING_MAX as i64;

/// What an engine has: of no use where there is none.
const MODELLED: [&str; 12] = [
    "position",
    "folder",
    "weights",
    "kv",
    "device",
    "invariant",
    "step_tokens",
    "threads",
    "cpu_tier",
    "context",
    "memory_mib",
    "rounds",
];
/// What a measurement has beyond that: of no use where none is made.
const MEASURED: [&str; 10] =
    ["workload", "requests", "slots", "streams", "rate", "prompt_len", "gen_len", "policy", "simulate", "plot"];

/// What only an engine of our own has.
const LOCAL: [&str; 16] = [
    "position",
    "shape",
    "layers",
    "save",
    "print_config",
    "weights",
    "kv",
    "device",
    "invariant",
    "step_tokens",
    "threads",
    "cpu_tier",
    "memory_mib",
    "policy",
    "slots",
    "plot",
];

/// Arguments of `astrai bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// Model folder, .gguf file or hf://owner/name[:quant]; or --model [default: random weights, see --shape]
    #[arg(value_name = "MODEL_DIR", conflicts_with_all = ["folder", "shape"])]
    position: Option<PathBuf>,
    /// Model folder, .gguf file or hf://owner/name[:quant], if it is not given by its position
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "shape")]
    folder: Option<PathBuf>,
    /// Random weights of a published model's shape, made in memory [default: storyteller]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(shapes::names()))]
    pub shape: Option<String>,
    /// With --shape: so many layers instead of its own, where the whole does not fit
    #[arg(long, value_name = "N", requires = "shape", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub layers: Option<u32>,
    /// Write the random weights of --shape as a model folder without a tokenizer, and end
    #[arg(long, value_name = "DIR", conflicts_with_all = MODELLED, conflicts_with_all = MEASURED)]
    pub save: Option<PathBuf>,
    /// Print the config.json of --shape, and end
    #[arg(long, conflicts_with_all = MODELLED, conflicts_with_all = MEASURED, conflicts_with = "save")]
    pub print_config: bool,
    /// Measure a server of OpenAI's dialect at this address instead; --model is what requests call its model, and ASTRAI_API_KEY the key
    #[arg(long, value_name = "URL", conflicts_with_all = LOCAL)]
    pub url: Option<String>,
    /// With --url: token ids of prompts are below this
    #[arg(long, value_name = "N", default_value = "1000", requires = "url", value_parser = clap::value_parser!(u32).range(1..))]
    pub vocab: u32,
    /// What is asked of the engine
    #[arg(long, value_enum, default_value = "batch")]
    pub workload: Workload,
    /// Requests in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=REQUESTS_MAX))]
    pub requests: Option<u32>,
    /// Sequences running at once [default: 16; for streams, the streams]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=limits::RUNNING_MAX as i64))]
    pub slots: Option<u32>,
    /// Streams, or conversations of chat, at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=limits::RUNNING_MAX as i64))]
    pub streams: Option<u32>,
    /// Arrivals a second, for poisson [default: 4]
    #[arg(long, value_name = "HZ", value_parser = positive)]
    pub rate: Option<f64>,
    /// Tokens of a prompt; of the shared part for prefix, of a turn for chat
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=limits::CONTEXT_MAX as i64))]
    pub prompt_len: Option<u32>,
    /// Tokens to generate; the mean of exponential lengths for batch and poisson
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=limits::CONTEXT_MAX as i64))]
    pub gen_len: Option<u32>,
    /// How requests are batched; several are compared in turns
    #[arg(long, value_name = "POLICY", value_enum, value_delimiter = ',', default_value = "continuous")]
    pub policy: Vec<PolicyName>,
    /// Times the whole is repeated, in turns; the median counts
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Seed of prompts, lengths, arrivals and random weights
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Count forward passes with the scheduler alone, without a model; for batch
    #[arg(long, conflicts_with_all = MODELLED, conflicts_with_all = ["shape", "plot", "url"])]
    pub simulate: bool,
    /// With --simulate: seeds to go through, from --seed on
    #[arg(long, value_name = "N", default_value = "1", requires = "simulate",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub seeds: u32,
    /// Weight format [default: as stored; bf16 is refused where another type is stored]
    #[arg(long, value_parser = args::one_of(&WEIGHTS))]
    pub weights: Option<Type>,
    /// Format of the KV cache [default: bf16]
    #[arg(long, value_parser = args::one_of(&args::KV))]
    pub kv: Option<Type>,
    #[arg(long, value_parser = args::device, value_name = "DEVICE", default_value = Device::Auto.name(), help = Device::SYNTAX)]
    pub device: (Device, i32),
    /// Of a GPU: 1 keeps a token from depending on what else is in its step, 0 lets faster products be used
    #[arg(long, value_name = "0|1", default_value = "1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub invariant: u8,
    /// Tokens of a step, at most [default: the engine's]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=limits::STEP_TOKENS_MAX as i64))]
    pub step_tokens: Option<u32>,
    /// Threads that compute [default: physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=limits::THREADS_MAX as i64))]
    pub threads: Option<u32>,
    /// Instruction set of the CPU kernels [default: the fastest this processor has]
    #[arg(long, value_name = "TIER", value_parser = args::one_of(&args::TIERS))]
    pub cpu_tier: Option<CpuTier>,
    /// Context length in tokens [default: the model's, within memory]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=limits::CONTEXT_MAX as i64))]
    pub context: Option<u32>,
    /// Memory of weights, KV pages and workspace in MiB [default: what slots and context need, within what is free]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory_mib: Option<u32>,
    #[command(flatten)]
    pub speculation: args::SpeculationArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Draw the requests over the steps and the pages over time
    #[arg(long, value_name = "FILE.svg", conflicts_with = "simulate")]
    pub plot: Option<PathBuf>,
}

/// Values of `--workload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Prompts only, one after the other
    Prefill,
    /// One stream
    Decode,
    /// Several streams at once
    Streams,
    /// A closed set of requests with exponential output lengths, all there at the start
    Batch,
    /// The same, arriving at random at --rate
    Poisson,
    /// A long shared prefix, first cold, then cached
    Prefix,
    /// Conversations whose turns build on each other
    Chat,
}

/// Values of `--policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// A freed slot is filled at the next step
    Continuous,
    /// A batch runs until its longest request is done
    Static,
    /// One forward pass for each distinct position
    Grouped,
}

/// Values of `--weights`.
const WEIGHTS: [(&str, &str, Type); 4] =
    [("bf16", "", Type::Bf16), ("q8", "", Type::Q8), ("q5", "", Type::Q5), ("q4", "", Type::Q4)];

/// The name of a value on the command line.
pub fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// A workload with all its numbers.
#[derive(Clone, Debug)]
pub struct Plan {
    pub workload: Workload,
    pub requests: usize,
    /// Lanes in which one request follows the other.
    pub streams: usize,
    pub slots: usize,
    pub prompt_len: usize,
    pub gen_len: usize,
    /// Arrivals a second.
    pub rate: Option<f64>,
    pub seed: u64,
}

/// What a workload does unless told otherwise: requests, streams, prompt and output length.
fn defaults(workload: Workload) -> [u32; 4] {
    match workload {
        Workload::Prefill => [8, 1, 512, 1],
        Workload::Decode => [3, 1, 16, 128],
        Workload::Streams => [16, 16, 16, 128],
        Workload::Batch => [64, 1, 16, 64],
        Workload::Poisson => [64, 1, 64, 64],
        Workload::Prefix => [10, 1, 1000, 8],
        Workload::Chat => [24, 4, 32, 32],
    }
}

/// Arrivals a second of poisson.
const RATE_DEFAULT: f64 = 4.0;

impl BenchArgs {
    /// The model folder.
    pub fn model(&self) -> Option<&PathBuf> {
        self.position.as_ref().or(self.folder.as_ref())
    }

    /// The workload with its defaults.
    ///
    /// # Errors
    /// `Usage` for options the workload has no use for.
    pub fn plan(&self) -> Outcome<Plan> {
        let workload = self.workload;
        let useless = |given: bool, option: &str| match given {
            true => Err(Failure::Usage(format!("--workload {} has no use for {option}", name_of(workload)))),
            false => Ok(()),
        };
        useless(self.rate.is_some() && workload != Workload::Poisson, "--rate")?;
        useless(self.streams.is_some() && !matches!(workload, Workload::Streams | Workload::Chat), "--streams")?;
        useless(self.gen_len.is_some() && workload == Workload::Prefill, "--gen-len")?;
        useless(self.simulate && workload != Workload::Batch, "--simulate")?;
        if self.plot.is_some() && (self.policy.len() > 1 || self.rounds > 1) {
            return Err(Failure::Usage("--plot draws one run: give one policy and no rounds".to_owned()));
        }
        if (1..self.policy.len()).any(|i| self.policy[..i].contains(&self.policy[i])) {
            return Err(Failure::Usage("--policy names a policy twice".to_owned()));
        }
        let [requests, streams, prompt_len, gen_len] = defaults(workload);
        let streams = self.streams.unwrap_or(streams);
        let requests = self.requests.unwrap_or(match workload {
            Workload::Streams => streams,
            _ => requests,
        });
        let slots = self.slots.unwrap_or(match workload {
            Workload::Streams | Workload::Chat => streams,
            _ => limits::RUNNING_DEFAULT as u32,
        });
        // Of these, nobody waits for another.
        let streams = if matches!(workload, Workload::Batch | Workload::Poisson) { requests } else { streams };
        Ok(Plan {
            workload,
            requests: requests as usize,
            streams: streams.min(requests) as usize,
            slots: slots as usize,
            prompt_len: self.prompt_len.unwrap_or(prompt_len) as usize,
            gen_len: self.gen_len.unwrap_or(gen_len) as usize,
            rate: (workload == Workload::Poisson).then(|| self.rate.unwrap_or(RATE_DEFAULT)),
            seed: self.seed,
        })
    }

    /// Options of the engine for a policy.
    pub fn engine_options(&self, plan: &Plan, policy: PolicyName) -> EngineOptions {
        self.speculation.add(EngineOptions {
            device: self.device.0,
            device_index: self.device.1,
            invariant: self.invariant != 0,
            step_tokens: self.step_tokens.unwrap_or(0),
            // Random weights are made in bf16; a folder that stores another type is refused once that is known.
            weights: self.weights.filter(|format| *format != Type::Bf16).unwrap_or(Type::Auto),
            kv: self.kv.unwrap_or(Type::Auto),
            cpu_tier: self.cpu_tier.unwrap_or_default(),
            threads: self.threads.unwrap_or(0),
            max_running: plan.slots as u32,
            max_waiting: plan.requests.clamp(limits::WAITING_DEFAULT, limits::WAITING_MAX) as u32,
            context_length: self.context.unwrap_or(0),
            memory_budget: u64::from(self.memory_mib.unwrap_or(0)) << 20,
            schedule_fn: policy.schedule_fn(),
            ..EngineOptions::default()
        })
    }
}
