//! The caller's handle of a submitted request: reading, waiting, cancelling.

use super::delivery::Route;
use super::{Command, FinishReason, Next, Outbox, Shared, refuse_blocking};
use crate::error::Result;
use std::sync::Arc;
use std::time::Duration;

/// A submitted request. Dropping it cancels it, unless it has finished or was detached.
pub struct Request {
    pub(super) delivery: Arc<Outbox>,
    pub(super) shared: Arc<Shared>,
    pub(super) detached: bool,
}

impl Request {
    /// The request's id: nonzero, never reused by this engine.
    pub fn id(&self) -> u64 {
        self.delivery.id
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
