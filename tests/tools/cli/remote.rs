//! `astrai bench --url`: the workloads over HTTP, against `astrai serve`.

use super::serve::Serving;
use super::*;

/// The JSON object of a run, with a key in the environment.
fn bench(url: &str, key: &str, args: &[&str]) -> Value {
    let output = astrai(&[&["bench", "--json", "--url", url], args].concat()).env("ASTRAI_API_KEY", key).output();
    let output = output.expect("astrai runs");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    serde_json::from_str(&text(&output.stdout)).expect("JSON")
}

#[test]
#[cfg(unix)]
fn workloads_are_asked_of_a_server() {
    let serving = Serving::start(&["MODEL", "--context", "512"], Some("secret"));
    serving.ready();
    let number = |run: &Value, field: &str| run.pointer(field).and_then(Value::as_f64).expect(field);
    let base = format!("{}/v1/", serving.url());
    for (url, args, prompt, generated) in [
        (serving.url(), &["--workload", "streams", "--streams", "3", "--gen-len", "9"][..], 3 * 16, 27),
        (
            &base,
            &["--workload", "decode", "--requests", "2", "--gen-len", "6", "--rounds", "2", "--model", "storyteller"],
            32,
            12,
        ),
        (
            serving.url(),
            &["--workload", "prefix", "--requests", "4", "--prompt-len", "70", "--gen-len", "3"],
            4 * 86,
            12,
        ),
        (
            serving.url(),
            &["--workload", "poisson", "--rate", "500", "--requests", "8", "--prompt-len", "5", "--gen-len", "4"],
            40,
            0,
        ),
    ] {
        let run = bench(url, "secret", args);
        assert_eq!(run["prompt_tokens"], prompt, "{run}");
        assert!(generated == 0 || run["generated_tokens"] == generated, "{run}");
        let rate = number(&run, "/generated_tokens") / number(&run, "/wall_s");
        assert!((number(&run, "/tokens_per_s") / rate - 1.0).abs() < 0.01, "{run}");
        let [p50, p90, p99] = ["p50", "p90", "p99"].map(|p| number(&run, &format!("/ttft_ms/{p}")));
        assert!(p50 > 0.0 && p50 <= p90 && p90 <= p99 && number(&run, "/itl_ms/mean") >= 0.0, "{run}");
        assert!(run["steps"].is_null() && run["config"]["model"] == "storyteller", "{run}");
        if args[1] == "prefix" {
            assert_eq!(run["prefix"]["warm"], json!({"prompt_tokens": 2 * 86, "cached_tokens": 2 * 64}));
        }
    }
    // Turns of a chat build on each other.
    let args = ["--workload", "chat", "--streams", "2", "--requests", "6", "--prompt-len", "40", "--gen-len", "20"];
    let run = bench(serving.url(), "secret", &args);
    assert!(run["requests"] == 6 && run["generated_tokens"] == 120 && number(&run, "/cached_tokens") > 150.0, "{run}");
    // The same lengths and prompts as without a server.
    let plain = stdout(&["bench", "--url", serving.url(), "--help"], "");
    assert!(plain.contains("--url"), "{plain}");
    let output =
        astrai(&["bench", "--url", serving.url()]).env("ASTRAI_API_KEY", "wrong").output().expect("astrai runs");
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("401") && told.contains("no API key"), "{told}");
    serving.stop("-TERM");
}

#[test]
fn what_is_no_server_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let message = failure(&["bench", "--url", &url], 1);
    assert!(message.contains("/v1/models"), "{message}");
    for more in
        [&["MODEL"][..], &["--shape", "storyteller"], &["--policy", "static"], &["--simulate"], &["--threads", "1"]]
    {
        failure(&[&["bench", "--url", &url], more].concat(), 2);
    }
    failure(&["bench", "--vocab", "5"], 2);
}
