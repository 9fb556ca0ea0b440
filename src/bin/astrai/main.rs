//! The command line tool `astrai`: runs, chats, renders templates, scores files and measures with the library's public API.
//!
//! Answers and results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed (`astrai: <message>` on
//! stderr), 2 wrong usage, 130 interrupted. A reader that closes the pipe ends the program quietly.

mod args;
mod bench;
mod chat;
mod constraint;
mod demo;
mod embed;
mod failure;
mod info;
mod interrupt;
mod open;
mod pull;
mod quality;
mod render;
mod run;
mod score;
mod serve;
mod stream;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

/// Runs language models from Hugging Face folders.
#[derive(Parser)]
#[command(name = "astrai", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers one prompt, streaming.
    Run(run::RunArgs),
    /// A conversation in the terminal; one line is one turn.
    Chat(chat::ChatArgs),
    /// Prints what the chat template makes of messages; needs no weights.
    Render(render::RenderArgs),
    /// Scores JSON lines from stdin, or the perplexity of a text.
    Score(score::ScoreArgs),
    /// Prints an embedding for each line of stdin.
    Embed(embed::EmbedArgs),
    /// Compares quantized weights with stored ones: perplexity and divergence on a text.
    Quality(quality::QualityArgs),
    /// Prints facts about a model folder.
    Info(info::InfoArgs),
    /// Measures speed on a model folder, or on random weights of a known shape.
    Bench(bench::BenchArgs),
    /// Answers requests of OpenAI's clients over HTTP.
    Serve(serve::ServeArgs),
    /// Downloads a model of a hub into the cache, and prints its path.
    Pull(pull::PullArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::chat(args),
        Command::Render(args) => render::render(args),
        Command::Score(args) => score::score(args),
        Command::Embed(args) => embed::embed(args),
        Command::Quality(args) => quality::quality(args),
        Command::Info(args) => info::info(args),
        Command::Bench(args) => bench::bench(args),
        Command::Serve(args) => serve::serve(args),
        Command::Pull(args) => pull::pull(args),
    };
    match outcome {
        Ok(()) | Err(Failure::Pipe) => ExitCode::SUCCESS,
        Err(Failure::Message(message)) => {
            failure::note(&message);
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            failure::note(&message);
            // Nothing is left to tell when stderr itself is gone.
            let _ = writeln!(std::io::stderr(), "For more information, try 'astrai --help'.");
            ExitCode::from(2)
        }
        Err(Failure::Interrupted) => ExitCode::from(130),
    }
}
