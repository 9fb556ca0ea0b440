//! What a model's authors recommend: `generation_config.json`, and the ids of `config.json`.

use super::ModelSource;
use super::files::kind;
use crate::error::{Error, Result};
use crate::limits;
use serde_json::Value;

/// Defaults for requests that leave a choice to the model. `None`: the model does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end a sequence: those of both files, without repetition, and the tokenizer's
    /// ([`GenerationDefaults::add_eos`]). Ids at or above the vocabulary size are possible and harmless.
    pub eos_tokens: Vec<u32>,
    /// Token that begins a sequence.
    pub bos_token: Option<u32>,
    /// Whether to draw at all; without it transformers is greedy, whatever the temperature.
    pub do_sample: Option<bool>,
    /// Temperature as written; [`GenerationDefaults::temperature_or_greedy`] is the one to use.
    pub temperature: Option<f32>,
    /// Draw among the k most probable tokens only; 0 = all.
    pub top_k: Option<u32>,
    /// Draw from the smallest set of tokens whose probability reaches this.
    pub top_p: Option<f32>,
    /// Draw from tokens at least this fraction as probable as the best.
    pub min_p: Option<f32>,
    /// Repetition penalty; 1 = none.
    pub repetition_penalty: Option<f32>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<u32>,
}

impl GenerationDefaults {
    /// The defaults of a source that has a config.
    pub fn from_source(source: &dyn ModelSource) -> Result<GenerationDefaults> {
        GenerationDefaults::parse(source.generation_config()?, source.config()?, source.subject())
    }

    /// Reads the two files' contents; `subject` is the folder they are in.
    pub fn parse(generation: Option<&Value>, config: &Value, subject: &str) -> Result<GenerationDefaults> {
        let main = Keys { value: generation.unwrap_or(&Value::Null), file: "generation_config.json", subject };
        let config_keys = Keys { value: config, file: "config.json", subject };
        let text =
            Keys { value: config.get("text_config").unwrap_or(&Value::Null), file: "config.json text_config", subject };
        let mut defaults = GenerationDefaults {
            do_sample: main.boolean("do_sample")?,
            temperature: main.number("temperature", "at least 0", |x| x >= 0.0)?,
            top_k: main.count("top_k")?,
            top_p: main.number("top_p", "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)?,
            min_p: main.number("min_p", "between 0 and 1", |x| (0.0..=1.0).contains(&x))?,
            repetition_penalty: main.number("repetition_penalty", "above 0", |x| x > 0.0)?,
            max_new_tokens: main.count("max_new_tokens")?,
            ..GenerationDefaults::default()
        };
        for keys in [&main, &config_keys, &text] {
            keys.tokens("eos_token_id")?.into_iter().for_each(|id| defaults.add_eos(Some(id)));
            if defaults.bos_token.is_none() {
                defaults.bos_token = keys.tokens("bos_token_id")?.first().copied();
            }
        }
        Ok(defaults)
    }

    /// Adds a token that ends a sequence, unless it is known.
    pub fn add_eos(&mut self, id: Option<u32>) {
        self.eos_tokens.extend(id.filter(|id| !self.eos_tokens.contains(id)));
    }

    /// The temperature of a request that names none: 0 (greedy) unless the model says `do_sample`, as transformers
    /// does.
    pub fn temperature_or_greedy(&self) -> f32 {
        if self.do_sample == Some(true) { self.temperature.unwrap_or(1.0) } else { 0.0 }
    }
}

/// One object whose values are read by key; null counts as absent.
struct Keys<'a> {
    value: &'a Value,
    file: &'static str,
    subject: &'a str,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn fault(&self, key: &str, found: &Value, expected: &str) -> Error {
        let found = match found {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        let message = format!("{}: {key} is {found}; {expected} is expected", self.file);
        Error::format(message).about(self.subject)
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.fault(key, value, "true or false"))
    }

    fn number(&self, key: &str, range: &str, allowed: fn(f32) -> bool) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        #[allow(clippy::cast_possible_truncation, reason = "f32 is the precision of the sampler; infinity is refused")]
        let number = value.as_f64().map(|number| number as f32).filter(|&x| x.is_finite() && allowed(x));
        number.map(Some).ok_or_else(|| self.fault(key, value, &format!("a number {range}")))
    }

    fn count(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        whole(value).map(Some).ok_or_else(|| self.fault(key, value, "a whole number of at least 0"))
    }

    /// One id or a list of ids.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let expected = "a token id or a list of token ids";
        let id = |value: &Value| whole(value).ok_or_else(|| self.fault(key, value, expected));
        match value {
            Value::Array(list) if list.len() > limits::STOP_TOKENS_MAX => Err(self.fault(key, value, "a shorter list")),
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        }
    }
}

/// A whole number, also when written as `50.0`.
fn whole(value: &Value) -> Option<u32> {
    if let Some(number) = value.as_u64() {
        return u32::try_from(number).ok();
    }
    let number = value.as_f64()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(generation: Value, config: Value) -> Result<GenerationDefaults> {
        GenerationDefaults::parse(Some(&generation), &config, "model")
    }

    #[test]
    fn end_tokens_are_those_of_all_and_the_begin_token_is_the_first() {
        let all = parse(json!({"eos_token_id": [5, 6]}), json!({"eos_token_id": 2, "bos_token_id": 1})).expect("good");
        assert_eq!((all.eos_tokens, all.bos_token), (vec![5, 6, 2], Some(1)));
        let nested = json!({"eos_token_id": [2, 6], "bos_token_id": 3, "text_config": {"eos_token_id": 4}});
        let mut all = parse(json!({"eos_token_id": 6}), nested).expect("good");
        all.add_eos(Some(4));
        all.add_eos(Some(9));
        all.add_eos(None);
        assert_eq!((all.eos_tokens, all.bos_token), (vec![6, 2, 4, 9], Some(3)));
        let nested = json!({"eos_token_id": null, "text_config": {"eos_token_id": 9, "bos_token_id": 8}});
        let all = GenerationDefaults::parse(None, &nested, "model").expect("good");
        assert_eq!((all.eos_tokens, all.bos_token), (vec![9], Some(8)));
        assert_eq!(parse(json!({}), json!({})).expect("good"), GenerationDefaults::default());
    }

    #[test]
    fn greedy_unless_the_model_says_sample() {
        let of = |value| parse(value, json!({})).expect("good").temperature_or_greedy();
        assert_eq!(of(json!({"temperature": 0.7})), 0.0);
        assert_eq!(of(json!({"temperature": 0.7, "do_sample": false})), 0.0);
        assert_eq!(of(json!({"temperature": 0.7, "do_sample": true})), 0.7);
        assert_eq!(of(json!({"do_sample": true})), 1.0);
    }

    #[test]
    fn values_are_read() {
        let text = r#"{"do_sample": true, "temperature": 0.6, "top_k": 20.0, "top_p": 0.95, "min_p": 0, "max_length": 4096,
            "repetition_penalty": 1.05, "max_new_tokens": 2048, "pad_token_id": -1}"#;
        let all = parse(serde_json::from_str(text).expect("JSON"), json!({})).expect("good");
        assert_eq!((all.top_k, all.top_p, all.min_p), (Some(20), Some(0.95), Some(0.0)));
        assert_eq!((all.repetition_penalty, all.max_new_tokens), (Some(1.05), Some(2048)));
    }

    #[test]
    fn nonsense_names_its_key() {
        let cases = [
            json!({"eos_token_id": -1}),
            json!({"eos_token_id": "2"}),
            json!({"eos_token_id": [1, [2]]}),
            json!({"eos_token_id": 4294967296u64}),
            json!({"eos_token_id": vec![0; limits::STOP_TOKENS_MAX + 1]}),
            json!({"bos_token_id": 1.5}),
            json!({"temperature": "hot"}),
            json!({"temperature": -0.5}),
            json!({"temperature": 1e300}),
            json!({"top_k": -1}),
            json!({"top_p": 0}),
            json!({"top_p": 1.5}),
            json!({"min_p": 2}),
            json!({"repetition_penalty": 0}),
            json!({"max_new_tokens": {}}),
            json!({"do_sample": "yes"}),
        ];
        for case in cases {
            let key = case.as_object().and_then(|map| map.keys().next().cloned()).expect("one key");
            let error = parse(case.clone(), json!({})).expect_err("nonsense");
            assert_eq!(error.status, crate::Status::Format);
            assert!(error.message.starts_with(&format!("generation_config.json: {key} is ")), "{error}");
        }
    }
}
