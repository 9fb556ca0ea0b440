//! Connections: the server's thread, its runtime, the paths, and the end.

use super::refusal::{Kind, Refusal};
use super::socket::Socket;
use super::state::State;
use super::{anthropic, guard, health, metrics, openai, text, window};
use crate::error::{Error, Result};
use crate::limits;
use axum::Router;
use axum::extract::Request;
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Milliseconds until a connection is asked for again when the system could not give one.
const ACCEPT_AGAIN_MS: u64 = 100;

/// The body of the server's thread: answers until `stopped` has a grace time. `tell` is called once, when it answers or cannot.
pub(super) fn run(
    listener: std::net::TcpListener,
    state: Arc<State>,
    stopped: watch::Receiver<Option<Duration>>,
    tell: impl FnOnce(Result<()>),
) {
    let failed = |e: &std::io::Error| Error::io("cannot start the server", "server", e);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(e) => return tell(Err(failed(&e))),
    };
    runtime.block_on(async {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                tell(Ok(()));
                serve(listener, state, stopped).await;
            }
            Err(e) => tell(Err(failed(&e))),
        }
    });
    // What still runs is dropped with the runtime, which cancels its requests.
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(window::home))
        .route("/window/events", get(window::events))
        .route("/window/pace", post(window::set_pace))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/stats", get(metrics::stats))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::chat::handle))
        .route("/v1/completions", post(openai::completions::handle))
        .route("/v1/embeddings", post(openai::embeddings::handle))
        .route("/v1/responses", post(openai::responses::handle))
        .route("/v1/responses/input_tokens", post(openai::responses::count))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/tokenize", post(text::tokenize))
        .route("/detokenize", post(text::detokenize))
        .route("/apply-template", post(text::apply_template))
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .with_state(state)
}

async fn no_path(request: Request) -> Response {
    let message = format!("there is nothing at {}", request.uri().path());
    guard::refuse(request.uri().path(), &Refusal::new(Kind::NotFound, message))
}

async fn no_method(request: Request) -> Response {
    let message = format!("{} does not answer {}", request.uri().path(), request.method());
    guard::refuse(request.uri().path(), &Refusal::new(Kind::Method, message))
}

async fn serve(listener: TcpListener, state: Arc<State>, mut stopped: watch::Receiver<Option<Duration>>) {
    let (graceful, router) = (GracefulShutdown::new(), router(state.clone()));
    let permits = Arc::new(Semaphore::new(state.limits.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(state.limits.head_ms))
        .max_buf_size(limits::SERVER_HEAD_BYTES_MAX)
        .max_headers(limits::SERVER_HEADERS_MAX);
    let mut stopping = pin!(async { stopped.wait_for(Option::is_some).await.map_or(None, |grace| *grace) });
    let grace = loop {
        let mut accepting = pin!(accept(&listener, &permits));
        let next = poll_fn(|cx| match stopping.as_mut().poll(cx) {
            Poll::Ready(grace) => Poll::Ready(Err(grace)),
            Poll::Pending => accepting.as_mut().poll(cx).map(Ok),
        });
        let (stream, permit) = match next.await {
            Ok(accepted) => accepted,
            Err(grace) => break grace.unwrap_or_default(),
        };
        let stream = Socket::new(stream, Duration::from_millis(state.limits.write_ms));
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // An error is the client's, who has gone or speaks something else.
            let _ = connection.await;
            drop(permit);
        });
    };
    drop(listener);
    let _ = tokio::time::timeout(grace, graceful.shutdown()).await;
}

/// The next connection, once there may be one more.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let permit = permits.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Tokens are small, and each is to be seen at once; without it they come late, which is no reason to refuse.
                let _ = stream.set_nodelay(true);
                return (stream, permit);
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(ACCEPT_AGAIN_MS)).await,
        }
    }
}
