//! `astrai serve --demo`: the minute shows what it is there to show, and the page shows it in a browser.

use super::serve::Serving;
use super::*;
use crate::support::programs::{required, succeed};
use std::collections::BTreeMap;

/// The messages of a recording, and whether each is a snapshot.
fn recorded(file: &Path) -> Vec<(bool, Value)> {
    let page = fs::read_to_string(file).expect("it is written");
    let begin = "<script type=\"application/json\" id=\"recording\">";
    let data = page.split(begin).nth(1).expect("the recording").split("</script>").next().expect("its end");
    let messages: Vec<(u8, Value)> = serde_json::from_str(data).expect("JSON");
    messages.into_iter().map(|(snapshot, message)| (snapshot == 1, message)).collect()
}

/// The file of a demonstration's minute, written as fast as the engine can.
fn record(folder: &Path) -> PathBuf {
    let file = folder.join("window.html");
    let serving = Serving::start(&["--demo", "--record", file.to_str().expect("UTF-8"), "MODEL"], None);
    serving.ready();
    assert_eq!(serving.ask("POST", "/window/pace", "", "{\"rate\": null}").0, "204");
    while !file.exists() {
        std::thread::yield_now();
    }
    assert!(serving.stop("-INT").contains("window.html is written"));
    file
}

#[test]
#[cfg(unix)]
fn the_minute_has_a_shared_beginning_a_preemption_a_cancel_and_a_burst() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = record(folder.path());
    let bytes = fs::metadata(&file).expect("the file").len();
    assert!(bytes < 1_500_000, "{bytes} bytes");
    let page = fs::read_to_string(&file).expect("the file");
    assert!(page.contains("http-equiv=\"Content-Security-Policy\"") && page.contains("connect-src 'none'"));
    for word in ["Edith", "lighthouse"] {
        assert!(!page[page.find("id=\"recording\"").expect("it is there")..].contains(word), "{word} is of a text");
    }
    let messages = recorded(&file);
    assert!(messages[0].0 && messages[0].1["frames"] == serde_json::json!([96]), "{}", messages[0].1);
    let (mut kinds, mut least) = (BTreeMap::<String, usize>::new(), u64::MAX);
    for (_, message) in &messages {
        least = least.min(message["pages"][2].as_u64().expect("free pages"));
        for event in message["events"].as_array().into_iter().flatten() {
            let kind = match (event[0].as_str().expect("a kind"), &event[2], event[3].as_u64()) {
                ("e", reason, _) if reason == "cancel" => "cancelled",
                ("e", ..) => "ended",
                ("a", _, Some(0)) => "came",
                ("a", ..) => "shared",
                _ => "preempted",
            };
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }
    let of = |kind: &str| kinds.get(kind).copied().unwrap_or(0);
    assert!(of("preempted") > 0 && of("cancelled") > 0 && of("shared") >= 4, "{kinds:?}");
    assert!(of("ended") + of("cancelled") >= 18 && least == 0, "{kinds:?}, {least} pages were free at least");
}

/// With playwright-core in the folder that ASTRAI_WINDOW_MODULES names, and a Chromium.
#[test]
#[cfg(unix)]
fn the_window_in_a_browser() {
    let modules = std::env::var("ASTRAI_WINDOW_MODULES").unwrap_or_default();
    let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let browser = std::env::var("ASTRAI_CHROMIUM")
        .ok()
        .or(chromium.map(str::to_owned).into_iter().find(|p| Path::new(p).exists()));
    let (Some(browser), true) = (browser, Path::new(&modules).join("node_modules/playwright-core").exists()) else {
        assert!(!required("browser"), "ASTRAI_REQUIRE names browser, and there is no Chromium or no playwright-core");
        println!(
            "SKIP: there is no Chromium, or ASTRAI_WINDOW_MODULES has no playwright-core; `make window` brings one"
        );
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("window.html");
    let serving =
        Serving::start(&["--demo", "--window-text", "--record", file.to_str().expect("UTF-8"), "MODEL"], None);
    serving.ready();
    let shots = std::env::var("ASTRAI_WINDOW_SHOTS").unwrap_or(folder.path().to_string_lossy().into_owned());
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/cli/window.mjs"));
    let [first, second] = ["a", "b"].map(|name| format!("{name}={}", storyteller()));
    let keyed = Serving::start(&["--model", &first, "--model", &second], Some("secret"));
    keyed.ready();
    node.args([&format!("{}/", serving.url), &shots]).arg(&file).arg(format!("{}/", keyed.url));
    node.env("ASTRAI_WINDOW_MODULES", &modules).env("ASTRAI_CHROMIUM", browser);
    println!("{}", succeed(&mut node));
    serving.stop("-INT");
    keyed.stop("-INT");
}
