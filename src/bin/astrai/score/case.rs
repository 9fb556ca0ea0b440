//! A line of input of `astrai score`.

use crate::args::message_flags;
use crate::constraint;
use astrai::constrain::Kind;
use astrai::engine::{Prompt, PromptPart, RequestOptions, Settings};
use astrai::limits;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::sync::Arc;

/// A line that can be submitted.
#[derive(Debug)]
pub struct Case {
    /// Given back in the result; null when absent.
    pub id: Value,
    /// Text or messages, unless `prompt_tokens` is set.
    pub prompt: Prompt,
    /// The prompt as token ids.
    pub prompt_tokens: Option<Vec<u32>>,
    /// What the answer may be.
    pub constraint: Option<(Kind, String)>,
    /// Everything else.
    pub options: RequestOptions,
    /// Names of fields that mean nothing here.
    pub unknown: Vec<String>,
}

/// A line that cannot.
#[derive(Debug)]
pub struct Bad {
    /// The line's id; null when it could not be read.
    pub id: Value,
    /// What is wrong.
    pub message: String,
}

/// Reads one line.
pub fn parse(line: &[u8]) -> Result<Case, Bad> {
    let line = std::str::from_utf8(line)
        .map_err(|error| Bad { id: Value::Null, message: format!("not UTF-8 from byte {}", error.valid_up_to()) })?;
    let mut fields = match astrai::text::exact::parse(line) {
        Ok(Value::Object(fields)) => Fields(fields),
        Ok(_) => return Err(Bad { id: Value::Null, message: "expected a JSON object".to_owned() }),
        Err(error) => return Err(Bad { id: Value::Null, message: format!("not JSON: {error}") }),
    };
    let id = fields.0.remove("id").unwrap_or(Value::Null);
    let read = fields.case().and_then(|case| Ok((case, fields.constraint()?)));
    match read {
        Ok(((prompt, prompt_tokens, options), constraint)) => {
            let unknown = fields.0.into_iter().map(|(name, _)| name).collect();
            Ok(Case { id, prompt, prompt_tokens, constraint, options, unknown })
        }
        Err(message) => Err(Bad { id, message }),
    }
}

/// The fields of a line that were not read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn case(&mut self) -> Result<(Prompt, Option<Vec<u32>>, RequestOptions), String> {
        let (prompt, prompt_tokens) = self.prompt()?;
        let stops = match self.0.remove("stop") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(stop)) => vec![stop],
            Some(list) => convert("stop", list)?,
        };
        let stop_tokens = self.take("stop_tokens")?.unwrap_or_default();
        let choice: Option<String> = self.take("tool_choice")?;
        let settings = Settings {
            stops,
            stop_tokens,
            bias: self.bias()?,
            tool_choice: choice.as_deref().map(constraint::choice).unwrap_or_default(),
            single_call: self.take("single_call")?.unwrap_or(false),
            constrain_calls: self.take("constrain_calls")?.unwrap_or(false),
            dry_breakers: self.take::<Vec<String>>("dry_sequence_breakers")?.map(Into::into),
            ..Settings::default()
        };
        Ok((prompt, prompt_tokens, RequestOptions { settings: Some(Arc::new(settings)), ..self.options()? }))
    }

    fn constraint(&mut self) -> Result<Option<(Kind, String)>, String> {
        let value: Option<Value> = self.take("constraint")?;
        value.map(|value| constraint::of_line(&value)).transpose()
    }

    fn prompt(&mut self) -> Result<(Prompt, Option<Vec<u32>>), String> {
        let text: Option<String> = self.take("prompt")?;
        let tokens: Option<Vec<u32>> = self.take("prompt_tokens")?;
        let messages: Option<Vec<Value>> = self.take("messages")?;
        let tools: Option<Vec<Value>> = self.take("tools")?;
        let continued: Option<bool> = self.take("continue")?;
        let special: Option<bool> = self.take("special_content")?;
        let given =
            [("tools", tools.is_some()), ("continue", continued.is_some()), ("special_content", special.is_some())];
        if let (Some((name, _)), None) = (given.iter().find(|(_, given)| *given), &messages) {
            return Err(format!("`{name}` needs `messages`"));
        }
        let mut prompt = Prompt::default();
        match (text, &tokens, messages) {
            (Some(text), None, None) => prompt.parts.push(PromptPart::Text { text, special: true }),
            (None, Some(_), None) => {}
            (None, None, Some(messages)) => {
                prompt.message_flags =
                    message_flags(messages.len(), special.unwrap_or(false), continued.unwrap_or(false));
                prompt.messages = messages;
                prompt.tools = tools.map(Value::Array);
            }
            _ => return Err("expected exactly one of `prompt`, `prompt_tokens` and `messages`".to_owned()),
        }
        Ok((prompt, tokens))
    }

    fn options(&mut self) -> Result<RequestOptions, String> {
        let logprobs: Option<u32> = self.take("logprobs")?;
        if let Some(k) = logprobs.filter(|&k| k as usize > limits::TOP_LOGPROBS_MAX) {
            return Err(format!("`logprobs`: {k} is more than {}", limits::TOP_LOGPROBS_MAX));
        }
        Ok(RequestOptions {
            seed: self.take("seed")?,
            ignore_eos: self.take("ignore_eos")?.unwrap_or(false),
            special: self.take("special")?.unwrap_or(false),
            prompt_logprobs: self.take("prompt_logprobs")?.unwrap_or(false),
            raw_text: self.take("raw_text")?.unwrap_or(false),
            reasoning_tokens: self.take("reasoning_tokens")?,
            max_tokens: self.take("max_tokens")?,
            top_k: self.take("top_k")?,
            logprobs: Some(logprobs.unwrap_or(0)),
            temperature: Some(self.number("temperature")?.unwrap_or(0.0)),
            top_p: self.number("top_p")?,
            min_p: self.number("min_p")?,
            xtc_probability: self.number("xtc_probability")?,
            xtc_threshold: self.number("xtc_threshold")?,
            dry_multiplier: self.number("dry_multiplier")?,
            dry_base: self.number("dry_base")?,
            dry_allowed_length: self.take("dry_allowed_length")?,
            dry_penalty_last_n: self.take("dry_penalty_last_n")?,
            repetition_penalty: self.number("repetition_penalty")?,
            presence_penalty: self.number("presence_penalty")?,
            frequency_penalty: self.number("frequency_penalty")?,
            ..RequestOptions::default()
        })
    }

    /// `{"17": -1.5}`: biases by token id.
    fn bias(&mut self) -> Result<Vec<(u32, f32)>, String> {
        let biases: Map<String, Value> = self.take("logit_bias")?.unwrap_or_default();
        let pair = |(id, bias): (String, Value)| {
            let token = id.parse().map_err(|_| format!("`logit_bias`: {id:?} is not a token id"))?;
            Ok((token, finite("logit_bias", convert("logit_bias", bias)?)?))
        };
        biases.into_iter().map(pair).collect()
    }

    /// A field; `null` is as good as absent.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => convert(name, value).map(Some),
        }
    }

    fn number(&mut self, name: &str) -> Result<Option<f32>, String> {
        self.take(name)?.map(|value| finite(name, value)).transpose()
    }
}

fn convert<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("`{name}`: {error}"))
}

fn finite(name: &str, value: f32) -> Result<f32, String> {
    if value.is_finite() { Ok(value) } else { Err(format!("`{name}`: the number is too large")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good(line: Value) -> Case {
        parse(line.to_string().as_bytes()).unwrap_or_else(|bad| panic!("{line}: {}", bad.message))
    }

    fn bad(line: &str) -> Bad {
        match parse(line.as_bytes()) {
            Ok(case) => panic!("{line}: {case:?}"),
            Err(bad) => bad,
        }
    }

    #[test]
    fn every_field_reaches_its_option() {
        let case = good(json!({
            "id": {"any": [1, "x"]}, "prompt": "Hi", "max_tokens": 0, "logprobs": 5, "prompt_logprobs": true,
            "ignore_eos": true, "temperature": 0.5, "seed": u64::MAX, "top_k": 3, "top_p": 0.25, "min_p": 0.125,
            "repetition_penalty": 1.5, "presence_penalty": -0.5, "frequency_penalty": 0.75, "stop": ["a", "b"],
            "stop_tokens": [7], "logit_bias": {"3": -100}, "constraint": {"texts": ["a"]}, "comment": "?"
        }));
        assert_eq!(case.id, json!({"any": [1, "x"]}));
        assert_eq!(case.prompt.parts, [PromptPart::Text { text: "Hi".into(), special: true }]);
        let settings = case.options.settings.clone().unwrap();
        assert_eq!(settings.stops, ["a", "b"]);
        assert_eq!(settings.stop_tokens, [7]);
        assert_eq!(settings.bias, [(3, -100.0)]);
        assert_eq!(case.constraint, Some((Kind::Texts, r#"["a"]"#.to_owned())));
        assert_eq!(case.unknown, ["comment"]);
        let o = case.options;
        assert_eq!((o.max_tokens, o.logprobs, o.seed, o.top_k), (Some(0), Some(5), Some(u64::MAX), Some(3)));
        assert!(o.prompt_logprobs && o.ignore_eos);
        assert_eq!((o.temperature, o.top_p, o.min_p), (Some(0.5), Some(0.25), Some(0.125)));
        assert_eq!(o.repetition_penalty, Some(1.5));
        assert_eq!((o.presence_penalty, o.frequency_penalty), (Some(-0.5), Some(0.75)));
    }

    #[test]
    fn what_is_absent_is_greedy_and_the_models_default() {
        let case = good(json!({"prompt_tokens": [1, 2], "top_p": null, "stop": "x"}));
        assert_eq!(case.id, Value::Null);
        assert_eq!(case.prompt_tokens, Some(vec![1, 2]));
        assert_eq!(case.options.settings.as_ref().unwrap().stops, ["x"]);
        assert_eq!((case.options.temperature, case.options.logprobs), (Some(0.0), Some(0)));
        assert_eq!((case.options.max_tokens, case.options.top_p, case.options.seed), (None, None, None));
        let chat = good(json!({"messages": [{"role": "user", "content": "x"}], "tools": []}));
        assert_eq!((chat.prompt.messages.len(), chat.prompt.tools), (1, Some(json!([]))));
        assert!(!chat.options.special && chat.prompt.message_flags == message_flags(1, false, false));
        let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]);
        let begun = good(json!({"messages": messages, "continue": true, "special_content": true, "special": true}));
        assert!(begun.options.special && begun.prompt.message_flags == message_flags(2, true, true));
        assert_eq!(begun.unknown, [""; 0]);
    }

    #[test]
    fn a_bad_line_keeps_its_id_and_names_the_field() {
        for (line, id, part) in [
            ("nonsense", Value::Null, "not JSON"),
            ("{\"id\": 1", Value::Null, "not JSON"),
            ("[1]", Value::Null, "JSON object"),
            (r#"{"id": 1}"#, json!(1), "exactly one"),
            (r#"{"id": "a", "prompt": "x", "prompt_tokens": [1]}"#, json!("a"), "exactly one"),
            (r#"{"id": 2, "prompt": 5}"#, json!(2), "`prompt`"),
            (r#"{"id": 3, "prompt_tokens": [-1]}"#, json!(3), "`prompt_tokens`"),
            (r#"{"id": 4, "prompt_tokens": [4294967296]}"#, json!(4), "`prompt_tokens`"),
            (r#"{"id": 5, "prompt": "x", "max_tokens": -1}"#, json!(5), "`max_tokens`"),
            (r#"{"id": 6, "prompt": "x", "logprobs": 257}"#, json!(6), "`logprobs`"),
            (r#"{"id": 7, "prompt": "x", "temperature": "hot"}"#, json!(7), "`temperature`"),
            (r#"{"id": 8, "prompt": "x", "top_p": 1e300}"#, json!(8), "`top_p`"),
            (r#"{"id": 9, "prompt": "x", "logit_bias": {"the": 1}}"#, json!(9), "`logit_bias`"),
            (r#"{"id": 10, "prompt": "x", "stop": 3}"#, json!(10), "`stop`"),
            (r#"{"id": 11, "prompt": "x", "tools": []}"#, json!(11), "`tools`"),
            (r#"{"id": 12, "prompt": "x", "continue": true}"#, json!(12), "`continue`"),
            (r#"{"id": 13, "messages": [], "continue": 1}"#, json!(13), "`continue`"),
            (r#"{"id": 14, "prompt": "x", "special": "yes"}"#, json!(14), "`special`"),
        ] {
            let bad = bad(line);
            assert_eq!(bad.id, id, "{line}");
            assert!(bad.message.contains(part), "{line}: {}", bad.message);
        }
        let broken = parse(b"{\"prompt\": \"a\xff\"}").expect_err("not UTF-8");
        assert_eq!((broken.id, broken.message.as_str()), (Value::Null, "not UTF-8 from byte 13"));
    }
}
