//! `/metrics` and `/stats`, and a client that does not read.

use crate::client::{get, post, request};
use crate::scripted::{engine, serve_with};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;

#[test]
fn what_was_answered_is_counted() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let body = json!({"model": "m", "prompt": "Once upon a time", "max_tokens": 5, "n": 2, "ignore_eos": true});
    let usage = post(server.address(), "/v1/completions", &body).json()["usage"].clone();
    // The engine publishes its counts at the end of a step, which may be after the answer.
    while engine.stats().unwrap().running > 0 {
        std::thread::yield_now();
    }
    let reply = get(server.address(), "/metrics");
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text"), "{reply:?}");
    assert!(reply.body.ends_with("# EOF\n"), "{}", reply.body);
    for line in [
        "astrai_num_requests_running{model_name=\"m\"} 0.0",
        "astrai_num_requests_waiting{model_name=\"m\"} 0.0",
        &format!("astrai_prompt_tokens_total{{model_name=\"m\"}} {}", 2 * usage["prompt_tokens"].as_u64().unwrap()),
        "astrai_generation_tokens_total{model_name=\"m\"} 10",
        "astrai_num_preemptions_total{model_name=\"m\"} 0",
        "astrai_request_success_total{model_name=\"m\",finished_reason=\"length\"} 2",
        "astrai_time_to_first_token_seconds_count{model_name=\"m\"} 2",
        "astrai_inter_token_latency_seconds_count{model_name=\"m\"} 2",
        "astrai_request_queue_time_seconds_count{model_name=\"m\"} 2",
        "astrai_request_prefill_time_seconds_count{model_name=\"m\"} 2",
        "astrai_request_decode_time_seconds_count{model_name=\"m\"} 2",
    ] {
        assert!(reply.body.lines().any(|known| known == line), "{line} is not in\n{}", reply.body);
    }
    for name in ["kv_cache_usage_perc", "prefix_cache_queries_total", "prefix_cache_hits_total"] {
        assert!(reply.body.contains(&format!("astrai_{name}{{model_name=\"m\"}}")), "{name}");
    }
    let stats = get(server.address(), "/stats").json();
    assert_eq!((&stats["m"]["finished"], &stats["m"]["tokens_out"]), (&json!(2), &json!(10)));
}

/// A client that reads nothing of a long answer holds up nobody, and the server ends.
#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let slow: Vec<TcpStream> = (0..3)
        .map(|seed| {
            let body = json!({"prompt": "Once", "max_tokens": 1500, "stream": true, "logprobs": 200, "seed": seed,
                "logit_bias": {engine.info().eos_token.unwrap().to_string(): -1000}});
            let mut stream = TcpStream::connect(server.address()).unwrap();
            let bytes = request("POST", "/v1/completions", &[("Content-Type", "application/json")], &body.to_string());
            stream.write_all(&bytes).unwrap();
            stream
        })
        .collect();
    for _ in 0..4 {
        let body = json!({"prompt": "In the pale days", "max_tokens": 20});
        assert_eq!(post(server.address(), "/v1/completions", &body).status, 200);
    }
    drop(slow);
    while engine.stats().unwrap().running > 0 {
        std::thread::yield_now();
    }
    engine.check().unwrap();
}
