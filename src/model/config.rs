//! Reading `config.json`: typed values with limits, errors that name the key, old and new spellings.

use crate::backend::Activation;
use crate::error::{Error, Result};
use crate::limits;
use serde_json::Value;

/// A JSON object of a model's configuration, with the place it came from.
#[derive(Clone, Copy)]
pub struct Config<'a> {
    object: &'a Value,
    /// The whole file, of which `object` may be a part.
    root: &'a Value,
    /// Values of keys that the object does not have.
    defaults: Option<&'a Value>,
    subject: &'a str,
    context_asked: usize,
}

impl<'a> Config<'a> {
    /// The config of a model: the nested `text_config` when there is one (multimodal folders).
    pub fn new(root: &'a Value, subject: &'a str) -> Config<'a> {
        let object = match root.get("text_config") {
            Some(inner) if inner.is_object() => inner,
            _ => root,
        };
        Config { object, root, defaults: None, subject, context_asked: 0 }
    }

    /// The same with values for the keys that are absent.
    pub fn with_defaults(self, defaults: &'a Value) -> Config<'a> {
        Config { defaults: Some(defaults), ..self }
    }

    /// Whether the embedding is the output matrix. Of a model inside another one, what the outer says counts.
    fn tied(&self, default: bool) -> Result<bool> {
        let outer = Config { object: self.root, defaults: None, ..*self };
        let config = if self.is_inside() { &outer } else { self };
        config.flag("tie_word_embeddings", default)
    }

    /// The same for an engine whose context is to hold so many tokens; 0 = the model's own.
    pub fn for_context(self, tokens: usize) -> Config<'a> {
        Config { context_asked: tokens, ..self }
    }

    /// Tokens the engine's context is to hold; 0 = the model's own.
    pub fn context_asked(&self) -> usize {
        self.context_asked
    }

    /// The same source, another object.
    pub fn within(&self, object: &'a Value) -> Config<'a> {
        Config { object, defaults: None, ..*self }
    }

    /// An object under a key.
    pub fn object(&self, key: &str) -> Option<Config<'a>> {
        self.value(key).filter(|value| value.is_object()).map(|value| self.within(value))
    }

    /// What the values stand in: a GGUF file has them under other names.
    fn file(&self) -> &'static str {
        if self.subject.ends_with(".gguf") { "config.json made of GGUF metadata" } else { "config.json" }
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        let found = found.to_string();
        let short: String = found.chars().take(80).collect();
        Error::format(format!("{}: `{key}` is {short}, expected {expected}", self.file())).about(self.subject)
    }

    /// Whether one of its values is an object.
    pub fn has_objects(&self) -> bool {
        self.object.as_object().is_some_and(|object| object.values().any(Value::is_object))
    }

    /// An error about a key.
    pub fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::format(format!("{}: `{key}` {problem}", self.file())).about(self.subject)
    }

    /// A key's value, or the default for a key that is absent. `null` is no value, and no default takes its place.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        let found = self.object.get(key).or_else(|| self.defaults?.get(key));
        found.filter(|v| !v.is_null())
    }

    /// An integer in `1..=max`, or an error naming the key when it is absent.
    pub fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.size_of(&[key], max)
    }

    /// As [`Config::size`], under the first of several spellings.
    pub fn size_of(&self, keys: &[&str], max: usize) -> Result<usize> {
        for key in keys {
            if let Some(n) = self.optional_size(key, max)? {
                return Ok(n);
            }
        }
        Err(self.bad(keys[0], "is missing"))
    }

    /// An integer in `1..=max`, if the key is there.
    pub fn optional_size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        match self.optional_count(key, max)? {
            Some(0) => Err(self.bad(key, "is 0, expected at least 1")),
            n => Ok(n),
        }
    }

    /// An integer in `0..=max`, if the key is there.
    pub fn optional_count(&self, key: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number =
            value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
        match number.and_then(|n| usize::try_from(n).ok()) {
            Some(n) if n <= max => Ok(Some(n)),
            Some(n) => Err(self.bad(key, format_args!("is {n}, more than the limit of {max}"))),
            None => Err(self.wrong(key, value, "a whole number")),
        }
    }

    /// A finite number, if the key is there.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_f64() {
            Some(n) if n.is_finite() => Ok(Some(n)),
            _ => Err(self.wrong(key, value, "a number")),
        }
    }

    /// A number above zero.
    pub fn positive(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match self.optional_number(key)?.or(default) {
            Some(n) if n > 0.0 => Ok(n),
            Some(n) => Err(self.bad(key, format_args!("is {n}, expected more than 0"))),
            None => Err(self.bad(key, "is missing")),
        }
    }

    /// The epsilon of a norm.
    pub fn eps(&self, key: &str, default: f64) -> Result<f32> {
        match self.positive_f32(key, Some(default))? {
            eps if eps < 1.0 => Ok(eps),
            eps => Err(self.bad(key, format_args!("is {eps}, expected less than 1"))),
        }
    }

    /// A factor, which may be of either sign.
    pub fn factor(&self, key: &str, default: f64) -> Result<f32> {
        match self.optional_number(key)?.unwrap_or(default) as f32 {
            factor if factor.is_finite() => Ok(factor),
            factor => Err(self.bad(key, format_args!("is {factor}, which is no number of 32 bits"))),
        }
    }

    /// As [`Config::positive`], in 32 bits.
    pub fn positive_f32(&self, key: &str, default: Option<f64>) -> Result<f32> {
        match self.positive(key, default)? as f32 {
            number if number > 0.0 && number.is_finite() => Ok(number),
            number => Err(self.bad(key, format_args!("is {number}, which is no number above 0 of 32 bits"))),
        }
    }

    /// How many elements of a head rotate: `partial_rotary_factor` of them, or what the other keys say.
    pub fn rotary_dims(&self, keys: &[&str], head_dim: usize, default: f64) -> Result<usize> {
        let nested = self.object("rope_parameters");
        let mut factor = default;
        for key in keys {
            let inside = nested.map(|object| object.optional_number(key)).transpose()?.flatten();
            if let Some(given) = self.optional_number(key)?.or(inside) {
                factor = given;
                break;
            }
        }
        let dims = (head_dim as f64 * factor) as usize;
        if !(factor > 0.0 && factor <= 1.0) || dims < 2 || !dims.is_multiple_of(2) {
            return Err(
                self.bad(keys[0], format_args!("is {factor}, which rotates {dims} of {head_dim} elements of a head"))
            );
        }
        Ok(dims)
    }

    /// A list of so many numbers above zero.
    pub fn numbers(&self, key: &str, count: usize) -> Result<Vec<f64>> {
        let found = self.value(key).unwrap_or(&Value::Null);
        let all = found.as_array().filter(|all| all.len() == count);
        let all: Option<Vec<f64>> = all.and_then(|all| all.iter().map(|n| n.as_f64().filter(|&n| n > 0.0)).collect());
        all.ok_or_else(|| self.wrong(key, found, &format!("a list of {count} numbers above 0")))
    }

    /// A boolean with a default.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    /// A string, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// A list of layer indices.
    pub fn layer_list(&self, key: &str) -> Result<Vec<usize>> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let wrong = || self.wrong(key, value, "a list of layer numbers");
        let list = value.as_array().ok_or_else(wrong)?;
        if list.len() > limits::LAYERS_MAX {
            return Err(self.bad(key, format_args!("names {} layers, the limit is {}", list.len(), limits::LAYERS_MAX)));
        }
        list.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)).collect()
    }

    /// Demands that `a` be a multiple of `b`.
    pub fn divisible(&self, key: &str, a: usize, by: &str, b: usize) -> Result<()> {
        if a.is_multiple_of(b) {
            Ok(())
        } else {
            Err(self.bad(key, format_args!("is {a}, not a multiple of `{by}` = {b}")))
        }
    }

    /// The activation function under a key, by the names that transformers has for it.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        match self.text(key)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::Gelu),
            "relu2" => Ok(Activation::Relu2),
            other => Err(Error::unsupported(format!(
                "config.json: `{key}` is \"{other}\"; there are silu, gelu, gelu_pytorch_tanh and relu2"
            ))
            .about(self.subject)),
        }
    }

    /// A soft cap, if there is one.
    pub fn cap(&self, key: &str) -> Result<Option<f32>> {
        self.value(key).map(|_| self.positive_f32(key, None)).transpose()
    }

    /// Whether it is of a model inside another one.
    pub fn is_inside(&self) -> bool {
        !std::ptr::eq(self.object, self.root)
    }

    /// What no kernel does.
    pub fn refused(&self, what: &str) -> Error {
        Error::unsupported(format!("{}: {what} is not supported", self.file())).about(self.subject)
    }

    /// Where the config came from, for messages.
    pub fn subject(&self) -> &'a str {
        self.subject
    }
}

/// The sizes nearly every family shares.
#[derive(Clone, Debug)]
pub struct ModelDims {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the dense feed-forward layer.
    pub intermediate: usize,
    /// Vocabulary, padding included.
    pub vocab: usize,
    /// Longest sequence the model was made for.
    pub context: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// `lm_head` is the embedding.
    pub tied: bool,
}

impl ModelDims {
    /// Reads and checks them. `tied` is the family's default for `tie_word_embeddings`.
    pub fn read(config: &Config, tied: bool) -> Result<ModelDims> {
        ModelDims::read_or(config, tied, None)
    }

    /// The same of a model whose heads have so many elements where the config does not say it.
    pub fn with_head_dim(config: &Config, tied: bool, head_dim: usize) -> Result<ModelDims> {
        ModelDims::read_or(config, tied, Some(head_dim))
    }

    fn read_or(config: &Config, tied: bool, head_dim: Option<usize>) -> Result<ModelDims> {
        let hidden = config.size("hidden_size", limits::WIDTH_MAX)?;
        let heads = config.size("num_attention_heads", limits::HEADS_MAX)?;
        let kv_heads = config.optional_size("num_key_value_heads", limits::HEADS_MAX)?.unwrap_or(heads);
        config.divisible("num_attention_heads", heads, "num_key_value_heads", kv_heads)?;
        let head_dim = match config.optional_size("head_dim", limits::HEAD_DIM_MAX)?.or(head_dim) {
            Some(dim) => dim,
            None => {
                config.divisible("hidden_size", hidden, "num_attention_heads", heads)?;
                hidden / heads
            }
        };
        if head_dim > limits::HEAD_DIM_MAX {
            return Err(config.bad("head_dim", format_args!("is {head_dim}, the limit is {}", limits::HEAD_DIM_MAX)));
        }
        if heads * head_dim > limits::WIDTH_MAX {
            return Err(config.bad(
                "num_attention_heads",
                format_args!("times head size is {}, more than the limit of {}", heads * head_dim, limits::WIDTH_MAX),
            ));
        }
        Ok(ModelDims {
            hidden,
            heads,
            kv_heads,
            head_dim,
            layers: config.size("num_hidden_layers", limits::LAYERS_MAX)?,
            intermediate: config.size("intermediate_size", limits::WIDTH_MAX)?,
            vocab: config.size("vocab_size", limits::VOCAB_MAX)?,
            context: config.size("max_position_embeddings", limits::CONTEXT_MAX)?,
            eps: config.eps("rms_norm_eps", 1e-6)?,
            tied: config.tied(tied)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_nonsense_is_an_error_that_names_its_key() {
        let good = json!({"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64,
            "vocab_size": 100, "max_position_embeddings": 64});
        assert!(ModelDims::read(&Config::new(&good, "test"), false).is_ok());
        let cases = [
            ("num_attention_heads", json!(0)),
            ("num_attention_heads", json!(5)),
            ("num_key_value_heads", json!(3)),
            ("hidden_size", json!(-1)),
            ("hidden_size", json!("32")),
            ("hidden_size", json!(1e30)),
            ("num_hidden_layers", json!(4_000_000_000u64)),
            ("vocab_size", json!(null)),
            ("rms_norm_eps", json!(0)),
            ("head_dim", json!(2000)),
            ("tie_word_embeddings", json!(1)),
        ];
        for (key, value) in cases {
            let mut bad = good.clone();
            bad[key] = value.clone();
            let error = ModelDims::read(&Config::new(&bad, "test"), false).expect_err(key);
            assert!(error.message.contains("config.json"), "{key} = {value}: {error}");
        }
    }
}
