//! `astrai serve`: models behind HTTP, until Ctrl-C.

use crate::args::{ComputeArgs, MemoryArgs, SpeculationArgs, one_of};
use crate::demo::Demo;
use crate::failure::{Failure, Outcome, note, read_file};
use crate::interrupt::Interrupt;
use crate::{demo, open, pull};
use astrai::engine::EngineOptions;
use astrai::server::{EngineRef, ModelSpec, ReasoningField, Recording, Server, ServerOptions, WindowOptions};
use astrai::{Error, Status};
use clap::Args;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds between two looks for Ctrl-C and for models that have been loaded.
const LOOK_MS: u64 = 100;
/// The variable of the environment that may hold a key.
const KEY_VARIABLE: &str = "ASTRAI_API_KEY";
/// The beginning of the names of a hub's models.
const HUB: &str = "hf://";

/// Arguments of `astrai serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Model: its folder, .gguf file or hf://owner/name[:quant], or NAME=MODEL, which names it for requests; or --model
    #[arg(value_name = "MODEL_DIR", conflicts_with = "models", required_unless_present_any = ["models", "demo"])]
    position: Option<String>,
    /// The same; may be given several times
    #[arg(long = "model", value_name = "[NAME=]MODEL")]
    models: Vec<String>,
    /// What requests call the model, when there is one; may be given several times [default: the name of its file or folder]
    #[arg(long = "model-name", value_name = "NAME")]
    model_names: Vec<String>,
    /// Address to listen at; others than loopback let other machines ask
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen at; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// A file of keys, one a line, one of which requests must have; the environment variable ASTRAI_API_KEY may hold one, too
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// A name by which the server may be called, beside localhost; may be given several times
    #[arg(long = "allow-host", value_name = "NAME")]
    allow_hosts: Vec<String>,
    /// The field in which reasoning is given
    #[arg(long, value_name = "FIELD", value_parser = one_of(&FIELDS), default_value = "reasoning_content")]
    reasoning_field: ReasoningField,
    /// The window at / shows the texts of requests, too, to whoever may watch
    #[arg(long)]
    window_text: bool,
    /// A demonstration to watch at /: a small engine of 96 page frames, 8 steps a second, and a minute of requests again and again
    #[arg(long, conflicts_with = "max_running")]
    demo: bool,
    /// Write the window with what the first model does inside to a file, which opens without a server: when the server stops, or
    /// after the demonstration's minute
    #[arg(long, value_name = "FILE.html")]
    record: Option<PathBuf>,
    /// Most requests that run at once, of each model [default: what memory holds, within limits]
    #[arg(long, value_name = "N")]
    max_running: Option<u32>,
    /// Most requests that wait, of each model; with more they are refused [default: 1024]
    #[arg(long, value_name = "N")]
    max_waiting: Option<u32>,
    /// Seconds that running requests have to end after Ctrl-C
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
}

const FIELDS: [(&str, &str, ReasoningField); 2] =
    [("reasoning_content", "", ReasoningField::ReasoningContent), ("reasoning", "", ReasoningField::Reasoning)];

impl ServeArgs {
    fn options(&self) -> EngineOptions {
        EngineOptions {
            max_running: self.max_running.unwrap_or(0),
            max_waiting: self.max_waiting.unwrap_or(0),
            // The first call of a tool does not wait for it.
            constraints: true,
            ..self.speculation.add(self.memory.add(self.compute.options()))
        }
    }

    /// The models with their names.
    fn specs(&self, interrupt: &Interrupt, demo: Option<&Demo>) -> Outcome<Vec<ModelSpec>> {
        let shipped = demo::MODEL.to_owned();
        let mut models: Vec<&String> = self.position.iter().chain(&self.models).collect();
        if self.demo && models.is_empty() {
            models.push(&shipped);
        }
        if self.demo && models.len() > 1 {
            return Err(Failure::Usage("--demo is for one model".to_owned()));
        }
        if !self.model_names.is_empty() && models.len() > 1 {
            let message = "--model-name is for one model; name several as --model NAME=MODEL";
            return Err(Failure::Usage(message.to_owned()));
        }
        let spec = |given: &&String| {
            let (name, model) = named(given);
            let (options, interrupt, demo) = (self.options(), interrupt.clone(), demo.cloned());
            let open = Box::new(move |progress| {
                let mut options = EngineOptions { progress: Some(progress), ..options };
                let folder = pull::model(&model, Some(&interrupt)).map_err(error)?;
                if let Some(demo) = &demo {
                    options = demo.options(&folder, options)?;
                }
                let engine = Arc::new(open::open(&folder, options, Some(&interrupt)).map_err(error)?);
                if let Some(demo) = demo {
                    demo.perform(engine.clone());
                }
                Ok(Arc::new(engine) as EngineRef)
            });
            match self.model_names.split_first() {
                Some((name, others)) => ModelSpec { name: name.clone(), aliases: others.to_vec(), open },
                None => ModelSpec { name, aliases: Vec::new(), open },
            }
        };
        Ok(models.iter().map(spec).collect())
    }

    fn keys(&self) -> Outcome<Vec<String>> {
        let mut keys: Vec<String> = std::env::var(KEY_VARIABLE).into_iter().filter(|key| !key.is_empty()).collect();
        if let Some(path) = &self.api_key_file {
            let text = read_file(path)?;
            keys.extend(text.lines().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned));
            if keys.is_empty() {
                return Err(Failure::Message(format!("{} has no key", path.display())));
            }
        }
        Ok(keys)
    }
}

/// A model as it is given, and its name.
fn named(given: &str) -> (String, PathBuf) {
    if let Some((name, model)) = given.split_once('=')
        && !name.contains(['/', '\\'])
        && !Path::new(given).exists()
    {
        return (name.to_owned(), PathBuf::from(model));
    }
    let name = match given.strip_prefix(HUB) {
        Some(name) => name.to_owned(),
        None => {
            let path = Path::new(given);
            let whole = path.canonicalize();
            let last = whole.as_deref().unwrap_or(path).file_name().unwrap_or(path.as_os_str());
            last.to_string_lossy().trim_end_matches(".gguf").to_owned()
        }
    };
    (name, PathBuf::from(given))
}

/// A failure as the server has it.
fn error(failure: Failure) -> Error {
    match failure {
        Failure::Message(message) | Failure::Usage(message) => Error::new(Status::Io, message),
        Failure::Pipe | Failure::Interrupted => Error::new(Status::Aborted, "loading was interrupted"),
    }
}

/// Says that a recording is written, or why not.
fn recorded(path: PathBuf) -> Arc<dyn Fn(astrai::Result<()>) + Send + Sync> {
    Arc::new(move |written| match written {
        Ok(()) => note(&format!("{} is written", path.display())),
        Err(error) => note(&error.to_string()),
    })
}

/// Runs the subcommand. The URL goes to stdout.
pub fn serve(args: ServeArgs) -> Outcome {
    let interrupt = Interrupt::install()?.with_termination()?;
    let keys = args.keys()?;
    let with_keys = !keys.is_empty();
    if !args.host.is_loopback() && !with_keys {
        note("everybody who can reach this machine can ask: there is no key (--api-key-file)");
    }
    let demo = args.demo.then(Demo::new);
    let window = WindowOptions {
        text: args.window_text,
        pace: demo.as_ref().map(Demo::pace),
        record: args.record.clone().map(|path| Recording {
            until: demo.as_ref().map_or(0, |_| demo::MINUTE),
            written: recorded(path.clone()),
            path,
        }),
    };
    let server = Server::start(ServerOptions {
        models: args.specs(&interrupt, demo.as_ref())?,
        host: args.host,
        port: args.port,
        api_keys: keys,
        allowed_hosts: args.allow_hosts.clone(),
        reasoning_field: args.reasoning_field,
        window,
        ..ServerOptions::default()
    })?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", server.url())?;
    stdout.flush()?;
    let key = if with_keys { "one of the keys" } else { "none" };
    let url = server.url();
    note(&format!("for OpenAI's clients: export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key:?}"));
    note(&format!("for Anthropic's clients: export ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN={key:?}"));
    note(&format!("for a browser, to watch: {url}/"));
    let (mut told, mut failed) = (false, None);
    while !interrupt.raised() {
        match server.loaded() {
            Ok(true) if !told => {
                note("ready");
                told = true;
            }
            // A server of several models goes on with the others.
            Err(e) if failed.is_none() => {
                if args.models.len() < 2 {
                    server.stop(Duration::ZERO);
                    return Err(e.into());
                }
                note(&format!("{e}"));
                failed = Some(e);
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    note("stopping; Ctrl-C again ends at once");
    server.stop(Duration::from_secs(args.grace));
    if let Some(demo) = demo {
        demo.join();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::named;
    use std::path::PathBuf;

    #[test]
    fn models_have_the_names_that_they_are_given_or_their_own() {
        let name = |given: &str| named(given).0;
        assert_eq!(named("small=models/a"), ("small".to_owned(), PathBuf::from("models/a")));
        assert_eq!(named("x=hf://owner/name:Q8_0"), ("x".to_owned(), PathBuf::from("hf://owner/name:Q8_0")));
        assert_eq!(name("hf://owner/name"), "owner/name");
        assert_eq!(name("models/a.gguf"), "a");
        assert_eq!(name("models/storyteller/"), "storyteller");
        assert_eq!(name("some/a=b"), "a=b");
    }
}
