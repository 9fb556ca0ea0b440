//! Random requests and their answers as bits: what the tests of the laws on every device share.

use super::random::Random;
use astrai::engine::*;

#[derive(Clone, Debug)]
pub struct Job {
    pub prompt: Vec<u32>,
    pub options: RequestOptions,
}

impl Job {
    pub fn random(random: &mut Random, vocab: usize, context: usize) -> Job {
        let shared: Vec<u32> = (0..40).map(|i| (i * 7 % vocab) as u32).collect();
        let mut prompt: Vec<u32> = if random.below(2) == 0 { shared[..random.below(40)].to_vec() } else { Vec::new() };
        prompt.extend((0..1 + random.below(context / 3)).map(|_| random.below(vocab) as u32));
        let options = RequestOptions {
            seed: Some(random.below(1000) as u64),
            ignore_eos: true,
            max_tokens: Some(1 + random.below(30) as u32),
            temperature: Some([0.0, 0.7, 1.3][random.below(3)]),
            top_p: Some([1.0, 0.9][random.below(2)]),
            top_k: Some([0, 5][random.below(2)]),
            repetition_penalty: Some([1.0, 1.2][random.below(2)]),
            logprobs: Some(2),
            prompt_logprobs: random.below(4) == 0,
            queue_tokens: 3,
            ..RequestOptions::default()
        };
        Job { prompt, options }
    }

    pub fn submit(&self, engine: &Engine, sink: Sink) -> Request {
        let parts = vec![PromptPart::Tokens(self.prompt.clone())];
        engine.submit(&Prompt { parts, ..Prompt::default() }, &self.options, sink).unwrap()
    }
}

/// What law 1 speaks of, as bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<u32>,
    pub top: Vec<u32>,
    pub prompt_logprobs: Vec<u32>,
    pub embedding: Vec<u32>,
    pub text: String,
}

pub fn answer(events: &[Event]) -> Answer {
    let bits = |v: &[f32]| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
    let last = events.last().unwrap();
    assert!(last.terminal() && events[..events.len() - 1].iter().all(|e| !e.terminal()));
    Answer {
        tokens: events.iter().flat_map(|e| e.tokens.clone()).collect(),
        logprobs: events.iter().flat_map(|e| bits(&e.logprobs)).collect(),
        top: events.iter().flat_map(|e| bits(&e.top_logprobs)).collect(),
        prompt_logprobs: bits(&last.prompt_logprobs),
        embedding: bits(&last.embedding),
        text: events.iter().map(|e| e.text.as_str()).collect(),
    }
}

pub fn drain(request: &Request) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        match request.next(None).unwrap() {
            Next::Event(event) => events.push(*event),
            Next::End => return events,
            Next::Timeout => unreachable!("waits forever"),
        }
    }
}

/// A duty limit under which nothing takes more than four times as long; sometimes none.
pub fn set_random_duty(engine: &Engine, random: &mut Random) {
    let work = [0, 1, 50, 300, 2000][random.below(5)];
    engine.set_duty(work, work + random.below(1 + 3 * work as usize) as u32).unwrap();
}
