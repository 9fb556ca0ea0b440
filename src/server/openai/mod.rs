//! OpenAI's dialect: chat completions, completions, responses, embeddings, models.

pub(super) mod chat;
mod chat_choices;
mod completion;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod errors;
pub(super) mod messages;
pub(super) mod models;
pub(super) mod options;
mod response_input;
mod response_object;
mod response_stream;
pub(super) mod responses;
mod types;
