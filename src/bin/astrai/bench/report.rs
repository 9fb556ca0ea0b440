//! What a measurement prints: a table for people, or one JSON object.

use super::args::{BenchArgs, Plan, Workload, name_of};
use super::result::{Figures, Spread, round};
use super::{Bench, SHAPE_DEFAULT, machine};
use crate::failure::Outcome;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// Prints everything that was measured.
pub fn report(args: &BenchArgs, plan: &Plan, benches: &[Bench]) -> Outcome {
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", object(args, plan, benches))?;
    } else {
        table(args, plan, benches, &mut out)?;
    }
    Ok(out.flush()?)
}

/// Of one policy, an object with its figures; of several, one with a list of such objects.
fn object(args: &BenchArgs, plan: &Plan, benches: &[Bench]) -> Value {
    let prefill = plan.workload == Workload::Prefill;
    let mut runs: Vec<Value> = Vec::new();
    for bench in benches {
        let Some(figures) = bench.median() else { continue };
        let mut run = figures.json(prefill);
        run["workload"] = json!(name_of(plan.workload));
        run["policy"] = json!(name_of(bench.policy));
        run["truncated"] = json!(bench.truncated);
        run["rounds_wall_s"] = bench.figures.iter().map(|f| round(f.wall.as_secs_f64(), 6)).collect();
        runs.push(run);
    }
    let single = runs.len() == 1;
    let mut object = match runs.pop() {
        Some(run) if single => run,
        last => {
            runs.extend(last);
            let walls = benches.iter().map(|b| (name_of(b.policy), json!(round(ratio(benches, b), 4))));
            let ratios: serde_json::Map<String, Value> = walls.collect();
            json!({"workload": name_of(plan.workload), "runs": runs, "wall_ratio": ratios})
        }
    };
    if let [bench] = benches {
        let seconds = |time: Option<Duration>| time.map(|t| round(t.as_secs_f64(), 6));
        object["open_s"] = json!(seconds(Some(bench.opened)));
        object["open_to_first_token_s"] = json!(seconds(bench.first_token.map(|first| bench.opened + first)));
    }
    object["peak_memory_bytes"] = json!(machine::peak_memory_bytes());
    object["config"] = config(args, plan, benches);
    object
}

/// How many times the first policy's time another one took, by the medians.
fn ratio(benches: &[Bench], of: &Bench) -> f64 {
    let seconds = |bench: &Bench| bench.median().map_or(0.0, |f| f.wall.as_secs_f64());
    seconds(of) / benches.first().map_or(0.0, seconds).max(1e-9)
}

/// Everything that has an influence, as it came out and not as it was asked for. The engines differ in their policies
/// alone.
fn config(args: &BenchArgs, plan: &Plan, benches: &[Bench]) -> Value {
    let engine = benches.first().map(|bench| &bench.engine);
    let info = engine.map(|engine| engine.info().clone()).unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": machine::cpu_model(),
        "cpus": machine::cpus(),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "optimised": !cfg!(debug_assertions),
        "model": args.model().map(|dir| dir.display().to_string()),
        "shape": shape(args),
        "model_type": info.model_type,
        "layers": info.layers,
        "vocab_size": info.vocab_size,
        "device": info.device.name(),
        "device_name": info.device_name,
        "invariant": args.invariant != 0 || !info.device.is_gpu(),
        "gpu": machine::gpu(info.device, args.device.1),
        "cpu_tier": format!("{:?}", info.cpu_tier).to_lowercase(),
        "compute": format!("{:?}", info.compute).to_lowercase(),
        "weights": info.weights.map(|encoding| encoding.to_string()),
        "kv": info.kv.map(|dtype| dtype.to_string()),
        "threads": info.threads,
        "context": info.context_length,
        "step_tokens": info.step_tokens,
        "page_tokens": info.page_tokens,
        "memory_mib": args.memory_mib,
        "workload": name_of(plan.workload),
        "requests": plan.requests,
        "streams": plan.streams,
        "slots": plan.slots,
        "rate": plan.rate,
        "prompt_len": plan.prompt_len,
        "gen_len": plan.gen_len,
        "rounds": args.rounds,
        "seed": plan.seed,
    })
}

fn shape(args: &BenchArgs) -> Option<&str> {
    args.model().is_none().then(|| args.shape.as_deref().unwrap_or(SHAPE_DEFAULT))
}

fn table(args: &BenchArgs, plan: &Plan, benches: &[Bench], out: &mut impl Write) -> Outcome {
    let Some(first) = benches.first() else { return Ok(()) };
    let info = first.engine.info();
    let model = match (args.model(), shape(args)) {
        (Some(dir), _) => dir.display().to_string(),
        (None, shape) => format!("{} with random weights", shape.unwrap_or_default()),
    };
    writeln!(out, "astrai {}, {} on {model}", env!("CARGO_PKG_VERSION"), name_of(plan.workload))?;
    writeln!(out, "{}; {}, compute {:?}", machine::cpu_model(), info.device_name, info.compute)?;
    if args.invariant == 0 && info.device.is_gpu() {
        writeln!(out, "a token may depend on what else is in its step")?;
    }
    if cfg!(debug_assertions) {
        writeln!(out, "this build is not optimised: its figures mean nothing")?;
    }
    let lengths = if matches!(plan.workload, Workload::Batch | Workload::Poisson) { "about " } else { "" };
    let rate = match (plan.rate, plan.workload) {
        (Some(rate), _) => format!(", {rate} arrivals/s"),
        (None, Workload::Streams | Workload::Chat) => format!(", {} streams", plan.streams),
        _ => String::new(),
    };
    writeln!(
        out,
        "{} requests, prompts of {}, outputs of {lengths}{}, {} slots{rate}, seed {}\n",
        plan.requests, plan.prompt_len, plan.gen_len, plan.slots, plan.seed
    )?;
    if benches.len() > 1 {
        return compare(plan, benches, out);
    }
    if let Some(figures) = first.median() {
        details(plan, figures, first, out)?;
    }
    Ok(())
}

/// One line for each policy.
fn compare(plan: &Plan, benches: &[Bench], out: &mut impl Write) -> Outcome {
    let prefill = plan.workload == Workload::Prefill;
    writeln!(
        out,
        "{:12}{:>10}{:>12}{:>12}{:>12}{:>12}{:>10}",
        "policy", "tokens/s", "steps", "wall s", "lowest", "highest", "ratio"
    )?;
    for bench in benches {
        let Some(figures) = bench.median() else { continue };
        let walls = || bench.figures.iter().map(|f| f.wall);
        let seconds = |d: Option<std::time::Duration>| d.unwrap_or_default().as_secs_f64();
        writeln!(
            out,
            "{:12}{:>10.1}{:>12}{:>12.3}{:>12.3}{:>12.3}{:>10.3}",
            name_of(bench.policy),
            figures.tokens_per_s(prefill),
            figures.steps,
            figures.wall.as_secs_f64(),
            seconds(walls().min()),
            seconds(walls().max()),
            ratio(benches, bench)
        )?;
    }
    Ok(())
}

/// All figures of one run.
fn details(plan: &Plan, f: &Figures, bench: &Bench, out: &mut impl Write) -> Outcome {
    let prefill = plan.workload == Workload::Prefill;
    let mut line = |name: &str, value: String| writeln!(out, "{name:24}{value}");
    let kind = if prefill { "prompt tokens/s" } else { "tokens/s" };
    line(kind, format!("{:.1}", f.tokens_per_s(prefill)))?;
    let walls: Vec<String> = bench.figures.iter().map(|f| format!("{:.3}", f.wall.as_secs_f64())).collect();
    let all = if walls.len() > 1 { format!("  (median of {})", walls.join(", ")) } else { String::new() };
    line("wall time", format!("{:.3} s{all}", f.wall.as_secs_f64()))?;
    line("steps", format!("{}", f.steps))?;
    line("prompt tokens", format!("{}, {} of them cached", f.prompt_tokens, f.cached_tokens))?;
    line("generated tokens", format!("{}", f.generated_tokens))?;
    if bench.truncated > 0 {
        line("", format!("{} outputs were cut to what the context leaves", bench.truncated))?;
    }
    line("first token", times(f.ttft))?;
    line("token to token", times(f.itl))?;
    if let (Some(cold), Some(warm), Some(ratio)) = (f.cold, f.warm, f.prefix_ratio()) {
        line("  cold prefix", times(Some(cold)))?;
        line("  cached prefix", times(Some(warm)))?;
        line("  cold / cached", format!("{ratio:.1}"))?;
    }
    let pages = format!("at most {} of {} pages", f.pages_used_max, f.pages);
    line("KV utilisation", format!("{:.1} %, {pages}", 100.0 * f.kv_utilisation))?;
    line("preemptions", format!("{}", f.preemptions))?;
    if f.drafted_tokens > 0 {
        line("drafts", format!("{} of {} accepted, {:.3} s saved", f.accepted_tokens, f.drafted_tokens, f.saved))?;
    }
    let [cleanup, refill, prefill_s, decode] = f.phases;
    line(
        "step time",
        format!("cleanup {cleanup:.3} s, refill {refill:.3} s, prefill {prefill_s:.3} s, decode {decode:.3} s"),
    )?;
    line("open", format!("{:.3} s", bench.opened.as_secs_f64()))?;
    if let Some(bytes) = machine::peak_memory_bytes() {
        line("peak memory", format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64))?;
    }
    Ok(())
}

/// Percentiles on one line.
pub fn times(spread: Option<Spread>) -> String {
    match spread {
        None => "-".to_owned(),
        Some(s) => format!("{:.2} ms median, {:.2} ms p90, {:.2} ms p99", s.p50, s.p90, s.p99),
    }
}
