//! What a text may cost: how much of it is encoded, what is made of it, how long an expression reads it.

use super::*;
use crate::error::{Error, Result, Status, Unit};
use crate::limits::*;

/// A text's error within limits.
fn refused(tokenizer: &Tokenizer, text: &str, tokens: usize) -> Error {
    tokenizer.encode_marked(&text.to_owned().into(), false, &mut EncodeLimits::new(tokens, &mut || Ok(()))).unwrap_err()
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_encoded() {
    let tokenizer = open(STORYTELLER);
    let most = tokenizer.bytes_per_token().unwrap();
    let text = "once upon a time there was ".repeat(2_000_000);
    let mut looks = 0;
    let mut go_on = || {
        looks += 1;
        Ok(())
    };
    let text = MarkedText::from(text);
    let error = tokenizer.encode_marked(&text, true, &mut EncodeLimits::new(512, &mut go_on)).unwrap_err();
    assert_eq!((error.status, error.unit, error.available), (Status::Context, Unit::Tokens, 512));
    assert!(error.needed >= (text.text.len() / most) as u64, "{error:?}");
    assert_eq!(looks, 0);
}

#[test]
fn what_exceeds_the_context_ends_there() {
    for (kind, file) in files() {
        let tokenizer = open(&file);
        let text = "the tea at hand, ".repeat(300_000);
        let mut looks = 0;
        let mut go_on = || {
            looks += 1;
            Ok(())
        };
        let text = MarkedText::from(text);
        let result = tokenizer.encode_marked(&text, false, &mut EncodeLimits::new(5_000, &mut go_on));
        let Err(error) = result else { panic!("{kind} has {} tokens", result.unwrap().len()) };
        if error.status == Status::Unsupported {
            continue;
        }
        assert_eq!(
            (error.status, error.unit, error.available),
            (Status::Context, Unit::Tokens, 5_000),
            "{kind}: {error}"
        );
        assert!(error.needed > 5_000 && error.message.contains("at least"), "{kind}: {error}");
        // A normalizer has all of the text before there is a token, and each of its expressions reads it as well.
        let pieces = text.text.len() / TEXT_PIECE_BYTES;
        let normalized = !serde_json::from_str::<Value>(&file).unwrap()["normalizer"].is_null();
        assert!(looks <= if normalized { 5 * pieces } else { pieces / 4 }, "{kind}: {looks} of {pieces}");
    }
    // A short text is counted to its end.
    let tokenizer = open(&fixtures::byte_level());
    let short = "a".repeat(COUNTED_BYTES_MAX);
    let mut go_on = || Ok(());
    let mut limits = EncodeLimits { other_tokens: 2, ..EncodeLimits::new(5, &mut go_on) };
    assert_eq!(tokenizer.encode_content(&short, &[], false, &mut limits).unwrap().len(), short.len());
    assert!(refused(&tokenizer, &(short + "a"), 5).needed > 5);
}

#[test]
fn who_wants_no_more_ends_it_at_the_next_piece() {
    let mut random = Random(77);
    let texts =
        [random_text(&mut random, 400_000), run_of_letters(&mut random, "abcdefgh", 400_000), " ".repeat(400_000)];
    for (kind, file) in files() {
        let tokenizer = open(&file);
        for text in &texts {
            let mut looks = 0;
            let mut go_on = || -> Result<()> {
                looks += 1;
                if looks < 3 { Ok(()) } else { Err(Error::new(Status::Closed, "enough")) }
            };
            let result =
                tokenizer.encode_marked(&text.clone().into(), false, &mut EncodeLimits::new(usize::MAX, &mut go_on));
            match result {
                Err(e) => assert!(e.message == "enough" || e.status == Status::Unsupported, "{kind}: {e}"),
                // Words that are dropped, or one unknown token for everything, take no time.
                Ok(ids) => assert!(ids.len() < 4_000, "{kind}: {} tokens after {looks} looks", ids.len()),
            }
        }
    }
}

#[test]
fn what_makes_text_of_text_is_bounded() {
    let doubling: Vec<Value> = (0..40).map(|_| replace(json!({"String": "a"}), "aa")).collect();
    let normalizer = with(&fixtures::byte_level(), &[("normalizer", sequence("normalizers", json!(doubling)))]);
    // The names of added tokens are normalized when the file is read.
    let mut file: Value = serde_json::from_str(&normalizer).unwrap();
    let tokenizer = open(&normalizer);
    let error = tokenizer.encode("aaaa", false, false).unwrap_err();
    assert_eq!((error.status, error.unit), (Status::Format, Unit::Bytes), "{error}");
    assert!(tokenizer.encode("the tee", false, false).is_ok());
    file["added_tokens"][3]["normalized"] = json!(true);
    assert!(Tokenizer::from_json(file.to_string().as_bytes(), "t").unwrap_err().message.contains("added_tokens"));
    // One step is enough, with a long text in it.
    let normalizer = replace(json!({"String": "a"}), &"a".repeat(1 << 20));
    let tokenizer = open(&with(&fixtures::byte_level(), &[("normalizer", normalizer)]));
    assert_eq!(tokenizer.encode(&"a".repeat(60_000), false, false).unwrap_err().status, Status::Format);

    for pattern in [json!({"Regex": "."}), json!({"String": "."}), json!({"Regex": ""}), json!({"Regex": "(?=.)"})] {
        let steps: Vec<Value> = (0..40).map(|_| replace(pattern.clone(), "..")).collect();
        let decoder = with(&fixtures::byte_level(), &[("decoder", sequence("decoders", json!(steps)))]);
        let error = Tokenizer::from_json(decoder.as_bytes(), "t").unwrap_err();
        assert_eq!((error.status, error.unit), (Status::Format, Unit::Bytes), "{error}");
        assert!(error.message.contains("decoder"), "{error}");
    }

    let twice = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {}});
    let many: Vec<Value> = (0..200).map(|_| json!({"Sequence": {"id": "A", "type_id": 0}})).collect();
    let mut long = twice.clone();
    long["single"] = json!(many);
    for steps in [json!([long, long]), json!([long])] {
        let file = with(&fixtures::byte_level(), &[("post_processor", sequence("processors", steps))]);
        let result = Tokenizer::from_json(file.as_bytes(), "t");
        if let Ok(tokenizer) = result {
            let one = tokenizer.encode("t", true, true).unwrap();
            assert_eq!(one.len(), 200);
            assert_eq!(refused(&tokenizer, &"t".repeat(400_000), 100).status, Status::Context);
        }
    }
    let bytes: Vec<Value> = (0..40).map(|_| byte_level(false)).collect();
    let file = with(&fixtures::byte_level(), &[("pre_tokenizer", sequence("pretokenizers", json!(bytes)))]);
    assert!(Tokenizer::from_json(file.as_bytes(), "t").unwrap_err().message.contains("ByteLevel"));
}

#[test]
fn an_expression_that_backtracks_ends() {
    let words = sequence("pretokenizers", json!([split(r"(?:(a+)+)\1b|\S", "Isolated"), byte_level(false)]));
    let tokenizer = open(&with(&fixtures::byte_level(), &[("pre_tokenizer", words)]));
    let error = tokenizer.encode(&"a".repeat(20_000), false, false).unwrap_err();
    assert_eq!((error.status, error.unit), (Status::Unsupported, Unit::Count), "{error}");
    assert!(tokenizer.encode("the tea", false, false).is_ok());

    // A decoder's runs for every token, on the engine's thread.
    let mut file: Value = serde_json::from_str(&fixtures::byte_level()).unwrap();
    file["decoder"] = sequence("decoders", json!(vec![replace(json!({"Regex": r"(?:(a+)+)\1b"}), "c"); 3]));
    file["added_tokens"][3]["content"] = json!("a".repeat(200));
    let tokenizer = open(&file.to_string());
    let error = tokenizer.decode(&[tokenizer.id(&"a".repeat(200)).unwrap()], true).unwrap_err();
    assert_eq!((error.status, error.available), (Status::Unsupported, DECODER_BACKTRACKS_MAX as u64), "{error}");
    assert_eq!(tokenizer.decode(&[tokenizer.id("t").unwrap()], true).unwrap(), "t");
}

/// A tokenizer that looks for words with this expression.
fn cutting(pattern: &str) -> Tokenizer {
    let words = sequence("pretokenizers", json!([split(pattern, "Isolated"), byte_level(false)]));
    open(&with(&fixtures::byte_level(), &[("pre_tokenizer", words)]))
}

#[test]
fn expressions_that_read_a_text_again_and_again_are_bounded_for_all_of_it() {
    let most = |bytes: usize| (SEARCH_EFFORT_FACTOR * bytes + SEARCH_EFFORT_FREE) as u64;
    // Every match is short, and known only at the end of the text.
    let quadratic = cutting("a+b|a");
    // Every match takes fewer backtracks than a match may.
    let cubic = cutting(r"(?:a*a*b|a)(?!x)");
    let end = "<|end|>";
    for (kind, tokenizer, text) in [
        ("quadratic", &quadratic, "a".repeat(60_000)),
        ("cubic", &cubic, "a".repeat(400)),
        // The parts between special tokens are one text.
        ("in parts", &quadratic, ("a".repeat(1000) + end).repeat(60)),
        ("backtracks in parts", &cubic, ("a".repeat(100) + end).repeat(80)),
    ] {
        let error = tokenizer.encode(&text, false, true).unwrap_err();
        assert_eq!(
            (error.status, error.unit, error.available),
            (Status::Unsupported, Unit::Count, most(text.len())),
            "{kind}: {error}"
        );
        assert!(error.message.contains("many times"), "{kind}: {error}");
    }
    // What does so little is done.
    assert_eq!(quadratic.encode(&"a".repeat(500), false, true).unwrap().len(), 500);
    assert_eq!(cubic.encode(&"a".repeat(20), false, true).unwrap().len(), 20);
    assert!(quadratic.encode(&"the tea at hand ".repeat(60_000), false, true).is_ok());
    // A step of the normalizer.
    let normalizer = replace(json!({"Regex": "a+b|a"}), "c");
    let tokenizer = open(&with(&fixtures::byte_level(), &[("normalizer", normalizer)]));
    assert_eq!(tokenizer.encode(&"a".repeat(15_000), false, true).unwrap_err().status, Status::Unsupported);
}

#[test]
fn expressions_that_read_much_are_looked_at_while_they_do() {
    let enough = |tokenizer: &Tokenizer, text: &str| {
        let mut looks = 0;
        let mut go_on = || -> Result<()> {
            looks += 1;
            if looks < 3 { Ok(()) } else { Err(Error::new(Status::Closed, "enough")) }
        };
        let limits = &mut EncodeLimits::new(usize::MAX, &mut go_on);
        let error = tokenizer.encode_content(text, &[], false, limits).unwrap_err();
        assert_eq!(error.message, "enough");
        assert!(limits.searched <= 3 * TEXT_PIECE_BYTES + 2 * BACKTRACKS_MAX, "{}", limits.searched);
    };
    // One search through all of the text, forwards; and back.
    enough(&cutting("a+b|a"), &"a".repeat(1_000_000));
    enough(&cutting("[^b]*b"), &("a".repeat(1_000_000) + "b"));
    enough(&cutting("ab"), &"a".repeat(1_000_000));
    // Many with backtracks, of words that are short.
    enough(&cutting(r"(?:a*a*b|a)(?!x)"), &"a".repeat(300));
    let normalizer = replace(json!({"Regex": "a+b|a"}), "c");
    enough(&open(&with(&fixtures::byte_level(), &[("normalizer", normalizer)])), &"a".repeat(15_000));
}
