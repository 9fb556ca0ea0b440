//! `astrai quality`: what quantizing costs. Two models with one vocabulary, mostly one model with its weights quantized and
//! as they are stored, read the same tokens; compared are their distributions of every next token.
//!
//! The tokens are read in windows of `--window`, each from an empty cache, with keys and values in f32. For the distributions
//! `p` of the model compared against and `q` of the other, the divergence is `sum_t p(t) * ln(p(t) / q(t))`, in nats.

use crate::args::{ModelArgs, PositionArgs, WEIGHTS, one_of};
use crate::failure::{Failure, Outcome, read_file};
use crate::pull;
use astrai::backend::cpu::{Compute, CpuBackend};
use astrai::backend::{KvShape, Memory, Steps, Tables};
use astrai::dtype::DType;
use astrai::engine::{Engine, EngineOptions, Prompt, PromptPart, TextOptions, Type};
use astrai::model::{Model, StepLimits, families, loader};
use astrai::os::thread::ThreadOptions;
use astrai::source::{self, FolderOptions};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Tokens of a KV page.
const PAGE_TOKENS: usize = 16;
/// Rows of logits computed at once.
const LOGITS_ROWS: usize = 32;

/// Arguments of `astrai quality`.
#[derive(Args)]
pub struct QualityArgs {
    #[command(flatten)]
    position: PositionArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Model folder to compare with [default: the same]
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Quantize the weights of the model that is compared with [default: as stored]
    #[arg(long, value_name = "FORMAT", value_parser = one_of(&WEIGHTS))]
    against_weights: Option<Type>,
    /// Text to read
    #[arg(long, value_name = "FILE", required_unless_present = "random")]
    text: Option<PathBuf>,
    /// Read so many random tokens instead, for models without a tokenizer
    #[arg(long, value_name = "TOKENS", conflicts_with = "text")]
    random: Option<usize>,
    /// Tokens read at a time, within the model's context
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1 << 16))]
    window: u32,
    /// Read at most so many tokens [default: all]
    #[arg(long, value_name = "TOKENS")]
    limit: Option<usize>,
}

/// Runs the subcommand.
pub fn quality(args: QualityArgs) -> Outcome {
    let options = args.model.options();
    let folder = args.position.folder(&args.model.folder, None)?;
    let against = args.against.as_ref().map_or(Ok(folder.clone()), |model| pull::model(model, None))?;
    let mut ours = Reader::open(&folder, &options, args.window as usize)?;
    let weights = args.against_weights.unwrap_or(Type::Auto);
    let mut theirs = Reader::open(&against, &EngineOptions { weights, ..options }, args.window as usize)?;
    if ours.vocab != theirs.vocab {
        let (a, b) = (ours.vocab, theirs.vocab);
        return Err(Failure::Message(format!(
            "the models have vocabularies of {a} and {b} tokens and cannot be compared"
        )));
    }
    let tokens = tokens(&args, &folder, ours.vocab)?;
    let mut sums = Sums::default();
    for window in tokens.chunks(args.window as usize).filter(|window| window.len() > 1) {
        compare(&mut ours, &mut theirs, window, &mut sums)?;
    }
    if sums.tokens == 0 {
        return Err(Failure::message("there is nothing to read: two tokens are the least"));
    }
    let mean = |sum: f64| sum / sums.tokens as f64;
    let (nll, nll_against) = (mean(sums.nll), mean(sums.nll_against));
    let divergence = mean(sums.divergence);
    let variance = (mean(sums.divergence_squares) - divergence * divergence).max(0.0);
    let result = json!({
        "tokens": sums.tokens,
        "perplexity": nll.exp(),
        "perplexity_against": nll_against.exp(),
        "perplexity_ratio": (nll - nll_against).exp(),
        "divergence": divergence,
        "divergence_error": (variance / sums.tokens as f64).sqrt(),
        "divergence_max": sums.divergence_max,
        "same_top": mean(sums.same_top as f64),
    });
    Ok(writeln!(std::io::stdout(), "{result}")?)
}

/// What is read.
fn tokens(args: &QualityArgs, folder: &Path, vocab: usize) -> Outcome<Vec<u32>> {
    let mut tokens = match (&args.text, args.random) {
        (Some(path), _) => {
            let text_only = EngineOptions { text_only: true, ..EngineOptions::default() };
            let engine = Engine::open(folder, text_only)?;
            let part = PromptPart::Text { text: read_file(path)?, special: true };
            engine.tokenize(&Prompt { parts: vec![part], ..Prompt::default() }, TextOptions::default())?
        }
        (None, count) => crate::bench::random::Random::new(1, 0).tokens(count.unwrap_or(0), vocab as u32),
    };
    tokens.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(tokens)
}

/// Sums over tokens.
#[derive(Default)]
struct Sums {
    tokens: usize,
    /// Negative log-likelihoods.
    nll: f64,
    nll_against: f64,
    divergence: f64,
    divergence_squares: f64,
    divergence_max: f64,
    /// Both have the same likeliest token.
    same_top: usize,
}

/// Reads one window with both.
fn compare(ours: &mut Reader, theirs: &mut Reader, window: &[u32], sums: &mut Sums) -> astrai::Result<()> {
    // Nothing follows the last token.
    let rows = window.len() - 1;
    for reader in [&mut *ours, &mut *theirs] {
        reader.read(&window[..rows]);
    }
    for first in (0..rows).step_by(LOGITS_ROWS) {
        let count = LOGITS_ROWS.min(rows - first);
        let q = ours.logits(first, count)?;
        let p = theirs.logits(first, count)?;
        for ((q, p), &next) in q.chunks(ours.vocab).zip(p.chunks(ours.vocab)).zip(&window[first + 1..]) {
            let (q_log, p_log) = (log_normaliser(q), log_normaliser(p));
            let (mut divergence, mut tops) = (0.0, [(0, f32::MIN); 2]);
            for (i, (&q, &p)) in q.iter().zip(p).enumerate() {
                let (log_q, log_p) = (f64::from(q) - q_log, f64::from(p) - p_log);
                divergence += log_p.exp() * (log_p - log_q);
                for (top, x) in tops.iter_mut().zip([q, p]) {
                    *top = if x > top.1 { (i, x) } else { *top };
                }
            }
            sums.tokens += 1;
            sums.nll += q_log - f64::from(q[next as usize]);
            sums.nll_against += p_log - f64::from(p[next as usize]);
            sums.divergence += divergence;
            sums.divergence_squares += divergence * divergence;
            sums.divergence_max = sums.divergence_max.max(divergence);
            sums.same_top += usize::from(tops[0].0 == tops[1].0);
        }
    }
    Ok(())
}

/// `ln(sum(exp(logits)))`.
fn log_normaliser(logits: &[f32]) -> f64 {
    let max = logits.iter().fold(f32::MIN, |m, &x| m.max(x));
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    f64::from(max) + sum.ln()
}

/// A model that reads windows.
struct Reader {
    model: Model,
    backend: CpuBackend,
    vocab: usize,
}

impl Reader {
    fn open(dir: &Path, options: &EngineOptions, window: usize) -> Outcome<Reader> {
        let source = source::open(dir, FolderOptions::default(), &mut |_, _| true)?;
        let (family, _, architecture) = families::describe(&*source, 0)?;
        if window > architecture.context {
            let context = architecture.context;
            return Err(Failure::Usage(format!("--window {window} is more than the model's context of {context}")));
        }
        let compute = if options.compute == Type::F32 { Compute::F32 } else { Compute::Bf16 };
        let mut backend =
            CpuBackend::new(options.cpu_tier, compute, options.threads as usize, ThreadOptions::default())?;
        let recipe = options.weights.recipe();
        let (progress, log) = (&mut |_, _| true, &mut |_| {});
        let weights = loader::bind(&architecture, family, &*source, recipe.into(), &mut backend, progress, log)?;
        let frames = window.div_ceil(PAGE_TOKENS);
        let shape = |g: &astrai::model::architecture::LayerGroup| g.shape(frames, PAGE_TOKENS, DType::F32);
        let shapes: Vec<KvShape> = architecture.groups().iter().map(shape).collect();
        let vocab = architecture.vocab;
        let limits = StepLimits {
            tokens: window,
            sequences: 1,
            logits_rows: LOGITS_ROWS,
            context: window,
            page_tokens: PAGE_TOKENS,
            frames,
        };
        let model = Model::new(architecture, weights, &shapes, &limits, &mut backend)?;
        backend.step().tables = vec![Tables { pages: (0..frames as u32).collect(), starts: vec![0] }; shapes.len()];
        Ok(Reader { model, backend, vocab })
    }

    /// Reads the tokens from position 0.
    fn read(&mut self, tokens: &[u32]) {
        let step = self.backend.step();
        step.tokens = tokens.to_vec();
        step.positions = (0..tokens.len() as u32).collect();
        step.sequences = vec![0; tokens.len()];
        step.logits_indices = (0..tokens.len() as u32).collect();
        self.model.begin(&mut self.backend);
        for layer in 0..self.model.layers() {
            self.model.layer(&mut self.backend, layer);
        }
    }

    /// Logits `[count, vocab]` of rows that were read.
    fn logits(&mut self, first: usize, count: usize) -> astrai::Result<Vec<f32>> {
        let logits = self.model.logits(&mut self.backend, first, count);
        let mut out = vec![0.0; count * self.vocab];
        self.backend.read(logits, &mut out)?;
        Ok(out)
    }
}
