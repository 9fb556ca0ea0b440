//! What a model can do, generate and embed, and whether a request asks for that.

use super::{Prompt, RequestOptions, Settings, ToolChoice};
use crate::error::{Error, Result};
use crate::model::Architecture;
use crate::model::architecture::Head;
use crate::model::embedding::Embedder;
use crate::scheduler::Computes;
use crate::source::ModelSource;
use std::sync::Arc;

/// What a model can do.
#[derive(Clone)]
pub(super) struct Abilities {
    /// Makes embeddings; an error says why there are none.
    embedder: Result<Arc<Embedder>>,
    /// Why it generates nothing.
    no_generation: Option<&'static str>,
    /// A prompt is computed in one step, and nothing of it is of use to another.
    at_once: bool,
}

impl Abilities {
    /// Those of a model.
    pub fn of(architecture: &Architecture, source: &dyn ModelSource) -> Abilities {
        let at_once = architecture.bidirectional();
        let no_generation = match architecture.head {
            _ if at_once => Some("its attention sees later tokens (use_bidirectional_attention)"),
            Head::Absent => Some("its checkpoint has no output matrix"),
            _ => None,
        };
        Abilities { embedder: Embedder::new(source, architecture.hidden).map(Arc::new), no_generation, at_once }
    }

    /// Bytes that the layers after pooling take of the machine's memory.
    pub fn bytes(&self) -> u64 {
        self.embedder.as_ref().map_or(0, |embedder| embedder.bytes())
    }

    /// What makes embeddings.
    ///
    /// # Errors
    /// Why there are none: `Io`, `Format`, `Unsupported`, `Memory`.
    pub fn embedder(&self) -> Result<&Arc<Embedder>> {
        self.embedder.as_ref().map_err(Clone::clone)
    }

    /// Checks that the model can do what a request asks for.
    ///
    /// # Errors
    /// `Unsupported` when the model generates nothing; `Argument` for an option that an embedding has no use for.
    pub fn check(&self, prompt: &Prompt, options: &RequestOptions) -> Result<()> {
        match (options.embed, self.no_generation) {
            (false, None) => Ok(()),
            (false, Some(why)) => Err(Error::unsupported(format!(
                "the model generates nothing: {why}; ask for an embedding (the request option embed)"
            ))),
            (true, _) => check_options(prompt, options),
        }
    }

    /// What makes the embedding that a request asks for, if it asks for one.
    ///
    /// # Errors
    /// As of [`Abilities::embedder`].
    pub fn embedding(&self, options: &RequestOptions) -> Result<Option<Embedding>> {
        if !options.embed {
            return Ok(None);
        }
        let embedder = self.embedder()?.clone();
        let computes = match (self.at_once, embedder.wants_all()) {
            (true, _) => Computes::AtOnce,
            (false, true) => Computes::All,
            (false, false) => Computes::Missing,
        };
        Ok(Some(Embedding { embedder, computes }))
    }

    /// Checks that prefixes of prompts can be kept.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn check_prefix(&self) -> Result<()> {
        if self.at_once {
            let message = "prefixes of this model cannot be kept: what it computes of a token depends on later ones";
            return Err(Error::unsupported(message));
        }
        Ok(())
    }
}

/// An embedding that a request asks for.
#[derive(Clone)]
pub(super) struct Embedding {
    pub embedder: Arc<Embedder>,
    /// What its sequence computes itself.
    pub computes: Computes,
}

/// Refuses what is about generated tokens, and messages: an embedding is of text as it is.
fn check_options(prompt: &Prompt, o: &RequestOptions) -> Result<()> {
    let none = Settings::default();
    let s = o.settings.as_deref().unwrap_or(&none);
    let set = [
        ("max_tokens", o.max_tokens.is_some_and(|n| n > 0)),
        ("temperature", o.temperature.is_some()),
        ("top_k", o.top_k.is_some()),
        ("top_p", o.top_p.is_some()),
        ("min_p", o.min_p.is_some()),
        ("xtc_probability", o.xtc_probability.is_some()),
        ("xtc_threshold", o.xtc_threshold.is_some()),
        ("dry_multiplier", o.dry_multiplier.is_some()),
        ("dry_base", o.dry_base.is_some()),
        ("dry_allowed_length", o.dry_allowed_length.is_some()),
        // -1 is what C has where nothing was set.
        ("dry_penalty_last_n", o.dry_penalty_last_n.is_some_and(|n| n != -1)),
        ("repetition_penalty", o.repetition_penalty.is_some()),
        ("presence_penalty", o.presence_penalty.is_some()),
        ("frequency_penalty", o.frequency_penalty.is_some()),
        ("seed", o.seed.is_some()),
        ("ignore_eos", o.ignore_eos),
        ("logprobs", o.logprobs.is_some()),
        ("prompt_logprobs", o.prompt_logprobs),
        ("host_logits", o.host_logits),
        ("reasoning_tokens", o.reasoning_tokens.is_some()),
        ("stop strings", !s.stops.is_empty()),
        ("stop tokens", !s.stop_tokens.is_empty()),
        ("bias", !s.bias.is_empty()),
        ("dry_breakers", s.dry_breakers.is_some()),
        ("constraint", s.constraint.is_some()),
        ("tools", s.tools.is_some() || prompt.tools.is_some()),
        ("tool_choice", s.tool_choice != ToolChoice::Auto || s.single_call || s.constrain_calls),
    ];
    if let Some((name, _)) = set.iter().find(|(_, set)| *set) {
        let message = format!("{name} is set, and a request for an embedding generates nothing; leave it unset");
        return Err(Error::argument(message).about(*name));
    }
    if !prompt.messages.is_empty() {
        let message = "an embedding is of text or tokens, and the prompt is made of messages; give it text";
        return Err(Error::argument(message).about("prompt"));
    }
    Ok(())
}
