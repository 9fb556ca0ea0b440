//! How a subcommand can end other than well.

use std::io::Write;
use std::path::Path;

/// Why a subcommand stopped.
#[derive(Debug)]
pub enum Failure {
    /// Told on stderr as `astrai: <message>`; exit code 1.
    Message(String),
    /// The command line asks for something contradictory; exit code 2.
    Usage(String),
    /// The reader of our output went away; quiet.
    Pipe,
    /// Ctrl-C; exit code 130.
    Interrupted,
}

/// Result of a subcommand.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with a message.
    pub fn message(text: impl Into<String>) -> Self {
        Failure::Message(text.into())
    }
}

impl From<astrai::Error> for Failure {
    fn from(error: astrai::Error) -> Self {
        Failure::Message(error.to_string())
    }
}

/// Errors of writing to stdout; reading files goes through [`read_file`], which names the file.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Pipe,
            _ => Failure::Message(format!("cannot write the output: {error}")),
        }
    }
}

/// A line for the person at the terminal. A closed stderr is not worth failing for.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "astrai: {text}");
}

/// A UTF-8 file of at most the library's prompt limit.
pub fn read_file(path: &Path) -> Outcome<String> {
    let bytes_max = astrai::limits::PROMPT_BYTES_MAX as u64;
    let fail = |what: String| Failure::Message(format!("cannot read {}: {what}", path.display()));
    let meta = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
    if meta.len() > bytes_max {
        return Err(fail(format!("it has {} bytes, at most {bytes_max} are allowed", meta.len())));
    }
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| fail(format!("not UTF-8 from byte {}", e.utf8_error().valid_up_to())))
}

/// Bytes as text; what is not UTF-8 in them is replaced and told. `what` they are.
pub fn to_text(bytes: Vec<u8>, what: &str) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let at = error.utf8_error().valid_up_to();
        note(&format!("{what} is not UTF-8 from byte {at} on; what is not is replaced by U+FFFD"));
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    })
}

/// A JSON file.
pub fn read_json(path: &Path) -> Outcome<serde_json::Value> {
    let text = read_file(path)?;
    astrai::text::exact::parse(&text).map_err(|e| Failure::Message(format!("{} is not JSON: {e}", path.display())))
}

/// A file that holds a JSON array of `what`.
pub fn read_array(path: &Path, what: &str) -> Outcome<Vec<serde_json::Value>> {
    match read_json(path)? {
        serde_json::Value::Array(items) => Ok(items),
        _ => Err(Failure::Message(format!("{}: expected a JSON array of {what}", path.display()))),
    }
}
