//! The official clients, which judge what they are sent: their validation is on.
//!
//! They are Python packages, of an interpreter that ASTRAI_CLIENTS_PYTHON names, else of `python3`. Without them a test prints SKIP,
//! or fails if ASTRAI_REQUIRE names `clients`.

use crate::scripted::{PACES, engine, gated, prepare, serve_with};
use crate::support::models::root;
use crate::support::programs::{required, succeed};
use std::process::Command;

/// The interpreter that has a package.
fn python(package: &str) -> Option<Command> {
    let program = std::env::var_os("ASTRAI_CLIENTS_PYTHON").unwrap_or("python3".into());
    let has = Command::new(&program).args(["-c", &format!("import {package}")]).output();
    if has.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new(program);
        // No compiled files in the checkout.
        command.arg("-B");
        return Some(command);
    }
    assert!(!required("clients"), "ASTRAI_REQUIRE names clients, and there is no Python with {package}");
    println!("SKIP: there is no Python with {package}; `make clients` makes one");
    None
}

/// Runs a script of this folder against servers of every pace.
fn judge(package: &str, script: &str) {
    if python(package).is_none() {
        return;
    }
    for pace in PACES {
        let engine = engine();
        let server = serve_with(&engine, |options| {
            options.prepare = Some(prepare(pace));
            options.gate = gated(&engine, pace);
            options.api_keys = vec!["key".to_owned()];
        });
        let mut command = python(package).unwrap();
        println!("{pace:?}");
        succeed(command.arg(root().join("tests/server").join(script)).arg(server.url()));
    }
}

#[test]
fn openai() {
    judge("openai", "openai_client.py");
}

#[test]
fn anthropic() {
    judge("anthropic", "anthropic_client.py");
}
