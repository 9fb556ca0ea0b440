//! `astrai info`: facts about a model folder, as this machine would run it.

use crate::args::{EngineArgs, PositionArgs};
use crate::failure::Outcome;
use crate::open::open;
use astrai::engine::{Engine, MemoryPlan};
use clap::Args;
use indicatif::BinaryBytes;
use std::io::Write;

/// Arguments of `astrai info`.
#[derive(Args)]
pub struct InfoArgs {
    #[command(flatten)]
    position: PositionArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the subcommand.
pub fn info(args: InfoArgs) -> Outcome {
    let folder = args.position.folder(&args.engine.model.folder, None)?;
    let mut options = args.engine.options();
    options.max_running = 1;
    let engine = open(&folder, options, None)?;
    let info = engine.info();
    // What serving takes, with all slots.
    let plan = Engine::plan(&folder, &args.engine.options())?;
    let token = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
    let mut out = std::io::stdout().lock();
    let facts = [
        ("model type", info.model_type.clone()),
        ("layers", info.layers.to_string()),
        ("vocabulary", format!("{} tokens", info.vocab_size)),
        ("context", format!("{} tokens", info.context_length)),
        ("bos token", token(info.bos_token)),
        ("eos token", token(info.eos_token)),
        ("chat template", if info.has_chat_template { "yes" } else { "no" }.to_owned()),
        ("answers", info.answer_format.clone().unwrap_or_else(|| "all is content".to_owned())),
        ("device", info.device_name.clone()),
        ("cpu tier", format!("{:?}", info.cpu_tier).to_lowercase()),
        ("compute", format!("{:?}", info.compute).to_lowercase()),
    ];
    for (name, value) in facts.into_iter().chain(memory(&plan)) {
        writeln!(out, "{name:14}{value}")?;
    }
    Ok(())
}

/// The plan's lines.
fn memory(plan: &MemoryPlan) -> [(&'static str, String); 5] {
    let MemoryPlan { kv_tokens, max_sequences, context_length, .. } = plan;
    let per_token = BinaryBytes(plan.kv_bytes_per_token);
    let available = match (plan.available_bytes, plan.fits) {
        (0, _) => String::new(),
        (bytes, true) => format!(", {} are available", BinaryBytes(bytes)),
        (bytes, false) => format!(", but only {} are available", BinaryBytes(bytes)),
    };
    [
        ("weights", BinaryBytes(plan.weight_bytes).to_string()),
        ("kv cache", format!("{} for {kv_tokens} tokens, {per_token} each", BinaryBytes(plan.kv_bytes))),
        ("workspace", BinaryBytes(plan.workspace_bytes).to_string()),
        ("memory", format!("{} in all{available}", BinaryBytes(plan.total_bytes))),
        ("sequences", format!("{max_sequences} of {context_length} tokens at the same time")),
    ]
}
