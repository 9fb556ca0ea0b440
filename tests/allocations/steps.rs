//! After a model has been made, no step of any size allocates, on any thread, for every family, tier and kind of weights. Counted
//! for all threads, in a process of its own.

use crate::allocator::of_all;
use crate::support::models::fixtures;
use crate::support::own_process::alone;
use astrai::backend::cpu::{Compute, CpuBackend, Tier, tiers};
use astrai::backend::{KvShape, Memory, Sampling, Steps, Tables};
use astrai::dtype::DType;
use astrai::limits;
use astrai::model::{Model, Recipe, StepLimits, families, loader, random_model};
use astrai::os::thread::ThreadOptions;
use astrai::sampling::{AllowedTokens, SamplingOutput, SamplingParams};
use astrai::source::{Folder, FolderOptions, ModelSource};
use serde_json::{Value, json};
use std::path::Path;

/// Tokens of the largest step, more than a block of rows that share loads.
const STEP_TOKENS: usize = 48;
const LOGITS_ROWS: usize = 16;
const PAGE_TOKENS: usize = 16;

struct Bench {
    model: Model,
    backend: CpuBackend,
    context: usize,
    output: SamplingOutput,
}

/// What a case is made with.
#[derive(Clone, Copy, Debug)]
struct With {
    tier: Tier,
    threads: usize,
    compute: Compute,
    recipe: Recipe,
    kv: DType,
}

impl Bench {
    fn new(source: &dyn ModelSource, with: With) -> Bench {
        let (family, _, architecture) = families::describe(source, 0).unwrap();
        let mut backend = CpuBackend::new(with.tier, with.compute, with.threads, ThreadOptions::default()).unwrap();
        let (progress, log) = (&mut |_, _| true, &mut |_| {});
        let weights =
            loader::bind(&architecture, family, source, with.recipe.into(), &mut backend, progress, log).unwrap();
        let context = architecture.context;
        let frames = 2 * context.div_ceil(PAGE_TOKENS);
        let shapes: Vec<KvShape> =
            architecture.groups().iter().map(|g| g.shape(frames, PAGE_TOKENS, with.kv)).collect();
        let limits = StepLimits {
            tokens: STEP_TOKENS,
            sequences: 2,
            logits_rows: LOGITS_ROWS,
            context,
            page_tokens: PAGE_TOKENS,
            frames,
        };
        let model = Model::new(architecture, weights, &shapes, &limits, &mut backend).unwrap();
        backend.set_vocabulary_mask(&AllowedTokens::all(model.vocab())).unwrap();
        let output = SamplingOutput::new(LOGITS_ROWS).unwrap();
        Bench { model, backend, context, output }
    }

    /// Fills in a step of `rows` (sequence, position).
    fn fill(&mut self, rows: &[(usize, usize)]) {
        let pages = self.context.div_ceil(PAGE_TOKENS);
        let tables = Tables { pages: (0..2 * pages as u32).collect(), starts: vec![0, pages as u32] };
        let step = self.backend.step();
        step.clear();
        step.tokens.extend(rows.iter().map(|r| (r.1 * 7 % 96) as u32));
        step.positions.extend(rows.iter().map(|r| r.1 as u32));
        step.sequences.extend(rows.iter().map(|r| r.0 as u32));
        step.logits_indices.extend(0..LOGITS_ROWS.min(rows.len()) as u32);
        step.tables = vec![tables; self.model.group_count()];
    }

    /// Runs it, and samples from a few of the largest logits and from whole rows.
    fn run(&mut self) {
        self.model.begin(&mut self.backend);
        for layer in 0..self.model.layers() {
            self.model.layer(&mut self.backend, layer);
        }
        let rows = self.backend.step().logits_indices.len();
        let few =
            SamplingParams { temperature: 1.0, top_k: limits::BEST_LOGITS_MAX as u32, ..SamplingParams::default() };
        let whole = SamplingParams { temperature: 1.0, top_p: 0.9, logprobs: Some(5), ..SamplingParams::default() };
        for request in [few.request(7, 0), whole.request(7, 0)] {
            let sampling = &mut self.backend.step().sampling;
            sampling.clear();
            sampling.rows.extend(std::iter::repeat_n(request, rows));
            self.model.sample(&mut self.backend, 0, rows);
            let ticket = self.backend.copy_out();
            self.backend.wait_sampled(ticket, &mut self.output).unwrap();
        }
        self.backend.rest();
    }
}

/// The largest steps of each kind, each for the first time: a long prompt, its end, one stream whose attention is cut, and a
/// stream beside a prompt.
fn check(source: &dyn ModelSource, with: With) {
    let mut bench = Bench::new(source, with);
    let (end, rows) = (bench.context, STEP_TOKENS);
    let steps = [
        ("one row", vec![(0, end - 1)]),
        ("a prompt", (0..rows).map(|p| (0, p)).collect()),
        ("the end of a prompt", (end - rows..end).map(|p| (1, p)).collect()),
        ("both", std::iter::once((0, end - 1)).chain((end - rows + 1..end).map(|p| (1, p))).collect()),
    ];
    for (name, rows) in steps {
        bench.fill(&rows);
        let made = of_all(|| bench.run());
        assert_eq!(made, 0, "allocations in {name} of {} with {with:?}", source.subject());
    }
}

/// The config of a fixture, wide enough for the inputs of products to matter, and long enough for attention to be cut.
fn wide(folder: &Path) -> Value {
    let real = Folder::open(folder, FolderOptions::default(), &mut |_, _| true).unwrap();
    let mut config = real.config().unwrap().clone();
    let widths = config.as_object_mut().unwrap();
    // Blocks of 4-bit floats have 32.
    let wide = if widths.contains_key("quantization_config") { 512 } else { 500 };
    for (name, value) in widths.iter_mut() {
        if name.ends_with("intermediate_size") && value.is_u64() {
            *value = json!(wide);
        }
    }
    widths.insert("max_position_embeddings".into(), json!(2000));
    config
}

#[test]
fn no_step_allocates() {
    if !alone(no_step_allocates) {
        return;
    }
    assert!(of_all(|| drop(std::hint::black_box(Box::new(7)))) > 0, "the counter counts");
    for folder in fixtures() {
        let random = random_model(&folder.to_string_lossy(), wide(&folder), 1).unwrap();
        let real = Folder::open(&folder, FolderOptions::default(), &mut |_, _| true).unwrap();
        for tier in tiers() {
            let with = With { tier, threads: 3, compute: Compute::F32, recipe: Recipe::Stored, kv: DType::F32 };
            check(&real, with);
            if tier == Tier::Reference {
                // Slow, and the only one whose scratch grows with the context.
                if folder.ends_with("llama") {
                    check(&random, with);
                }
                continue;
            }
            for (threads, compute, recipe, kv) in [
                (1, Compute::F32, Recipe::Stored, DType::F32),
                (3, Compute::Bf16, Recipe::Stored, DType::Bf16),
                (2, Compute::Bf16, Recipe::Q8, DType::I8),
                (3, Compute::Bf16, Recipe::Q4, DType::Bf16),
            ] {
                check(&random, With { tier, threads, compute, recipe, kv });
            }
        }
    }
}
