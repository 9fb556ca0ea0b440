//! Files that are no reason not to open a model, and folders and files that are something else than a model: each is named.

use super::*;

/// Nobody needs them to compute: the folder opens with a warning, and who uses a template of such a file learns why not.
#[test]
fn other_files_that_are_damaged() {
    for name in ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.json"] {
        for (bytes, says_what) in [
            (&b"{\"a\""[..], "is not valid JSON"),
            (b"", "it is empty"),
            (b"{\"a\": 1,}", "is not valid JSON"),
            (b"[1]", "holds an array"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
        ] {
            let dir = folder(&[(name, bytes), ("tokenizer.json", b"x")]);
            let source = open(dir.path(), TEXT).expect("it opens");
            let [warning] = source.warnings() else { panic!("{:?}", source.warnings()) };
            assert!(warning.contains(name) && warning.contains(says_what), "{warning}");
            let template = source.chat_template();
            match name {
                "generation_config.json" | "special_tokens_map.json" => assert_eq!(template, Ok(None)),
                _ => says(&template.expect_err("it may have had one"), Status::Format, &[name, says_what]),
            }
        }
        let dir = folder(&[(&format!("{name}/x"), b"")]);
        let source = open(dir.path(), TEXT).expect("it opens");
        assert!(source.warnings()[0].contains("is a folder"), "{:?}", source.warnings());
    }
    let dir = folder(&[("chat_template.jinja", b"ab\xff"), ("tokenizer_config.json", br#"{"chat_template":"old"}"#)]);
    let source = open(dir.path(), TEXT).expect("it opens");
    assert_eq!(source.warnings().len(), 1);
    let fault = source.chat_template().expect_err("no other template takes its place");
    says(&fault, Status::Format, &["chat_template.jinja is not UTF-8 from byte 2"]);
    // A damaged older file does not matter where a newer one has the template.
    let dir = folder(&[("chat_template.jinja", b"new"), ("tokenizer_config.json", b"{"), ("chat_template.json", b"{")]);
    let source = open(dir.path(), TEXT).expect("it opens");
    assert_eq!((source.chat_template(), source.warnings().len()), (Ok(Some("new".into())), 2));
}

#[test]
fn values_of_other_files_that_are_no_such_values() {
    let config = br#"{"eos_token": 2, "bos_token": "<s>", "chat_template": 7, "model_max_length": Infinity}"#;
    let dir = folder(&[("tokenizer_config.json", config)]);
    let source = open(dir.path(), TEXT).expect("it opens");
    let tokens = source.special_tokens().expect("good");
    assert_eq!((tokens.get("bos_token"), tokens.get("eos_token")), (Some("<s>"), None));
    assert!(source.warnings()[0].contains("eos_token is a number"), "{:?}", source.warnings());
    says(&source.chat_template().expect_err("a number"), Status::Format, &["chat_template is a number"]);
}

#[test]
fn json_as_python_writes_it() {
    let dir = folder(&[
        ("config.json", br#"{"time_step_limit": [0.0, Infinity], "a": {"b": -Infinity}, "c": NaN}"#),
        ("generation_config.json", b"\xef\xbb\xbf{\"temperature\": NaN, \"top_k\": 5}"),
        ("model.safetensors", &file(TENSOR, &[0; 8])),
    ]);
    let source = open(dir.path(), MAPPED).expect("sound");
    assert_eq!(source.config().expect("there")["time_step_limit"][1], "Infinity");
    assert!(source.warnings().is_empty());
    assert_eq!(source.generation_config().expect("there").expect("there")["top_k"], 5);
}

#[test]
fn weights_that_are_absent() {
    let error = |name: &str| open_error(&[("config.json", b"{}"), (name, b"{}")]);
    says(&open_error(&[("config.json", b"{}")]), Status::Io, &["neither model.safetensors nor", "incomplete"]);
    for (name, words) in [
        ("pytorch_model.bin", &["it holds \"pytorch_model.bin\"", "PyTorch", "convert"][..]),
        ("pytorch_model.bin.index.json", &["PyTorch"]),
        ("model-q4_k_m.gguf", &["GGUF", "name that file"]),
        ("adapter_model.safetensors", &["adapter (LoRA)", "base model"]),
        ("consolidated.safetensors", &["model's authors"]),
        ("consolidated.00.pth", &["model's authors"]),
        ("params.json", &["model's authors"]),
        ("model.onnx", &["ONNX"]),
        ("weights.npz", &["NumPy"]),
        ("openvino_model.bin", &["OpenVINO"]),
        ("model_index.json", &["pipeline"]),
        ("model-00001-of-00002.safetensors", &["but not the index", "incomplete"]),
        ("output.safetensors", &["rename it to model.safetensors"]),
        ("model.safetensors.incomplete", &["download is incomplete"]),
    ] {
        says(&error(name), Status::Io, words);
    }
}

/// A folder that is none of a model says what it is.
#[test]
fn folders_of_something_else() {
    let config = br#"{"base_model_name_or_path": "org/base"}"#;
    let error = open_error(&[("adapter_config.json", config), ("adapter_model.safetensors", b"")]);
    says(&error, Status::Io, &["has no config.json", "adapter (LoRA)", "org/base"]);
    says(&open_error(&[("inner/config.json", b"{}")]), Status::Io, &["its folder \"inner\" is a model folder"]);
    let cache = open_error(&[("snapshots/0123/config.json", b"{}"), ("refs/main", b"0123")]);
    says(&cache, Status::Io, &["its folder \"snapshots/0123\" is a model folder"]);
    says(&open_error(&[("model.gguf", b"GGUF")]), Status::Io, &["has no config.json", "GGUF"]);
    says(&open_error(&[("readme", b"")]), Status::Io, &["has no config.json", "not a model folder"]);
}

#[test]
fn paths_that_name_something_else() {
    let dir = folder(&[("m.gguf", b"GGUF\x03\0\0\0"), ("m.safetensors", &file(TENSOR, &[0; 8]))]);
    says(&open(&dir.path().join("m.gguf"), MAPPED).expect_err("a file"), Status::Io, &["is not a folder", "GGUF"]);
    let weights = open(&dir.path().join("m.safetensors"), MAPPED).expect_err("a file");
    says(&weights, Status::Io, &["is not a folder", "name the folder that holds config.json"]);
    let hub = open(Path::new("Qwen/Qwen3-0.6B"), MAPPED).expect_err("a repository");
    says(&hub, Status::Io, &["cannot open", "nothing is downloaded here", "hf download Qwen/Qwen3-0.6B"]);
    let path = open(Path::new("/no/such/folder"), MAPPED).expect_err("missing");
    assert!(!path.message.contains("hf download"), "{path}");
}

/// What stands in the place of weights and is something else.
#[test]
fn weights_that_are_something_else() {
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 988097824\n";
    says(&weights_error(lfs), Status::Format, &["model.safetensors is a git-lfs pointer", "git lfs pull"]);
    let gguf = [&b"GGUF\x03\0\0\0"[..], &[0; 64]].concat();
    says(&weights_error(&gguf), Status::Format, &["is a GGUF file"]);
    let zip = [&b"PK\x03\x04"[..], &[0; 64]].concat();
    says(&weights_error(&zip), Status::Format, &["zip archive", "PyTorch"]);
    says(&weights_error(b"<!DOCTYPE html><html><body>404</body></html>"), Status::Format, &["a web page"]);
    let good = file(TENSOR, &[0; 8]);
    for name in ["config.json", "model.safetensors.index.json"] {
        let mut files = vec![(name, &lfs[..])];
        if name != "config.json" {
            files.push(("config.json", b"{}"));
        } else {
            files.push(("model.safetensors", &good));
        }
        says(&open_error(&files), Status::Format, &[name, "git-lfs pointer"]);
    }
    let dir = folder(&[("tokenizer.json", lfs)]);
    let source = open(dir.path(), TEXT).expect("read when it is wanted");
    says(&source.tokenizer_json().expect_err("a pointer"), Status::Format, &["tokenizer.json is a git-lfs pointer"]);
}
