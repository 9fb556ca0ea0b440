//! `astrai info`: facts about a model folder, as this machine would run it.

use crate::args::EngineArgs;
use crate::failure::Outcome;
use crate::open::open;
use clap::Args;
use std::io::Write;

/// Arguments of `astrai info`.
#[derive(Args)]
pub struct InfoArgs {
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the subcommand.
pub fn info(args: InfoArgs) -> Outcome {
    let mut options = args.engine.options();
    options.max_running = 1;
    let engine = open(&args.engine.model, options, None)?;
    let info = engine.info();
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
        ("device", info.device_name.clone()),
        ("cpu tier", format!("{:?}", info.cpu_tier).to_lowercase()),
        ("compute", format!("{:?}", info.compute).to_lowercase()),
    ];
    for (name, value) in facts {
        writeln!(out, "{name:14}{value}")?;
    }
    Ok(())
}
