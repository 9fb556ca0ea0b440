//! Models that keep states, with steps that overlap: a sequence goes on, in the same bits, from wherever another one of its kind was
//! stopped, cancelled or copied, and a step too many for one that has ended leaves no trace.

use super::steps::open;
use crate::support::jobs::{Answer, answer, drain};
use astrai::engine::*;

const TOKENS: usize = 22;

fn submit(engine: &Engine, prompt: &[u32], options: RequestOptions) -> Request {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(prompt.to_vec())], ..Prompt::default() };
    let options = RequestOptions { temperature: Some(0.0), ignore_eos: true, logprobs: Some(0), ..options };
    engine.submit(&prompt, &options, Sink::Pull).unwrap()
}

fn tokens(count: usize) -> RequestOptions {
    RequestOptions { max_tokens: Some(count as u32), ..RequestOptions::default() }
}

fn of(request: &Request) -> Answer {
    answer(&drain(request))
}

/// Its tokens and their log probabilities are those of the whole answer from `first` on.
fn is_part_of(whole: &Answer, first: usize, part: &Answer, what: &str) {
    let range = first..first + part.tokens.len();
    assert_eq!(part.tokens, whole.tokens[range.clone()], "{what}");
    assert_eq!(part.logprobs, whole.logprobs[range], "{what}");
}

pub fn a_sequence_goes_on_from_every_step() {
    for model in ["lfm2", "qwen3_5_text", "granitemoehybrid"] {
        let options = || EngineOptions { page_tokens: 4, max_running: 4, ..EngineOptions::default() };
        let prompt: Vec<u32> = (0..9).map(|i| (i * 31 + 5) % 90).collect();
        let whole = of(&submit(&open(model, options()), &prompt, tokens(TOKENS)));
        assert_eq!(whole.tokens.len(), TOKENS);
        let engine = open(model, options());
        for step in 1..TOKENS {
            let what = format!("{model}, step {step}");
            // Stopped by its length, by a token that the step after it was submitted without knowing of, by its host.
            let stopped = of(&submit(&engine, &prompt, tokens(step)));
            is_part_of(&whole, 0, &stopped, &format!("{what}, stopped"));
            let settings = Settings { stop_tokens: vec![whole.tokens[step - 1]], ..Settings::default() };
            let by_token = RequestOptions { settings: Some(std::sync::Arc::new(settings)), ..tokens(TOKENS) };
            is_part_of(&whole, 0, &of(&submit(&engine, &prompt, by_token)), &format!("{what}, by a token"));
            let cancelled = submit(&engine, &prompt, tokens(TOKENS));
            let mut heard = Vec::new();
            while heard.len() < step {
                match cancelled.next(None).unwrap() {
                    Next::Event(event) if event.terminal() => break,
                    Next::Event(event) => heard.extend(event.tokens.clone()),
                    other => panic!("{other:?}"),
                }
            }
            cancelled.cancel();
            drop(cancelled);
            // Copies go on, one as it was, one another way, at once.
            let so_far = [&prompt[..], &whole.tokens[..step]].concat();
            let other = [&so_far[..], &[7, 8]].concat();
            let copies = [&so_far, &other, &so_far].map(|prompt| submit(&engine, prompt, tokens(TOKENS - step)));
            let answers = copies.each_ref().map(of);
            is_part_of(&whole, step, &answers[0], &format!("{what}, a copy"));
            is_part_of(&whole, step, &answers[2], &format!("{what}, another copy"));
            let alone = of(&submit(&open(model, options()), &other, tokens(TOKENS - step)));
            assert_eq!(answers[1], alone, "{what}, another way");
        }
        engine.clear_cache().unwrap();
        engine.check().unwrap();
        let stats = engine.stats().unwrap();
        assert!(stats.prefix_tokens_hit > 0, "{model}: sequences began with states: {stats:?}");
        assert_eq!((stats.pages_used, stats.pages_cached), (0, 0), "{model}: everything was given back");
    }
}
