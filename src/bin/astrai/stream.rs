//! One answer on its way to stdout.

use crate::failure::{Failure, Outcome, note};
use crate::interrupt::Interrupt;
use astrai::engine::{EventKind, FinishReason, Next, Part, PartEnd, PartKind, Request, Usage};
use clap::Args;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How long Ctrl-C may go unnoticed.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// What a request has said.
#[derive(Debug)]
pub struct Answer {
    /// All of its content.
    pub text: String,
    /// The calls that are whole.
    pub calls: Vec<Call>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Its counts and times.
    pub usage: Usage,
}

/// A call of a tool.
#[derive(Debug, Default)]
pub struct Call {
    pub name: String,
    pub id: String,
}

/// How answers are shown.
#[derive(Args)]
pub struct ShowArgs {
    /// Do not show what the model thinks before it answers, and ask templates that know it to do without [default: on a terminal
    /// it is shown dimmed; elsewhere it never is]
    #[arg(long)]
    no_reasoning: bool,
}

impl ShowArgs {
    /// Tells the chat template.
    pub fn add(&self, variables: &mut serde_json::Map<String, serde_json::Value>) {
        if self.no_reasoning {
            variables.entry("enable_thinking").or_insert(false.into());
        }
    }

    /// Whether reasoning is shown on stdout.
    fn reasoning(&self) -> bool {
        !self.no_reasoning && std::io::stdout().is_terminal()
    }
}

/// Writes the content of `request` as it arrives, its calls a line each, and a newline when it ended without one. Ctrl-C cancels;
/// the answer then ends with [`FinishReason::Cancel`].
pub fn stream(request: &Request, show: &ShowArgs, interrupt: &Interrupt, out: &mut impl Write) -> Outcome<Answer> {
    let mut printer = Printer { out, reasoning: show.reasoning(), column: 0, text: String::new(), calls: Vec::new() };
    loop {
        if interrupt.raised() {
            request.cancel();
        }
        let event = match request.next(Some(INTERRUPT_POLL))? {
            Next::Timeout => continue,
            Next::End => return Err(Failure::message("the engine ended the request without a last event")),
            Next::Event(event) => event,
        };
        for index in 0..event.part_count() {
            event.part(index).map_or(Ok(()), |part| printer.part(&part))?;
        }
        printer.out.flush()?;
        if !event.terminal() {
            continue;
        }
        printer.end_line()?;
        printer.out.flush()?;
        let (text, calls) = (printer.text, printer.calls);
        return match event.kind {
            EventKind::Failed => Err(match event.error {
                Some(error) => error.into(),
                None => Failure::message("the request failed"),
            }),
            _ => Ok(Answer { text, calls, finish: event.finish, usage: event.usage.unwrap_or_default() }),
        };
    }
}

/// Begins and ends dimmed text on a terminal.
const DIM: [&str; 2] = ["\x1b[2m", "\x1b[0m"];

/// An answer on its way to stdout.
struct Printer<'a, W> {
    out: &'a mut W,
    reasoning: bool,
    /// 0: at the beginning of a line.
    column: usize,
    text: String,
    calls: Vec<Call>,
}

impl<W: Write> Printer<'_, W> {
    fn part(&mut self, part: &Part) -> Outcome {
        match part.kind {
            PartKind::Content => {
                self.text.push_str(part.text);
                self.write(part.text)
            }
            PartKind::Reasoning if self.reasoning => {
                if part.begins {
                    self.out.write_all(DIM[0].as_bytes())?;
                }
                self.write(part.text)?;
                if part.end.is_some() {
                    self.out.write_all(DIM[1].as_bytes())?;
                    self.end_line()?;
                }
                Ok(())
            }
            PartKind::Reasoning => Ok(()),
            PartKind::Call => {
                let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                if part.begins {
                    self.end_line()?;
                    self.calls.push(Call { name: text(part.name), id: text(part.id) });
                    self.write(part.name.unwrap_or("?"))?;
                    self.write("(")?;
                }
                self.write(part.text)?;
                match part.end {
                    None => return Ok(()),
                    Some(PartEnd::Complete) => self.write(")")?,
                    Some(_) => {
                        self.calls.pop();
                        self.write(" ...")?;
                    }
                }
                self.end_line()
            }
        }
    }

    fn write(&mut self, text: &str) -> Outcome {
        self.out.write_all(text.as_bytes())?;
        if !text.is_empty() {
            self.column = usize::from(!text.ends_with('\n'));
        }
        Ok(())
    }

    fn end_line(&mut self) -> Outcome {
        if self.column > 0 {
            self.write("\n")?;
        }
        Ok(())
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

    fn part(kind: PartKind, text: &str) -> Part<'_> {
        let (begins, end) = (true, Some(PartEnd::Complete));
        Part { kind, part: 0, call: None, begins, end, name: Some("dice"), id: Some("a"), text }
    }

    #[test]
    fn calls_have_lines_of_their_own_and_thoughts_are_dimmed() {
        for (reasoning, wanted) in [
            (true, "\x1b[2mhm\x1b[0m\nI roll.\ndice({})\ndice({})\nDone."),
            (false, "I roll.\ndice({})\ndice({})\nDone."),
        ] {
            let mut out = Vec::new();
            let mut printer = Printer { out: &mut out, reasoning, column: 0, text: String::new(), calls: Vec::new() };
            printer.part(&part(PartKind::Reasoning, "hm")).unwrap();
            printer.part(&part(PartKind::Content, "I roll.")).unwrap();
            printer.part(&part(PartKind::Call, "{}")).unwrap();
            printer.part(&part(PartKind::Call, "{}")).unwrap();
            printer.part(&Part { end: Some(PartEnd::Unclosed), ..part(PartKind::Content, "Done.") }).unwrap();
            assert_eq!((printer.text.as_str(), printer.calls.len()), ("I roll.Done.", 2));
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
        }
    }

    #[test]
    fn speed_counts_the_tokens_after_the_first() {
        let usage = Usage { generated_tokens: 11, decode_us: 500_000, total_us: 9_000_000, ..Usage::default() };
        assert_eq!(tokens_per_second(&usage), 20.0);
        let one = Usage { generated_tokens: 1, decode_us: 0, total_us: 250_000, ..Usage::default() };
        assert_eq!(tokens_per_second(&one), 4.0);
        assert_eq!(tokens_per_second(&Usage::default()), 0.0);
    }
}
