//! `/v1/chat/completions`.

use super::chat_choices::ChatChoices;
use super::completion::{self, Asked};
use super::errors;
use super::messages;
use super::options;
use crate::engine::Info;
use crate::server::body::Fields;
use crate::server::core::{Ask, Reasoning};
use crate::server::models::Model;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::state::State as Server;
use axum::extract::{Request, State};
use axum::response::Response;
use std::sync::Arc;

/// Handles a request.
pub(in crate::server) async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    errors::or_response(completion::answer::<ChatChoices>(&server, request, asked).await)
}

/// What the request asks for.
pub(in crate::server) fn asked(fields: &mut Fields, model: &Model) -> Outcome<Asked> {
    let sending = options::sending(fields)?;
    let mut ask = Ask::new(vec![messages::prompt(fields)?]);
    options::sampling(fields, &mut ask)?;
    options::tools(fields, &mut ask)?;
    ask.constraint = options::response_format(fields)?;
    logprobs(fields, &mut ask)?;
    reasoning(fields, &mut ask, model.engine.info())?;
    Ok(Asked { ask, sending })
}

fn logprobs(fields: &mut Fields, ask: &mut Ask) -> Outcome<()> {
    let (wanted, top) = (fields.take("logprobs")?.unwrap_or(false), fields.take::<u32>("top_logprobs")?);
    if !wanted && top.unwrap_or(0) > 0 {
        return Err(Refusal::field("top_logprobs", "top_logprobs needs logprobs to be true"));
    }
    ask.options.logprobs = wanted.then(|| top.unwrap_or(0));
    Ok(())
}

/// Reads `reasoning_effort`.
fn reasoning(fields: &mut Fields, ask: &mut Ask, info: &Info) -> Outcome<()> {
    let Some(effort) = fields.take::<String>("reasoning_effort")? else { return Ok(()) };
    ask.reason(if effort == "none" { Reasoning::Off } else { Reasoning::Effort(&effort) }, info);
    Ok(())
}
