//! What a model's authors recommend: `generation_config.json`, and the ids of `config.json`. It is advice: a value that makes
//! no sense is left out with a warning, alone.

use super::ModelSource;
use super::files::{kind, quoted};
use crate::error::Result;
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
    /// The defaults of a source that has a config; `warn` gets a line for each value that is left out.
    pub fn from_source(source: &dyn ModelSource, warn: &mut dyn FnMut(String)) -> Result<GenerationDefaults> {
        Ok(GenerationDefaults::parse(source.generation_config()?, source.config()?, warn))
    }

    /// Reads the two files' contents.
    pub fn parse(generation: Option<&Value>, config: &Value, warn: &mut dyn FnMut(String)) -> GenerationDefaults {
        let (first, first_file) = (generation.unwrap_or(&Value::Null), "generation_config.json");
        let text = config.get("text_config").unwrap_or(&Value::Null);
        let mut main = Keys { value: first, file: first_file, warn };
        let mut defaults = GenerationDefaults {
            do_sample: main.boolean("do_sample"),
            temperature: main.number("temperature", "at least 0", |x| x >= 0.0),
            top_k: main.count("top_k"),
            top_p: main.number("top_p", "above 0 and at most 1", |x| x > 0.0 && x <= 1.0),
            min_p: main.number("min_p", "between 0 and 1", |x| (0.0..=1.0).contains(&x)),
            repetition_penalty: main.number("repetition_penalty", "above 0", |x| x > 0.0),
            max_new_tokens: main.count("max_new_tokens"),
            ..GenerationDefaults::default()
        };
        for (value, file) in [(first, first_file), (config, "config.json"), (text, "config.json text_config")] {
            let mut keys = Keys { value, file, warn };
            keys.tokens("eos_token_id").into_iter().for_each(|id| defaults.add_eos(Some(id)));
            if defaults.bos_token.is_none() {
                defaults.bos_token = keys.tokens("bos_token_id").first().copied();
            }
        }
        defaults
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
    warn: &'a mut dyn FnMut(String),
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// Says that a value is left out.
    fn fault(&mut self, key: &str, found: &Value, expected: &str) {
        let found = match found {
            Value::Number(number) => number.to_string(),
            Value::String(text) => quoted(text),
            other => kind(other).to_owned(),
        };
        (self.warn)(format!("{}: {key} is {found}; {expected} is expected; it is not used", self.file));
    }

    /// A key's value, read by `read`; what that refuses is left out.
    fn read<T>(&mut self, key: &str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let read = read(value);
        if read.is_none() {
            self.fault(key, value, expected);
        }
        read
    }

    fn boolean(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", Value::as_bool)
    }

    fn number(&mut self, key: &str, range: &str, allowed: fn(f32) -> bool) -> Option<f32> {
        #[allow(clippy::cast_possible_truncation, reason = "f32 is the precision of the sampler; infinity is refused")]
        let read = |value: &Value| value.as_f64().map(|number| number as f32).filter(|&x| x.is_finite() && allowed(x));
        self.read(key, &format!("a number {range}"), read)
    }

    fn count(&mut self, key: &str) -> Option<u32> {
        self.read(key, "a whole number of at least 0", whole)
    }

    /// One id or a list of ids, of which those that are none are left out.
    fn tokens(&mut self, key: &str) -> Vec<u32> {
        let expected = "a token id or a list of token ids";
        let Some(Value::Array(list)) = self.get(key) else {
            return self.read(key, expected, whole).into_iter().collect();
        };
        if let Some(bad) = list.iter().find(|id| whole(id).is_none()) {
            self.fault(&format!("an entry of {key}"), bad, "a token id");
        }
        if list.len() > limits::STOP_TOKENS_MAX {
            let (count, most) = (list.len(), limits::STOP_TOKENS_MAX);
            (self.warn)(format!("{}: {key} has {count} entries; the first {most} are used", self.file));
        }
        list.iter().take(limits::STOP_TOKENS_MAX).filter_map(whole).collect()
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

    /// The defaults and the warnings.
    fn parse(generation: Value, config: Value) -> (GenerationDefaults, Vec<String>) {
        let mut warnings = Vec::new();
        (GenerationDefaults::parse(Some(&generation), &config, &mut |line| warnings.push(line)), warnings)
    }

    fn good(generation: Value, config: Value) -> GenerationDefaults {
        let (defaults, warnings) = parse(generation, config);
        assert!(warnings.is_empty(), "{warnings:?}");
        defaults
    }

    #[test]
    fn end_tokens_are_those_of_all_and_the_begin_token_is_the_first() {
        let all = good(json!({"eos_token_id": [5, 6]}), json!({"eos_token_id": 2, "bos_token_id": 1}));
        assert_eq!((all.eos_tokens, all.bos_token), (vec![5, 6, 2], Some(1)));
        let nested = json!({"eos_token_id": [2, 6], "bos_token_id": 3, "text_config": {"eos_token_id": 4}});
        let mut all = good(json!({"eos_token_id": 6}), nested);
        all.add_eos(Some(4));
        all.add_eos(Some(9));
        all.add_eos(None);
        assert_eq!((all.eos_tokens, all.bos_token), (vec![6, 2, 4, 9], Some(3)));
        let nested = json!({"eos_token_id": null, "text_config": {"eos_token_id": 9, "bos_token_id": 8}});
        let all = good(json!({}), nested);
        assert_eq!((all.eos_tokens, all.bos_token), (vec![9], Some(8)));
        assert_eq!(good(json!({}), json!({})), GenerationDefaults::default());
    }

    #[test]
    fn greedy_unless_the_model_says_sample() {
        let of = |value| good(value, json!({})).temperature_or_greedy();
        assert_eq!(of(json!({"temperature": 0.7})), 0.0);
        assert_eq!(of(json!({"temperature": 0.7, "do_sample": false})), 0.0);
        assert_eq!(of(json!({"temperature": 0.7, "do_sample": true})), 0.7);
        assert_eq!(of(json!({"do_sample": true})), 1.0);
    }

    #[test]
    fn values_are_read() {
        let text = r#"{"do_sample": true, "temperature": 0.6, "top_k": 20.0, "top_p": 0.95, "min_p": 0, "max_length": 4096,
            "repetition_penalty": 1.05, "max_new_tokens": 2048, "pad_token_id": -1}"#;
        let all = good(serde_json::from_str(text).expect("JSON"), json!({}));
        assert_eq!((all.top_k, all.top_p, all.min_p), (Some(20), Some(0.95), Some(0.0)));
        assert_eq!((all.repetition_penalty, all.max_new_tokens), (Some(1.05), Some(2048)));
    }

    #[test]
    fn nonsense_is_left_out_alone_and_its_warning_names_key_and_value() {
        let sound = json!({"eos_token_id": 2, "bos_token_id": 1, "temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1,
            "repetition_penalty": 1.5, "max_new_tokens": 7, "do_sample": true});
        let cases = [
            (json!({"eos_token_id": -1}), "-1"),
            (json!({"eos_token_id": "2"}), "\"2\""),
            (json!({"eos_token_id": 4294967296u64}), "4294967296"),
            (json!({"eos_token_id": {"a": 1}}), "an object"),
            (json!({"bos_token_id": 1.5}), "1.5"),
            (json!({"bos_token_id": -1}), "-1"),
            (json!({"temperature": "hot"}), "\"hot\""),
            (json!({"temperature": "NaN"}), "\"NaN\""),
            (json!({"temperature": -0.5}), "-0.5"),
            (json!({"temperature": 1e300}), "1e+300"),
            (json!({"top_k": -1}), "-1"),
            (json!({"top_p": 0}), "0"),
            (json!({"top_p": 1.5}), "1.5"),
            (json!({"top_p": [0.5]}), "an array"),
            (json!({"min_p": 2}), "2"),
            (json!({"repetition_penalty": 0}), "0"),
            (json!({"max_new_tokens": {}}), "an object"),
            (json!({"do_sample": "yes"}), "\"yes\""),
        ];
        for (case, value) in cases {
            let key = case.as_object().and_then(|map| map.keys().next().cloned()).expect("one key");
            let (mut changed, mut without) = (sound.clone(), sound.clone());
            changed[&key] = case[&key].clone();
            without[&key] = Value::Null;
            let (all, warnings) = parse(changed, json!({}));
            assert_eq!(all, good(without, json!({})), "{case}");
            let [warning] = warnings.as_slice() else { panic!("{case}: {warnings:?}") };
            assert!(warning.starts_with(&format!("generation_config.json: {key} is {value}; ")), "{warning}");
        }
    }

    #[test]
    fn of_a_list_of_ids_the_good_ones_are_kept() {
        let (all, warnings) = parse(json!({"eos_token_id": [1, -1, 7, [2]]}), json!({"eos_token_id": 3}));
        assert_eq!((all.eos_tokens, warnings.len()), (vec![1, 7, 3], 1));
        assert!(warnings[0].contains("an entry of eos_token_id is -1"), "{warnings:?}");
        let (all, warnings) = parse(json!({"eos_token_id": [-1]}), json!({"eos_token_id": 3}));
        assert_eq!((all.eos_tokens, warnings.len()), (vec![3], 1), "config.json fills in");
        let long: Vec<usize> = (0..=limits::STOP_TOKENS_MAX).collect();
        let (all, warnings) = parse(json!({"eos_token_id": long}), json!({}));
        assert_eq!((all.eos_tokens.len(), warnings.len()), (limits::STOP_TOKENS_MAX, 1));
    }
}
