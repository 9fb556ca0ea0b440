//! What a measurement over HTTP prints: a table, or one JSON object with the fields of a local measurement that a client can see.

use super::super::args::{BenchArgs, Plan, Workload, name_of};
use super::super::report::times;
use super::super::result::{Figures, round};
use super::Remote;
use crate::failure::Outcome;
use serde_json::{Value, json};
use std::io::Write;

/// Fields of a local measurement that only the engine knows.
const ENGINES: [&str; 7] =
    ["steps", "kv_utilisation", "preemptions", "host_us_per_step", "pages_used_max", "pages", "step_time_s"];

/// Prints the round whose time is in the middle.
pub fn report(args: &BenchArgs, plan: &Plan, remote: &Remote, all: &[Figures], truncated: usize) -> Outcome {
    let mut sorted: Vec<&Figures> = all.iter().collect();
    sorted.sort_by_key(|figures| figures.wall);
    let Some(figures) = sorted.get(sorted.len() / 2) else { return Ok(()) };
    let mut out = std::io::stdout().lock();
    let prefill = plan.workload == Workload::Prefill;
    if args.json {
        let mut object = figures.json(prefill);
        if let Some(fields) = object.as_object_mut() {
            fields.retain(|name, _| !ENGINES.contains(&name.as_str()));
        }
        object["workload"] = json!(name_of(plan.workload));
        object["truncated"] = json!(truncated);
        object["rounds_wall_s"] = all.iter().map(|f| round(f.wall.as_secs_f64(), 6)).collect();
        object["config"] = config(args, plan, remote);
        writeln!(out, "{object}")?;
        return Ok(out.flush()?);
    }
    writeln!(
        out,
        "astrai {}, {} of {} at {}",
        env!("CARGO_PKG_VERSION"),
        name_of(plan.workload),
        remote.model,
        remote.url
    )?;
    writeln!(
        out,
        "{} requests, prompts of {}, outputs of {}, {} at once, seed {}\n",
        plan.requests, plan.prompt_len, plan.gen_len, plan.streams, plan.seed
    )?;
    let mut line = |name: &str, value: String| writeln!(out, "{name:24}{value}");
    let kind = if prefill { "prompt tokens/s" } else { "tokens/s" };
    line(kind, format!("{:.1}", figures.tokens_per_s(prefill)))?;
    let walls: Vec<String> = all.iter().map(|f| format!("{:.3}", f.wall.as_secs_f64())).collect();
    let rounds = if walls.len() > 1 { format!("  (median of {})", walls.join(", ")) } else { String::new() };
    line("wall time", format!("{:.3} s{rounds}", figures.wall.as_secs_f64()))?;
    line("prompt tokens", format!("{}, {} of them cached", figures.prompt_tokens, figures.cached_tokens))?;
    line("generated tokens", format!("{}", figures.generated_tokens))?;
    line("first token", times(figures.ttft))?;
    line("token to token", times(figures.itl))?;
    if let (Some(cold), Some(warm), Some(ratio)) = (figures.cold, figures.warm, figures.prefix_ratio()) {
        line("  cold prefix", times(Some(cold)))?;
        line("  cached prefix", times(Some(warm)))?;
        line("  cold / cached", format!("{ratio:.1}"))?;
    }
    Ok(out.flush()?)
}

fn config(args: &BenchArgs, plan: &Plan, remote: &Remote) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "url": remote.url,
        "model": remote.model,
        "workload": name_of(plan.workload),
        "requests": plan.requests,
        "streams": plan.streams,
        "rate": plan.rate,
        "prompt_len": plan.prompt_len,
        "gen_len": plan.gen_len,
        "vocab": args.vocab,
        "rounds": args.rounds,
        "seed": plan.seed,
    })
}
