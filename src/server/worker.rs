//! Worker threads: what may take long is done there, so that the server's thread never waits.

use super::refusal::{Kind, Outcome, Refusal};
use crate::error::Result;
use crate::limits;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// A line to a worker thread, which ends when the last of them is dropped.
#[derive(Clone)]
pub(super) struct Worker(Sender<Work>);

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Memory` when there is no thread to be had.
    pub fn start(name: &'static str) -> Result<(Worker, JoinHandle)> {
        let (sender, mut works) = mpsc::channel::<Work>(limits::SERVER_WORK_MAX);
        let body = move || {
            while let Some(work) = works.blocking_recv() {
                // Whoever waits for it sees that its answer is gone.
                let _ = catch_unwind(AssertUnwindSafe(work));
            }
        };
        let thread = thread::spawn(name, ThreadOptions::default(), body)?;
        Ok((Worker(sender), thread))
    }

    /// Does `work` on the worker thread. What it gives is dropped there when nobody waits for it any more.
    pub async fn run<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
        &self,
        work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
    ) -> Outcome<T> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move || {
            // A request that is gone needs no work.
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        });
        let full = |_| {
            Refusal::new(Kind::Full, "too many requests wait for work before their prompt; try again")
                .coded("queue_full")
        };
        self.0.try_send(work).map_err(full)?;
        let failed =
            |_| Refusal::new(Kind::Internal, "defect of the library while a request was made ready; please report it");
        answered.await.map_err(failed)?.map_err(Into::into)
    }
}
