//! OpenAI's dialect: chat completions, completions, models.

pub(super) mod chat;
mod chat_stream;
pub(super) mod completions;
pub(super) mod errors;
pub(super) mod models;
mod options;
mod types;
