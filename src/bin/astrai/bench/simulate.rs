//! Counting forward passes without a model: the scheduler runs as it would, and a made-up token stands for each sampled
//! one. What a policy costs in passes depends on nothing else.

use super::args::{BenchArgs, Plan, PolicyName, name_of};
use super::load::output_lens;
use super::random::Random;
use super::result::{median, round};
use crate::failure::{Failure, Outcome};
use astrai::limits;
use astrai::scheduler::{Batch, Capacity, GroupCapacity, Scheduler, SequenceHandle};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;

/// Below this, a token id is one of many: prompts share nothing.
const VOCAB: u32 = 1 << 30;
/// Purpose of the prompts' random numbers.
const PROMPTS: u64 = 9;

/// Forward passes of each policy on the same requests.
struct Trial {
    seed: u64,
    passes: Vec<u64>,
}

/// Runs every policy on every seed and prints what came of it.
pub fn simulate(args: &BenchArgs, plan: &Plan) -> Outcome {
    let mut trials = Vec::new();
    for seed in (0..u64::from(args.seeds)).map(|i| args.seed.wrapping_add(i)) {
        let plan = Plan { seed, ..plan.clone() };
        let passes = args.policy.iter().map(|&policy| forward_passes(&plan, policy)).collect::<Outcome<_>>()?;
        trials.push(Trial { seed, passes });
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report(args, plan, &trials))?;
    } else {
        print(args, plan, &trials, &mut out)?;
    }
    Ok(out.flush()?)
}

/// Steps with something to compute, until every request has all of its tokens.
fn forward_passes(plan: &Plan, policy: PolicyName) -> Outcome<u64> {
    let lens = output_lens(plan);
    let longest = plan.prompt_len + lens.iter().max().copied().unwrap_or(1);
    let page_tokens = limits::PAGE_TOKENS_DEFAULT;
    let mut scheduler = Scheduler::new(Capacity {
        running_max: plan.slots,
        waiting_max: plan.requests,
        step_tokens: limits::STEP_TOKENS_DEFAULT.max(plan.slots),
        page_tokens,
        // Nobody is ever short of pages.
        groups: vec![GroupCapacity::all((plan.slots + 1) * (longest + 1).div_ceil(page_tokens))],
        pages_max: 0,
    })?;
    let mut prompts = Random::new(plan.seed, PROMPTS);
    let mut left: HashMap<SequenceHandle, usize> = HashMap::new();
    for len in lens {
        let prompt = prompts.tokens(plan.prompt_len, VOCAB);
        left.insert(scheduler.submit(prompt, plan.prompt_len + len, plan.prompt_len - 1, 0)?, len);
    }
    let (mut schedule_fn, mut batch) = (policy.schedule_fn(), Batch::default());
    let mut passes = 0;
    while !left.is_empty() {
        match &mut schedule_fn {
            Some(schedule_fn) => schedule_fn(&mut scheduler, &mut batch),
            None => scheduler.schedule(&mut batch),
        }
        if batch.rows.is_empty() {
            return Err(Failure::Message(format!("the simulation stalled with {} requests to go", left.len())));
        }
        passes += 1;
        for row in &batch.rows {
            scheduler.computed(row);
            let samples = row.logits_from < row.first + row.count;
            let Some(len) = left.get_mut(&row.sequence).filter(|_| samples) else { continue };
            scheduler.append(row.sequence, 0)?;
            *len -= 1;
            if *len == 0 {
                left.remove(&row.sequence);
                scheduler.finish(row.sequence);
            }
        }
    }
    Ok(passes)
}

/// How many times the passes of the first policy another one needs, over the seeds.
fn ratios(trials: &[Trial], policy: usize) -> Vec<f64> {
    trials.iter().map(|t| t.passes[policy] as f64 / t.passes[0].max(1) as f64).collect()
}

fn report(args: &BenchArgs, plan: &Plan, trials: &[Trial]) -> Value {
    let name = |at: usize| name_of(args.policy[at]);
    let by_name = |values: Vec<Value>| -> Value {
        values.into_iter().enumerate().map(|(at, value)| (name(at), value)).collect::<serde_json::Map<_, _>>().into()
    };
    let all = 0..args.policy.len();
    let seeds: Vec<Value> = trials
        .iter()
        .map(|t| json!({"seed": t.seed, "steps": by_name(t.passes.iter().map(|p| json!(p)).collect())}))
        .collect();
    let middle = |values: Vec<f64>| median(values).map(|value| round(value, 4));
    json!({
        "workload": "batch",
        "simulated": true,
        "requests": plan.requests,
        "slots": plan.slots,
        "prompt_len": plan.prompt_len,
        "gen_len": plan.gen_len,
        "seeds": seeds,
        "steps": by_name(all.clone().map(|at| json!(middle(trials.iter().map(|t| t.passes[at] as f64).collect()))).collect()),
        "ratio": by_name(all.map(|at| json!(middle(ratios(trials, at)))).collect()),
    })
}

fn print(args: &BenchArgs, plan: &Plan, trials: &[Trial], out: &mut impl Write) -> Outcome {
    writeln!(
        out,
        "forward passes, simulated: {} requests, prompts of {}, outputs exponential with mean {}, {} slots",
        plan.requests, plan.prompt_len, plan.gen_len, plan.slots
    )?;
    write!(out, "{:>8}", "seed")?;
    args.policy.iter().try_for_each(|p| write!(out, "{:>14}", name_of(*p)))?;
    let others = 1..args.policy.len();
    others.clone().try_for_each(|at| write!(out, "{:>14}", format!("{} ratio", name_of(args.policy[at]))))?;
    writeln!(out)?;
    for (index, trial) in trials.iter().enumerate() {
        write!(out, "{:>8}", trial.seed)?;
        trial.passes.iter().try_for_each(|p| write!(out, "{p:>14}"))?;
        others.clone().try_for_each(|at| write!(out, "{:>14.3}", ratios(trials, at)[index]))?;
        writeln!(out)?;
    }
    if trials.len() > 1 {
        write!(out, "{:>8}", "median")?;
        let medians = (0..args.policy.len()).map(|at| median(trials.iter().map(|t| t.passes[at] as f64).collect()));
        medians.into_iter().flatten().try_for_each(|m| write!(out, "{m:>14.0}"))?;
        others.filter_map(|at| median(ratios(trials, at))).try_for_each(|m| write!(out, "{m:>14.3}"))?;
        writeln!(out)?;
    }
    Ok(())
}
