//! One answer on its way to stdout.

use crate::failure::{Failure, Outcome, note};
use crate::interrupt::Interrupt;
use astrai::engine::{EventKind, FinishReason, Next, Request, Usage};
use std::io::Write;
use std::time::Duration;

/// How long Ctrl-C may go unnoticed.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// What a request has said.
pub struct Answer {
    /// All of its text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Its counts and times.
    pub usage: Usage,
}

/// Writes the text of `request` as it arrives, and a newline when it ended without one. Ctrl-C cancels; the answer
/// then ends with [`FinishReason::Cancel`].
pub fn stream(request: &Request, interrupt: &Interrupt, out: &mut impl Write) -> Outcome<Answer> {
    let mut text = String::new();
    loop {
        if interrupt.raised() {
            request.cancel();
        }
        let event = match request.next(Some(INTERRUPT_POLL))? {
            Next::Timeout => continue,
            Next::End => return Err(Failure::message("the engine ended the request without a last event")),
            Next::Event(event) => event,
        };
        if !event.text.is_empty() {
            out.write_all(event.text.as_bytes())?;
            out.flush()?;
            text.push_str(&event.text);
        }
        if !event.terminal() {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            out.write_all(b"\n")?;
            out.flush()?;
        }
        return match event.kind {
            EventKind::Failed => Err(match event.error {
                Some(error) => error.into(),
                None => Failure::message("the request failed"),
            }),
            _ => Ok(Answer { text, finish: event.finish, usage: event.usage.unwrap_or_default() }),
        };
    }
}

/// The line on stderr after an answer.
pub fn report(answer: &Answer) {
    let usage = &answer.usage;
    note(&format!(
        "{} tokens, {:.1} tokens/s; prompt {} tokens, first token after {:.3} s; ended by {}, seed {}",
        usage.generated_tokens,
        tokens_per_second(usage),
        usage.prompt_tokens,
        usage.first_token_us as f64 / 1e6,
        finish_name(answer.finish),
        usage.seed,
    ));
}

/// Decoding speed: the tokens after the first, in the time after the first.
fn tokens_per_second(usage: &Usage) -> f64 {
    let (tokens, time_us) = match usage.generated_tokens {
        0 | 1 => (u64::from(usage.generated_tokens), usage.total_us),
        n => (u64::from(n) - 1, usage.decode_us),
    };
    if time_us == 0 { 0.0 } else { tokens as f64 * 1e6 / time_us as f64 }
}

/// The name of a finish reason, as `score` prints it.
pub fn finish_name(finish: FinishReason) -> String {
    format!("{finish:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_counts_the_tokens_after_the_first() {
        let usage = Usage { generated_tokens: 11, decode_us: 500_000, total_us: 9_000_000, ..Usage::default() };
        assert_eq!(tokens_per_second(&usage), 20.0);
        let one = Usage { generated_tokens: 1, decode_us: 0, total_us: 250_000, ..Usage::default() };
        assert_eq!(tokens_per_second(&one), 4.0);
        assert_eq!(tokens_per_second(&Usage::default()), 0.0);
    }
}
