//! The caller's handle of a submitted request: reading, waiting, cancelling.

use super::delivery::Route;
use super::host_logits::Host;
use super::receive::deadline;
use super::{Choice, Command, FinishReason, HostLogits, Next, Outbox, PromptCounts, Shared, refuse_blocking};
use crate::error::{Error, Result};
use crate::os::floats::LibraryFloats;
use std::sync::Arc;
use std::time::Duration;

/// A submitted request. Dropping it cancels it, unless it has finished or was detached.
pub struct Request {
    pub(super) delivery: Arc<Outbox>,
    pub(super) shared: Arc<Shared>,
    pub(super) detached: bool,
    /// Of a request whose tokens the host chooses.
    pub(super) host: Option<Arc<Host>>,
}

impl Request {
    /// The request's id: nonzero, never reused by this engine.
    pub fn id(&self) -> u64 {
        self.delivery.id
    }

    /// The tokens of the prompt, and those of them that the prefix cache had; `None` before the request's first step.
    pub fn prompt_counts(&self) -> Option<PromptCounts> {
        self.delivery.prompt_counts()
    }

    /// Waits for output and takes all of it as one event. `None` waits without limit, zero polls. Pull requests only.
    ///
    /// # Errors
    /// `Argument` for a callback request, `Reentrant` when it would block inside a callback; `Memory` for the event,
    /// which stays queued.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Next> {
        refuse_blocking(timeout, "next")?;
        self.shared.next_of(&self.delivery, timeout)
    }

    /// Waits for the end of the request. A pull request returns everything not yet taken as one terminal event. Others
    /// return `End` after the terminal event was received and the sink dropped. For a callback request in an engine
    /// that polls, the call delivers meanwhile as [`super::Engine::poll`] does, unless another thread is delivering.
    ///
    /// # Errors
    /// `Reentrant` when it would block inside a callback; `Memory` for the event, which stays queued.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Next> {
        refuse_blocking(timeout, "wait")?;
        self.shared.wait_for(&self.delivery, timeout)
    }

    /// Waits for the logits of the next token of a request with [`super::RequestOptions::host_logits`]. `None` waits without limit, zero
    /// polls. They are the host's until [`Request::choose`]; the request has no row in any step meanwhile, and nobody waits for it.
    ///
    /// # Errors
    /// `Argument` for another request, `Reentrant` when it would block inside a callback; `Memory`.
    pub fn logits(&self, timeout: Option<Duration>) -> Result<HostLogits> {
        refuse_blocking(timeout, "logits")?;
        self.host()?.logits(deadline(timeout))
    }

    /// Chooses the next token: one that may follow, or the one that is sampled from logits, with the request's options, on the calling
    /// thread. Log probabilities stay those of the model. False: the request has ended.
    ///
    /// # Errors
    /// `Argument` for another request, where the logits are not there, for a token that may not follow, and where none can be sampled:
    /// nothing is chosen then. `Memory`.
    pub fn choose(&self, choice: Choice) -> Result<bool> {
        let _floats = LibraryFloats::enter();
        let Some(chosen) = self.host()?.choose(choice)? else { return Ok(false) };
        self.shared.mailbox.send_anyway(Command::Chosen(self.delivery.id, Box::new(chosen)));
        Ok(true)
    }

    /// Whether it is the host's turn: logits are there, and nothing was chosen yet.
    pub fn awaits_choice(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.has_turn())
    }

    fn host(&self) -> Result<&Host> {
        self.host.as_deref().ok_or_else(|| {
            Error::argument("the request was submitted without host logits: the engine samples its tokens")
                .about("request")
        })
    }

    /// Asks the engine to stop the request. Idempotent. If the request has not ended, its queued deltas are dropped
    /// when this returns, and its terminal event will be `Cancelled` or `Failed`; otherwise nothing changes.
    pub fn cancel(&self) {
        self.delivery.mute(FinishReason::Cancel);
        self.shared.mailbox.send_anyway(Command::Cancel(self.delivery.id, FinishReason::Cancel));
    }

    /// Drops the handle without cancelling the request.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.detached && !self.delivery.is_finished() {
            self.cancel();
        }
        if self.delivery.route == Route::Pull {
            // No other handle can read its end, so it must not count as unread any longer.
            self.delivery.leave();
        }
    }
}
