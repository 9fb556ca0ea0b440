//! What is counted: `/metrics` for Prometheus, `/stats` as JSON. Counts are those of the engines; times of requests are observed when
//! one ends here.

use super::models::Model;
use super::state::State as Server;
use crate::engine::{Event, EventKind, FinishReason, Stats};
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Names and values.
type Labels = Vec<(String, String)>;
type Times = Family<Labels, Histogram>;
type Ratios = Family<Labels, Gauge<f64, AtomicU64>>;

/// Upper ends of the buckets of times, in seconds: from a token of a small model to a long answer.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 40.0, 160.0];

/// The times of requests that have ended.
pub(super) struct Metrics {
    first_token: Times,
    between_tokens: Times,
    queue: Times,
    prefill: Times,
    decode: Times,
    success: Family<Labels, Counter>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let times = || Times::new_with_constructor(|| Histogram::new(BUCKETS));
        Metrics {
            first_token: times(),
            between_tokens: times(),
            queue: times(),
            prefill: times(),
            decode: times(),
            success: Family::default(),
        }
    }
}

fn of_model(model: &str) -> Labels {
    vec![("model_name".to_owned(), model.to_owned())]
}

impl Metrics {
    /// Counts the terminal event of a request.
    pub fn ended(&self, model: &str, event: &Event) {
        let (EventKind::Finished, Some(usage)) = (event.kind, event.usage) else { return };
        let labels = of_model(model);
        let seconds = |us: u64| us as f64 / 1e6;
        let observe = |times: &Times, us: u64| times.get_or_create(&labels).observe(seconds(us));
        observe(&self.queue, usage.queue_us);
        observe(&self.prefill, usage.prefill_us);
        if usage.generated_tokens > 0 {
            observe(&self.first_token, usage.first_token_us);
            observe(&self.decode, usage.decode_us);
        }
        if let Some(between) = usage.generated_tokens.checked_sub(1).filter(|&between| between > 0) {
            observe(&self.between_tokens, usage.decode_us / u64::from(between));
        }
        let reason = if event.finish == FinishReason::Length { "length" } else { "stop" };
        let reason = ("finished_reason".to_owned(), reason.to_owned());
        self.success.get_or_create(&[labels, vec![reason]].concat()).inc();
    }

    /// All of it, with the counters of the models' engines.
    fn registry(&self, models: &[Arc<Model>]) -> Registry {
        let mut registry = Registry::with_prefix("astrai");
        let stats: Vec<(Labels, Stats)> =
            models.iter().map(|model| (of_model(&model.name), model.engine.stats().unwrap_or_default())).collect();
        let mut gauge = |name: &str, help: &str, value: fn(&Stats) -> f64| {
            let family = Ratios::default();
            for (labels, stats) in &stats {
                family.get_or_create(labels).set(value(stats));
            }
            registry.register(name, help, family);
        };
        gauge("num_requests_running", "Requests that are computed", |stats| stats.running.into());
        gauge("num_requests_waiting", "Requests that wait", |stats| stats.waiting.into());
        gauge("kv_cache_usage_perc", "Share of the KV pages that requests use, 0 to 1", |stats| {
            let all = stats.pages_used + stats.pages_cached + stats.pages_free;
            stats.pages_used as f64 / all.max(1) as f64
        });
        let mut counter = |name: &str, help: &str, value: fn(&Stats) -> u64| {
            let family = Family::<Labels, Counter>::default();
            for (labels, stats) in &stats {
                family.get_or_create(labels).inc_by(value(stats));
            }
            registry.register(name, help, family);
        };
        counter("prefix_cache_queries", "Tokens that were looked for in the prefix cache", |stats| {
            stats.prefix_tokens_seen
        });
        counter("prefix_cache_hits", "Tokens that were found there", |stats| stats.prefix_tokens_hit);
        counter("prompt_tokens", "Tokens of prompts", |stats| stats.tokens_in);
        counter("generation_tokens", "Tokens generated", |stats| stats.tokens_out);
        counter("num_preemptions", "Requests that were set back for want of pages", |stats| stats.preemptions);
        counter("spec_decode_num_draft_tokens", "Drafts that were computed", |stats| stats.drafted_tokens);
        counter("spec_decode_num_accepted_tokens", "Drafts that were what was sampled", |stats| stats.accepted_tokens);
        registry.register("request_success", "Requests that ran to their end", self.success.clone());
        for (name, help, times) in [
            ("time_to_first_token_seconds", "From submit to the first token", &self.first_token),
            ("inter_token_latency_seconds", "Between two tokens, the mean of each request", &self.between_tokens),
            ("request_queue_time_seconds", "From submit to the first step", &self.queue),
            ("request_prefill_time_seconds", "Of the steps that computed the prompt", &self.prefill),
            ("request_decode_time_seconds", "From the first token to the end", &self.decode),
        ] {
            registry.register(name, help, times.clone());
        }
        registry
    }
}

/// `GET /metrics`, in OpenMetrics' text.
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let mut text = String::new();
    // Only a String that cannot be written to fails, and there is none.
    let _ = encode(&mut text, &server.metrics.registry(&server.models.ready()));
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// `GET /stats`: the counters of each model's engine, by its name, as the C header's `astrai_stats` has them.
pub(super) async fn stats(State(server): State<Arc<Server>>) -> Json<BTreeMap<String, Stats>> {
    let of = |model: &Arc<Model>| (model.name.clone(), model.engine.stats().unwrap_or_default());
    Json(server.models.ready().iter().map(of).collect())
}
