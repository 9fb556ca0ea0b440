//! Constrained requests on the CPU.

use crate::support::constraints as cases;
use crate::support::models::{fixture, storyteller};
use crate::support::target;
use astrai::Status;
use astrai::constrain::Kind;
use astrai::engine::{CpuTier, Engine, EngineOptions, LogLevel};
use std::sync::{Arc, Mutex};

fn open() -> astrai::engine::Engine {
    cases::open(target::Target::Cpu(CpuTier::Auto))
}

#[test]
fn answers_meet_their_constraints() {
    cases::answers_meet_their_constraints(&open(), 12);
}

#[test]
fn a_constrained_request_never_depends_on_its_neighbours() {
    cases::a_constrained_request_never_depends_on_its_neighbours(&open(), 9, 50);
}

#[test]
fn a_late_mask_holds_up_nobody_else() {
    cases::a_late_mask_holds_up_nobody_else(&open(), 4, 20);
}

#[test]
fn constraints_end_their_own_requests_alone() {
    cases::constraints_end_their_own_requests_alone(&open());
}

#[test]
fn what_constraints_need_is_made_with_the_engine_where_it_is_asked_for() {
    let options = || EngineOptions { threads: 1, constraints: true, ..EngineOptions::default() };
    let plan = Engine::plan(&storyteller(), &options()).unwrap();
    let engine = Engine::open(&storyteller(), EngineOptions { memory_budget: plan.total_bytes, ..options() }).unwrap();
    let bare = EngineOptions { threads: 1, ..EngineOptions::default() };
    let bare = Engine::open(&storyteller(), bare).unwrap();
    assert!(plan.constraint_bytes > 448 * u64::from(engine.info().vocab_size));
    let answers = |engine: &Engine| {
        let constraint = engine.compile_constraint(Kind::Regex, "[a-z]{3,9}( [a-z]{3,9}){3}").unwrap();
        cases::tokens(engine, &cases::options(3, 60, Some(&constraint)))
    };
    assert_eq!(answers(&engine), answers(&bare));
    // One of either serves the other: it is the same vocabulary.
    let constraint = bare.compile_constraint(Kind::Texts, r#"["yes"]"#).unwrap();
    assert!(!cases::tokens(&engine, &cases::options(3, 60, Some(&constraint))).is_empty());
    // A byte less is too little, and says so.
    let less = EngineOptions { memory_budget: plan.weight_bytes + plan.workspace_bytes, ..options() };
    let error = Engine::open(&storyteller(), less).map(drop).unwrap_err();
    assert_eq!(error.status, Status::Memory);
    assert!(error.message.contains("the vocabulary for constraints"), "{}", error.message);
}

#[test]
fn a_model_without_a_tokenizer_opens_without_a_tree() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = lines.clone();
    let log = Arc::new(move |_: LogLevel, line: &str| told.lock().unwrap().push(line.to_owned()));
    let level = LogLevel::Warn;
    let options =
        EngineOptions { threads: 1, constraints: true, log: Some(log), log_level: level, ..EngineOptions::default() };
    let engine = Engine::open(&fixture("astrai_gqa"), options).unwrap();
    let lines = lines.lock().unwrap().clone();
    assert!(lines.iter().any(|line| line.contains("option constraints is not used")), "{lines:?}");
    assert_eq!(engine.compile_constraint(Kind::Json, "").map(drop).unwrap_err().status, Status::Unsupported);
}
