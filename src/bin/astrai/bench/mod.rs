//! `astrai bench`: speed of the engine on a model folder, or on random weights of a known shape, so that anybody can
//! measure without a download; or of a server, with the same workloads over HTTP.
//!
//! Every run is seeded and checked: the workload is decided before it starts, each request generates exactly as many
//! tokens as it was given, and the engine's accounting is proved before and after. What runs before the measurement, to
//! bring the weights into memory, is not counted. Several policies take turns in one process.

mod args;
mod drive;
mod load;
mod machine;
mod plot;
mod policy;
pub mod random;
mod remote;
mod report;
mod result;
mod save;
mod shapes;
mod simulate;
mod watch;

pub use args::BenchArgs;

use crate::failure::{Failure, Outcome};
use crate::open;
use crate::pull;
use args::{Plan, PolicyName};
use astrai::backend::device::{DeviceOptions, probe};
use astrai::dtype::DType;
use astrai::encoding::Encoding;
use astrai::engine::{Engine, Type};
use astrai::source::{ModelSource, Synthetic};
use load::{Job, Kind, Lane, Load};
use result::Figures;
use serde_json::Value;
use std::io::Write;
use std::time::{Duration, Instant};
use watch::{Seen, Watch};

/// The shape measured when neither a folder nor a shape is named.
const SHAPE_DEFAULT: &str = "storyteller";
/// Prompt and output of the request before the measurement, in tokens.
const WARM_UP: (usize, usize) = (8, 2);

/// An open engine with its policy, and what was measured on it.
struct Bench {
    policy: PolicyName,
    engine: Engine,
    watch: Watch,
    /// From the beginning of opening to the engine, and from there to the first token of the request before the measurement.
    opened: Duration,
    first_token: Option<Duration>,
    /// One for each round.
    figures: Vec<Figures>,
    truncated: usize,
}

/// Runs the subcommand.
pub fn bench(args: BenchArgs) -> Outcome {
    let plan = args.plan()?;
    if let Some(dir) = &args.save {
        return save::save(&random_weights(&args)?, dir);
    }
    if args.print_config {
        return print_config(&args);
    }
    if let Some(url) = &args.url {
        return remote::bench(&args, &plan, url);
    }
    if args.simulate {
        return simulate::simulate(&args, &plan);
    }
    if let Some(path) = &args.plot {
        plot::check(path)?;
    }
    let mut benches = open_all(&args, &plan)?;
    for bench in &mut benches {
        bench.warm_up()?;
    }
    for round in 0..u64::from(args.rounds) {
        for bench in &mut benches {
            let (run, seen) = bench.measure(&plan, round)?;
            if let Some(path) = &args.plot {
                let title = format!("{}, {}", args::name_of(plan.workload), args::name_of(bench.policy));
                plot::plot(path, &title, &run, &seen)?;
            }
        }
    }
    report::report(&args, &plan, &benches)
}

/// An engine for each policy. Random weights are made once and shared.
fn open_all(args: &BenchArgs, plan: &Plan) -> Outcome<Vec<Bench>> {
    let model = args.model().map(|model| pull::model(model, None)).transpose()?;
    let random = match &model {
        Some(_) => None,
        None if makes_weights(args) => Some(weights_of(args, astrai::model::unmade_random_model)?),
        None => Some(random_weights(args)?),
    };
    let mut benches = Vec::new();
    for &policy in &args.policy {
        let watch = Watch::new(args.plot.is_some());
        let mut options = args.engine_options(plan, policy);
        options.trace = Some(watch.trace());
        let begin = Instant::now();
        let engine = match (&model, &random) {
            (Some(dir), _) => open::open(dir, options, None)?,
            (None, Some(source)) => open::open_source(Box::new(source.clone()), options)?,
            (None, None) => return Err(Failure::message("there is no model to measure")),
        };
        let opened = begin.elapsed();
        check_weights(args, &engine)?;
        benches.push(Bench { policy, engine, watch, opened, first_token: None, figures: Vec::new(), truncated: 0 });
    }
    Ok(benches)
}

/// Refuses `--weights bf16` on a folder that stores another type: weights are computed with as they are stored.
fn check_weights(args: &BenchArgs, engine: &Engine) -> Outcome {
    match (args.weights, engine.info().weights) {
        (Some(Type::Bf16), Some(stored)) if stored != Encoding::Stored(DType::Bf16) => Err(Failure::Message(format!(
            "the weights are stored as {stored}, and --weights bf16 does not convert them; leave it out"
        ))),
        _ => Ok(()),
    }
}

/// Whether the model is likely to run on a device that makes random weights itself: then the host makes none.
fn makes_weights(args: &BenchArgs) -> bool {
    match args.device.0.candidates() {
        [only] => only.is_gpu(),
        [first, ..] => probe(*first, DeviceOptions::default()).is_ok_and(|probed| probed.device().is_gpu()),
        [] => false,
    }
}

fn print_config(args: &BenchArgs) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", weights_of(args, astrai::model::unmade_random_model)?.config()?)?;
    Ok(out.flush()?)
}

fn random_weights(args: &BenchArgs) -> Outcome<Synthetic> {
    weights_of(args, astrai::model::random_model)
}

fn weights_of(args: &BenchArgs, make: fn(&str, Value, u64) -> astrai::Result<Synthetic>) -> Outcome<Synthetic> {
    let name = args.shape.as_deref().unwrap_or(SHAPE_DEFAULT);
    let unknown = || Failure::Usage(format!("there is no shape {name}; there are {}", shapes::names().join(", ")));
    let config = shapes::config(name).ok_or_else(unknown)?;
    let config = args.layers.map_or(config.clone(), |layers| shapes::with_layers(config, layers));
    Ok(make(name, config, args.seed)?)
}

impl Bench {
    /// One small request, so that every weight has been read once.
    fn warm_up(&mut self) -> Outcome {
        let info = self.engine.info();
        let (prompt_len, generate) = WARM_UP;
        let room = (info.context_length as usize).saturating_sub(generate).max(1);
        let prompt = random::Random::new(0, 0).tokens(prompt_len.min(room), info.vocab_size);
        let job = Job { prompt, generate, kind: Kind::Plain };
        let load = Load { lanes: vec![Lane { start: Duration::ZERO, jobs: vec![job] }], truncated: 0 };
        let run = drive::drive(&self.engine, &load, &self.watch)?;
        self.first_token = run.records.first().and_then(|record| Some(record.arrivals.first()?.0));
        Ok(())
    }

    /// One run of the workload.
    fn measure(&mut self, plan: &Plan, round: u64) -> Outcome<(drive::Run, Seen)> {
        let info = self.engine.info();
        let load = Load::new(plan, info.vocab_size, info.context_length as usize, round)?;
        self.truncated = load.truncated;
        // Between two steps: the counters are of whole steps.
        self.engine.check()?;
        let before = self.engine.stats()?;
        self.watch.reset();
        let run = drive::drive(&self.engine, &load, &self.watch)?;
        self.engine.check()?;
        let after = self.engine.stats()?;
        let seen = self.watch.take();
        self.figures.push(Figures::of(&run, &seen, &before, &after));
        Ok((run, seen))
    }

    /// The run whose time is in the middle.
    fn median(&self) -> Option<&Figures> {
        let mut sorted: Vec<&Figures> = self.figures.iter().collect();
        sorted.sort_by_key(|figures| figures.wall);
        sorted.get(sorted.len() / 2).copied()
    }
}
