//! `astrai pull` and `hf://` names, against a hub of the tests' own that does what hubs and networks do.

use super::hub::{COMMIT, Content, Fault, Hub, hash};
use super::*;
use crate::support::random::Random;
use std::process::Child;
use std::sync::mpsc::channel;

const GGUF: &str = "hf://owner/name:Q8_0";

/// `astrai` with nothing of this machine's hub in its environment.
fn command(hub: &Hub, home: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = astrai(args);
    for name in [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home.path()).env("HF_ENDPOINT", &hub.endpoint);
    command
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// stdout and stderr of a run that must end with `code`.
fn ends(mut command: Command, code: i32) -> (String, String) {
    let output = command.stdin(Stdio::null()).output().expect("astrai runs");
    let (out, told) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{command:?}: {out}{told}");
    (out, told)
}

/// The path and the notes of a pull that must succeed.
fn pull(hub: &Hub, home: &tempfile::TempDir, model: &str) -> (PathBuf, String) {
    let (out, told) = ends(command(hub, home, &["pull", model]), 0);
    assert_eq!(out.lines().count(), 1, "{out}");
    (PathBuf::from(out.trim_end()), told)
}

/// What is told by a pull that must fail, in one line.
fn fails(hub: &Hub, home: &tempfile::TempDir, model: &str) -> String {
    let (out, told) = ends(command(hub, home, &["pull", model]), 1);
    assert_eq!(out, "");
    told
}

fn repository_folder(home: &tempfile::TempDir) -> PathBuf {
    home.path().join("hub/models--owner--name")
}

fn blob(home: &tempfile::TempDir, hash: &str) -> PathBuf {
    repository_folder(home).join("blobs").join(hash)
}

/// Bytes that no two files have alike.
fn noise(count: usize) -> Vec<u8> {
    let mut random = Random(count as u64);
    (0..count).map(|_| random.below(256) as u8).collect()
}

fn large(bytes: &[u8]) -> String {
    hash(&Content { bytes: bytes.to_vec(), large: true, listed_bytes: None })
}

/// A hub with one quantized file, and its bytes.
fn with_gguf() -> (Hub, Vec<u8>) {
    let hub = Hub::new();
    let bytes = noise(300_000);
    hub.file("name-Q8_0.gguf", &bytes, true);
    (hub, bytes)
}

/// A hub with the storyteller.
fn with_storyteller() -> Hub {
    let hub = Hub::new();
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    {
        if let Ok(bytes) = fs::read(repository("models/storyteller").join(name)) {
            hub.file(name, &bytes, name == "model.safetensors");
        }
    }
    hub.file("pytorch_model.bin", b"no", true);
    hub.file("README.md", b"# A model", false);
    hub.with(|state| state.card = json!({"cardData": {"license": "apache-2.0"}}));
    hub
}

/// Reads JSON lines until one is as wanted.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, wanted: impl Fn(&Value) -> bool) -> Value {
    for line in lines {
        let line = line.expect("a line");
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        if wanted(&value) {
            return value;
        }
    }
    panic!("stdout ended before");
}

/// A pull that has got `bytes` of its file and waits for the rest.
fn held(hub: &Hub, home: &tempfile::TempDir, bytes: usize) -> (Child, std::sync::mpsc::Sender<()>) {
    let (sender, receiver) = channel();
    hub.fault("name-Q8_0.gguf", Fault::Hold(bytes, receiver));
    let mut child = command(hub, home, &["pull", GGUF, "--json"]).spawn().expect("astrai starts");
    let mut lines = BufReader::new(child.stdout.as_mut().expect("stdout is a pipe")).lines();
    until(&mut lines, |event| event["event"] == "file" && event["bytes"] == bytes);
    (child, sender)
}

#[test]
fn pull_fills_the_cache_as_other_programs_have_it_and_the_model_runs() {
    let (hub, home) = (with_storyteller(), home());
    let (path, told) = pull(&hub, &home, "hf://owner/name");
    assert_eq!(path, repository_folder(&home).join("snapshots").join(COMMIT));
    assert!(told.contains(&format!("licence: apache-2.0 ({}/owner/name)", hub.endpoint)), "{told}");
    assert_eq!(fs::read_to_string(repository_folder(&home).join("refs/main")).unwrap(), COMMIT);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let bytes = fs::read(repository("models/storyteller").join(name)).unwrap();
        assert_eq!(fs::read(path.join(name)).unwrap(), bytes, "{name}");
        let content = Content { bytes, large: name == "model.safetensors", listed_bytes: None };
        let link = fs::read_link(path.join(name)).expect("a link");
        assert_eq!(link, Path::new("../../blobs").join(hash(&content)), "{name}");
    }
    assert!(!path.join("pytorch_model.bin").exists() && !path.join("README.md").exists());
    // The name is as good as the path, and asks nothing of the hub when the model is there.
    let asked = hub.requests("").len();
    let run = ["--raw", "Once upon a time", "--temperature", "0", "--max-tokens", "8", "--model"];
    let expected = stdout(&[&["run"], &run[..], &["MODEL"]].concat(), "");
    assert_eq!(ends(command(&hub, &home, &[&["run"], &run[..], &["hf://owner/name"]].concat()), 0).0, expected);
    assert_eq!(hub.requests("").len(), asked);
    // A second pull asks what there is, and downloads nothing.
    assert_eq!(pull(&hub, &home, "hf://owner/name").0, path);
    assert_eq!(hub.requests("").len(), asked + 1);
}

#[test]
fn every_command_takes_a_hub_name_and_downloads_what_is_missing() {
    let (hub, messages_dir) = (with_storyteller(), home());
    let messages = write(&messages_dir, "m.json", r#"[{"role": "user", "content": "Hi"}]"#);
    let name = "hf://owner/name";
    let cold = home();
    let greedy = ["--raw", "--temperature", "0", "--max-tokens", "8"];
    let (answer, told) = ends(command(&hub, &cold, &[&["run", name, "Once upon a time"], &greedy[..]].concat()), 0);
    assert_eq!(answer, stdout(&[&["run", "MODEL", "Once upon a time"], &greedy[..]].concat(), ""));
    assert!(told.contains("licence: apache-2.0"), "{told}");
    let reversed = ends(command(&hub, &cold, &[&["run", "Once upon a time", name], &greedy[..]].concat()), 0).0;
    assert_eq!(reversed, answer);
    for args in [
        &["info", name][..],
        &["info", "--model", name],
        &["render", "--model", name, "--messages", &messages],
        &["quality", "--model", name, "--against", name, "--random", "20"],
        &["bench", name, "--workload", "decode", "--requests", "1", "--gen-len", "2"],
        &["score", name],
        &["chat", name],
    ] {
        ends(command(&hub, &cold, args), 0);
    }
    // Wrong names are wrong usage, for any command.
    for args in [&["pull", "owner/name"][..], &["pull", "hf://owner"], &["info", "hf://../name"], &["pull"]] {
        ends(command(&hub, &cold, args), 2);
    }
}

#[test]
fn a_file_of_the_content_network_is_not_asked_for_with_the_token() {
    let (hub, home) = (with_gguf().0, home());
    hub.with(|state| state.token = Some("hf_secret"));
    let mut with_token = command(&hub, &home, &["pull", GGUF]);
    with_token.env("HF_TOKEN", "hf_secret");
    ends(with_token, 0);
    let asked = hub.requests("");
    assert!(asked.iter().any(|request| request.content) && asked.iter().any(|request| !request.content));
    assert!(asked.iter().all(|request| request.token.is_none() == request.content), "{asked:?}");
    // The token may stand in its file.
    fs::write(home.path().join("token"), "hf_secret\n").unwrap();
    pull(&hub, &home, GGUF);
}

#[test]
fn a_repository_that_was_renamed_is_followed() {
    let (hub, home) = (with_gguf().0, home());
    let path = pull(&hub, &home, "hf://old/name:q8_0").0;
    assert_eq!(path, home.path().join(format!("hub/models--old--name/snapshots/{COMMIT}/name-Q8_0.gguf")));
    assert!(path.is_file());
}

#[test]
fn refusals_say_what_to_do() {
    let (hub, home) = (with_gguf().0, home());
    let page = format!("{}/owner/name", hub.endpoint);
    hub.with(|state| (state.token, state.refusal) = (Some("hf_secret"), "GatedRepo"));
    let told = fails(&hub, &home, GGUF);
    assert!(told.contains("gated") && told.contains(&page) && told.contains("HF_TOKEN"), "{told}");
    let mut wrong = command(&hub, &home, &["pull", GGUF]);
    wrong.env("HF_TOKEN", "hf_other");
    let told = ends(wrong, 1).1;
    assert!(told.contains("no access") && told.contains(&page) && !told.contains("hf_other"), "{told}");
    hub.with(|state| state.refusal = "RepoNotFound");
    assert!(fails(&hub, &home, GGUF).contains("there is no repository owner/name"));
    hub.with(|state| state.refusal = "");
    assert!(fails(&hub, &home, GGUF).contains("set HF_TOKEN"));
    hub.with(|state| state.token = None);
    hub.fault("name-Q8_0.gguf", Fault::Status(403, ""));
    assert!(fails(&hub, &home, GGUF).contains("403"));
}

#[test]
fn what_is_not_there_is_named() {
    let (hub, home) = (with_gguf().0, home());
    let told = fails(&hub, &home, "hf://owner/missing");
    assert!(told.contains("no repository owner/missing"), "{told}");
    hub.fault("api", Fault::Status(404, "x-error-code: RevisionNotFound\r\n"));
    let told = fails(&hub, &home, "hf://owner/name@v9");
    assert!(told.contains("no revision v9"), "{told}");
    hub.fault("name-Q8_0.gguf", Fault::Status(404, ""));
    assert!(fails(&hub, &home, GGUF).contains("no file name-Q8_0.gguf"));
    let told = fails(&hub, &home, "hf://owner/name:Q4_K_M");
    assert!(told.contains("no q4_k_m") && told.contains("Q8_0 (292.97 KiB)"), "{told}");
    assert!(!repository_folder(&home).join("refs").exists());
}

#[test]
fn overload_and_faults_of_the_server_pass() {
    let ((hub, bytes), home) = (with_gguf(), home());
    hub.fault("api", Fault::Status(429, "retry-after: 0\r\n"));
    hub.fault("api", Fault::Status(503, ""));
    hub.fault("name-Q8_0.gguf", Fault::Status(429, "retry-after: 0\r\n"));
    hub.fault("name-Q8_0.gguf", Fault::Status(500, ""));
    let (path, told) = pull(&hub, &home, GGUF);
    assert_eq!(fs::read(path).unwrap(), bytes);
    assert!(told.contains("429") && told.contains("500") && told.contains("503"), "{told}");
}

#[test]
fn a_server_that_never_recovers_is_given_up() {
    let (hub, home) = (with_gguf().0, home());
    for _ in 0..5 {
        hub.fault("api", Fault::Status(500, "retry-after: 0\r\n"));
    }
    let told = fails(&hub, &home, GGUF);
    assert!(told.contains("given up after 5 attempts"), "{told}");
    assert_eq!(hub.requests("/api/").len(), 5);
}

#[test]
fn a_dropped_connection_goes_on_where_it_ended() {
    let ((hub, bytes), home) = (with_gguf(), home());
    hub.fault("name-Q8_0.gguf", Fault::Drop(100_000));
    hub.fault("name-Q8_0.gguf", Fault::Drop(50_000));
    let (path, _) = pull(&hub, &home, GGUF);
    assert_eq!(fs::read(path).unwrap(), bytes);
    let ranges: Vec<_> = hub.requests("/content/").into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=150000-".to_owned())]);
}

#[test]
fn a_server_without_ranges_sends_the_whole_file_again() {
    let ((hub, bytes), home) = (with_gguf(), home());
    hub.fault("name-Q8_0.gguf", Fault::Drop(100_000));
    hub.fault("name-Q8_0.gguf", Fault::Whole);
    assert_eq!(fs::read(pull(&hub, &home, GGUF).0).unwrap(), bytes);
    // The same where the server says that it lacks the range.
    let cold = self::home();
    hub.fault("name-Q8_0.gguf", Fault::Drop(100_000));
    hub.fault("name-Q8_0.gguf", Fault::Status(416, ""));
    assert_eq!(fs::read(pull(&hub, &cold, GGUF).0).unwrap(), bytes);
}

#[test]
fn wrong_bytes_are_removed_and_both_hashes_named() {
    let ((hub, bytes), home) = (with_gguf(), home());
    hub.fault("name-Q8_0.gguf", Fault::Wrong);
    let told = fails(&hub, &home, GGUF);
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    assert!(told.contains(&large(&bytes)) && told.contains(&large(&damaged)), "{told}");
    assert_eq!(fs::read_dir(repository_folder(&home).join("blobs")).unwrap().count(), 0);
    assert_eq!(fs::read(pull(&hub, &home, GGUF).0).unwrap(), bytes);
    // Small files have git's hash.
    let (hub, home) = (with_storyteller(), self::home());
    hub.fault("config.json", Fault::Wrong);
    assert!(fails(&hub, &home, "hf://owner/name").contains("config.json arrived damaged: its git's sha1"));
}

#[test]
fn what_an_earlier_program_left_damaged_begins_anew() {
    let ((hub, bytes), home) = (with_gguf(), home());
    let part = blob(&home, &format!("{}.incomplete", large(&bytes)));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, noise(1000)).unwrap();
    let (path, told) = pull(&hub, &home, GGUF);
    assert_eq!(fs::read(path).unwrap(), bytes);
    assert!(told.contains("begins anew"), "{told}");
    // One that is longer than the file is none of its beginning.
    let cold = self::home();
    let part = blob(&cold, &format!("{}.incomplete", large(&bytes)));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, noise(bytes.len() + 1)).unwrap();
    assert_eq!(fs::read(pull(&hub, &cold, GGUF).0).unwrap(), bytes);
    assert!(!part.exists());
}

#[test]
fn a_file_of_another_size_is_refused() {
    let ((hub, bytes), home) = (with_gguf(), home());
    for listed in [bytes.len() - 1, bytes.len() + 1] {
        hub.with(|state| state.files.get_mut("name-Q8_0.gguf").unwrap().listed_bytes = Some(listed as u64));
        let told = fails(&hub, &home, GGUF);
        assert!(told.contains("not the same file"), "{told}");
    }
}

#[test]
fn sizes_and_hashes_that_are_not_listed_are_asked_for() {
    let ((hub, bytes), home) = (with_gguf(), home());
    hub.with(|state| state.unlisted = true);
    let path = pull(&hub, &home, GGUF).0;
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(blob(&home, &large(&bytes)).is_file());
    // Without any hash nothing can be trusted.
    let cold = self::home();
    hub.with(|state| state.untagged = true);
    let told = fails(&hub, &cold, GGUF);
    assert!(told.contains("gives no hash of name-Q8_0.gguf"), "{told}");
    // With those of the list, tags are not needed.
    hub.with(|state| state.unlisted = false);
    assert_eq!(fs::read(pull(&hub, &cold, GGUF).0).unwrap(), bytes);
}

#[test]
fn a_killed_download_goes_on() {
    let ((hub, bytes), home) = (with_gguf(), home());
    let (mut child, held) = held(&hub, &home, 123_456);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(held);
    let part = blob(&home, &format!("{}.incomplete", large(&bytes)));
    assert_eq!(fs::read(&part).unwrap(), bytes[..123_456]);
    assert_eq!(fs::read(pull(&hub, &home, GGUF).0).unwrap(), bytes);
    let ranges: Vec<_> = hub.requests("/content/").into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=123456-".to_owned())]);
    assert!(!part.exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_download_that_can_go_on() {
    let ((hub, bytes), home) = (with_gguf(), home());
    let (child, held) = held(&hub, &home, 200_000);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("goes on from there"));
    drop(held);
    assert_eq!(fs::read(pull(&hub, &home, GGUF).0).unwrap(), bytes);
    assert_eq!(hub.requests("/content/")[1].range.as_deref(), Some("bytes=200000-"));
}

#[test]
fn two_processes_download_a_file_once() {
    let ((hub, bytes), home) = (with_gguf(), home());
    let (first, held) = held(&hub, &home, 10_000);
    let mut second = command(&hub, &home, &["pull", GGUF, "--json"]).spawn().expect("astrai starts");
    let mut lines = BufReader::new(second.stdout.as_mut().unwrap()).lines();
    until(&mut lines, |event| event["event"] == "note" && event["message"].to_string().contains("another process"));
    drop(held);
    let done = until(&mut lines, |event| event["event"] == "done");
    drop(lines);
    assert_eq!(fs::read(done["path"].as_str().unwrap()).unwrap(), bytes);
    for child in [first, second] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert_eq!(hub.requests("/content/").len(), 1);
}

#[test]
fn json_lines_tell_everything() {
    let (hub, home) = (with_storyteller(), home());
    let (out, told) = ends(command(&hub, &home, &["pull", "hf://owner/name", "--json", "--jobs", "2"]), 0);
    assert_eq!(told, "");
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&events[0]["event"], &events[0]["licence"]), (&json!("model"), &json!("apache-2.0")));
    assert_eq!((&events[0]["commit"], &events[0]["gated"]), (&json!(COMMIT), &json!(false)));
    let bytes = fs::metadata(repository("models/storyteller/model.safetensors")).unwrap().len();
    let weights: Vec<&Value> = events.iter().filter(|event| event["name"] == "model.safetensors").collect();
    assert!(weights.iter().all(|event| event["event"] == "file" && event["total"] == bytes));
    assert_eq!(weights.last().unwrap()["bytes"], bytes);
    let last = events.last().unwrap();
    assert_eq!(last["event"], "done");
    assert!(Path::new(last["path"].as_str().unwrap()).join("config.json").is_file());
    // A failure is the last line too.
    let (out, told) = ends(command(&hub, &home, &["pull", "hf://owner/missing", "--json"]), 1);
    let event: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(event["event"], "error");
    assert!(told.contains(event["message"].as_str().unwrap()));
}

#[test]
fn offline_only_the_cache_is_looked_at() {
    let (hub, home) = (with_storyteller(), home());
    let offline = |args: &[&str]| {
        let mut command = command(&hub, &home, args);
        command.env("HF_HUB_OFFLINE", "1");
        command
    };
    for args in [&["pull", "hf://owner/name"][..], &["info", "hf://owner/name"]] {
        let told = ends(offline(args), 1).1;
        assert!(told.contains("HF_HUB_OFFLINE") && told.contains("not in the cache"), "{told}");
    }
    assert_eq!(hub.requests("").len(), 0);
    let path = pull(&hub, &home, "hf://owner/name").0;
    let asked = hub.requests("").len();
    assert_eq!(ends(offline(&["pull", "hf://owner/name"]), 0).0.trim_end(), path.display().to_string());
    assert!(ends(offline(&["info", &format!("hf://owner/name@{COMMIT}")]), 0).0.contains("llama"));
    assert_eq!(hub.requests("").len(), asked);
    // A hub that fails does not matter to a model that is there, be it without its tokenizer.
    fs::remove_file(path.join("tokenizer.json")).unwrap();
    hub.with(|state| state.token = Some("another"));
    let told = ends(command(&hub, &home, &["info", "hf://owner/name"]), 0).1;
    assert!(told.contains("what the cache has is taken"), "{told}");
    // A blob that is gone leaves no whole model.
    fs::remove_file(path.join("model.safetensors").canonicalize().unwrap()).unwrap();
    ends(offline(&["info", "hf://owner/name"]), 1);
}

#[test]
fn names_that_leave_their_folder_are_refused() {
    for name in ["../../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "C:\\evil.gguf", "a\\..\\evil.gguf"] {
        let (hub, home) = (with_gguf().0, home());
        hub.with(|state| state.listed.push(name.to_owned()));
        let told = fails(&hub, &home, GGUF);
        assert!(told.contains("outside of its folder"), "{name}: {told}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn what_huggingface_hub_downloaded_is_not_downloaded_again() {
    let ((hub, bytes), home) = (with_gguf(), home());
    // A file with its name, as after `hf download`.
    let snapshot = repository_folder(&home).join("snapshots").join(COMMIT);
    let blobs = repository_folder(&home).join("blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(repository_folder(&home).join("refs")).unwrap();
    fs::write(repository_folder(&home).join("refs/main"), COMMIT).unwrap();
    fs::write(blobs.join(large(&bytes)), &bytes).unwrap();
    std::os::unix::fs::symlink(format!("../../blobs/{}", large(&bytes)), snapshot.join("name-Q8_0.gguf")).unwrap();
    let mut offline = command(&hub, &home, &["pull", GGUF]);
    offline.env("HF_HUB_OFFLINE", "1");
    assert_eq!(ends(offline, 0).0.trim_end(), snapshot.join("name-Q8_0.gguf").display().to_string());
    pull(&hub, &home, GGUF);
    // Bytes alone, as of another commit: they get their name.
    fs::remove_file(snapshot.join("name-Q8_0.gguf")).unwrap();
    assert_eq!(fs::read(pull(&hub, &home, GGUF).0).unwrap(), bytes);
    assert_eq!(hub.requests("/content/").len(), 0);
    // A part that it left is continued.
    fs::remove_file(snapshot.join("name-Q8_0.gguf")).unwrap();
    fs::rename(blobs.join(large(&bytes)), blobs.join(format!("{}.incomplete", large(&bytes)))).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", large(&bytes))), &bytes[..7]).unwrap();
    assert_eq!(fs::read(pull(&hub, &home, GGUF).0).unwrap(), bytes);
    assert_eq!(hub.requests("/content/")[0].range.as_deref(), Some("bytes=7-"));
}

#[test]
fn all_parts_of_a_quant_come_and_nothing_else() {
    let (hub, home) = (Hub::new(), home());
    let parts: Vec<(String, Vec<u8>)> =
        (1..=3).map(|n| (format!("Q4_K_M/name-Q4_K_M-0000{n}-of-00003.gguf"), noise(1000 + n))).collect();
    for (name, bytes) in &parts {
        hub.file(name, bytes, true);
    }
    hub.file("name-Q8_0.gguf", &noise(5000), true);
    hub.file("mmproj-name-Q4_K_M.gguf", &noise(10), true);
    let path = pull(&hub, &home, "hf://owner/name:q4_k_m").0;
    assert!(path.ends_with(&parts[0].0), "{}", path.display());
    let snapshot = path.parent().unwrap().parent().unwrap();
    for (name, bytes) in &parts {
        assert_eq!(&fs::read(snapshot.join(name)).unwrap(), bytes, "{name}");
    }
    assert_eq!(hub.requests("/content/").len(), 3);
    assert!(fails(&hub, &home, "hf://owner/name:Q4").contains("there is Q8_0"));
}

#[test]
fn without_a_quant_the_best_that_fits_is_taken() {
    let (hub, home) = (Hub::new(), home());
    for (name, listed) in
        [("name-Q8_0.gguf", 1 << 45), ("name-Q6_K.gguf", 1 << 44), ("name-Q4_0.gguf", 0), ("name-Q2_K.gguf", 0)]
    {
        let bytes = noise(2000 + name.len() + usize::from(name.as_bytes()[6]));
        hub.file(name, &bytes, true);
        hub.with(|state| state.files.get_mut(name).unwrap().listed_bytes = Some(listed).filter(|bytes| *bytes > 0));
    }
    let (path, told) = pull(&hub, &home, "hf://owner/name");
    assert!(path.ends_with("name-Q4_0.gguf"), "{}", path.display());
    assert!(told.contains("Q4_0: the best quality that fits: "), "{told}");
    // Too large ones alone are told with what to write to have one all the same.
    hub.with(|state| state.files.retain(|name, _| name.contains("Q8_0") || name.contains("Q6_K")));
    let told = fails(&hub, &self::home(), "hf://owner/name");
    assert!(told.contains("no quant fits") && told.contains("hf://owner/name:Q6_K"), "{told}");
}

#[test]
fn safetensors_come_before_quants_unless_they_do_not_fit() {
    let (hub, home) = (with_storyteller(), home());
    hub.file("name-Q8_0.gguf", &noise(3000), true);
    let (path, told) = pull(&hub, &home, "hf://owner/name");
    assert!(path.join("model.safetensors").is_file() && told.contains("the safetensors are taken"), "{told}");
    assert!(pull(&hub, &home, GGUF).0.ends_with("name-Q8_0.gguf"));
    let cold = self::home();
    hub.with(|state| state.files.get_mut("model.safetensors").unwrap().listed_bytes = Some(1 << 45));
    let (path, told) = pull(&hub, &cold, "hf://owner/name");
    assert!(path.ends_with("name-Q8_0.gguf"), "{}", path.display());
    assert!(told.contains("the safetensors do not fit"), "{told}");
}

#[test]
fn a_model_that_cannot_be_run_is_told_before_its_weights_come() {
    let (hub, home) = (with_storyteller(), home());
    let config = fs::read_to_string(repository("models/storyteller/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["model_type"] = json!("unheard_of");
    hub.file("config.json", config.to_string().as_bytes(), false);
    // Large enough to be worth asking.
    let count = 40 << 20;
    let header = json!({"w": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}}).to_string();
    let mut weights = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    weights.resize(weights.len() + 2 * count, 0);
    hub.file("model.safetensors", &weights, true);
    let told = fails(&hub, &home, "hf://owner/name");
    assert!(told.contains("cannot be run here") && told.contains("unheard_of"), "{told}");
    let asked = hub.requests("/content/");
    assert!(asked.iter().all(|request| request.range.as_deref() == Some("bytes=0-1048575")), "{asked:?}");
}

#[test]
fn a_disk_without_room_is_told_before() {
    let (hub, home) = (with_gguf().0, home());
    hub.with(|state| state.files.get_mut("name-Q8_0.gguf").unwrap().listed_bytes = Some(1 << 49));
    let told = fails(&hub, &home, GGUF);
    assert!(told.contains("HF_HUB_CACHE") && told.contains("512.00 TiB"), "{told}");
    assert_eq!(hub.requests("/content/").len(), 0);
}
