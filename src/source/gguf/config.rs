//! The `config.json` that a GGUF file was made from, as far as a family reads it: from the metadata, and from which tensors
//! there are. Old spellings do; values go through the family's own checks afterwards.

use super::architectures::{Architecture, LocalBase, Windows};
use super::metadata::Metadata;
use super::names::ROUTER;
use crate::error::{Error, Result};
use crate::limits;
use crate::source::TensorInfo;
use serde_json::{Map, Value, json};

/// Divisors of the rotary frequencies, as tensors of a file.
#[derive(Debug, Default)]
pub struct RotaryFactors {
    /// What Llama 3's scaling leads to.
    pub all: Option<Vec<f32>>,
    /// LongRoPE's, beyond the original context.
    pub long: Option<Vec<f32>>,
    /// LongRoPE's, up to it.
    pub short: Option<Vec<f32>>,
}

impl RotaryFactors {
    /// Their tensors.
    pub const NAMES: [&'static str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
}

/// A config in the making.
pub struct Reading<'a> {
    architecture: &'a Architecture,
    metadata: Metadata<'a>,
    /// Those of all files, by the names they have there.
    tensors: &'a [&'a TensorInfo],
    config: Map<String, Value>,
}

impl Architecture {
    /// The config of a file.
    ///
    /// # Errors
    /// `Format` for what is missing or has another type; `Unsupported` for what no family has.
    pub fn config(&self, metadata: Metadata, tensors: &[&TensorInfo], factors: RotaryFactors) -> Result<Value> {
        let mut reading = Reading { architecture: self, metadata, tensors, config: Map::new() };
        reading.sizes()?;
        reading.norms()?;
        reading.biases();
        let local = reading.windows()?;
        reading.rope(factors, local)?;
        reading.network()?;
        for (key, name) in self.numbers {
            if let Some(number) = reading.number(key)? {
                reading.set(name, compact(number));
            }
        }
        (self.more)(&mut reading)?;
        Ok(Value::Object(reading.config))
    }
}

impl Reading<'_> {
    /// Sets a key of the config.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.config.insert(key.to_owned(), value.into());
    }

    /// The same, unless it is set.
    pub fn set_absent(&mut self, key: &str, value: impl Into<Value>) {
        self.config.entry(key).or_insert_with(|| value.into());
    }

    /// Whether there is a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|info| info.name == name)
    }

    /// A whole number of the metadata.
    pub fn whole(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.whole(&self.key(key))
    }

    /// The largest of a key's numbers, which may be one for each layer.
    pub fn largest(&self, key: &str) -> Result<Option<u64>> {
        let key = self.key(key);
        let numbers = self.metadata.numbers_or_one(&key)?;
        let Some(numbers) = numbers else { return Ok(None) };
        match numbers.iter().all(|n| n.fract() == 0.0 && (0.0..1e15).contains(n)) {
            true => Ok(numbers.into_iter().map(|n| n as u64).max()),
            false => Err(self.metadata.wrong(&key, "whole numbers")),
        }
    }

    /// A key's numbers, one for each layer.
    pub fn of_layers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let numbers = self.metadata.numbers_or_one(&self.key(key))?;
        Ok(numbers.filter(|numbers| numbers.len() as u64 >= self.layers()))
    }

    /// Layers of the model.
    pub fn layers(&self) -> u64 {
        let layers = self.config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
        layers.min(limits::LAYERS_MAX as u64)
    }

    /// What the config has under a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key)
    }

    /// Sets `name` to a number that has to be there.
    pub fn set_size(&mut self, name: &str, key: &str) -> Result<()> {
        let size = self.size(key)?;
        self.set(name, size);
        Ok(())
    }

    /// A number of the metadata.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.metadata.number(&self.key(key))?.map(shortest))
    }

    /// Demands that there be a whole number.
    pub fn required(&self, key: &str) -> Result<()> {
        self.size(key).map(|_| ())
    }

    /// Demands that there be a number.
    pub fn required_number(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| self.metadata.wrong(&self.key(key), "a number"))
    }

    /// A truth value that has to be there.
    pub fn required_flag(&self, key: &str) -> Result<bool> {
        let key = self.key(key);
        self.metadata.flag(&key)?.ok_or_else(|| self.metadata.wrong(&key, "true or false"))
    }

    /// Refuses a key that has another value than 0.
    pub fn refuse(&self, key: &str) -> Result<()> {
        let key = self.key(key);
        let none = match self.metadata.numbers_or_one(&key)? {
            None => true,
            Some(numbers) => numbers.iter().all(|&number| number == 0.0),
        };
        if none {
            return Ok(());
        }
        Err(self.unsupported(format!("{key} is there, which is not supported")))
    }

    /// A number in the rotary scaling, which has to have a key of the metadata.
    pub fn in_scaling(&mut self, key: &str, number: f64, needs: &str) -> Result<()> {
        self.required(needs)?;
        let original = self.whole(needs)?;
        let scaling = self.config.entry("rope_scaling").or_insert_with(|| json!({ "rope_type": "default" }));
        if let Some(scaling) = scaling.as_object_mut() {
            scaling.insert(key.to_owned(), number.into());
            scaling.entry("original_max_position_embeddings").or_insert_with(|| json!(original));
        }
        Ok(())
    }

    /// Sets a key of the rotary scaling, if there is one.
    pub fn set_in_scaling(&mut self, key: &str, value: impl Into<Value>) {
        if let Some(scaling) = self.config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
            scaling.insert(key.to_owned(), value.into());
        }
    }

    /// What the scores of Gemma 2 and 3 are scaled by. No key says it: in the model of so many layers it is the width of the
    /// stream divided by the heads, in all others that of a head.
    pub fn query_scale(&mut self, layers: u64) -> Result<()> {
        let n = |key: &str| self.config.get(key).and_then(Value::as_u64);
        let width = match n("num_hidden_layers") == Some(layers) {
            true => n("hidden_size").and_then(|hidden| hidden.checked_div(n("num_attention_heads")?)),
            false => n("head_dim"),
        };
        self.set("query_pre_attn_scalar", json!(width));
        Ok(())
    }

    /// Granite's factors: what the file leaves out is 1, and the scores are scaled as usual.
    pub fn granite(&mut self) -> Result<()> {
        if self.metadata.flag(&self.key("rope.scaling.finetuned"))? == Some(false) {
            return Err(self.unsupported("a Granite without rotary positions is not supported".to_owned()));
        }
        self.granite_factors()
    }

    /// The same, whether positions rotate or not.
    pub fn granite_factors(&mut self) -> Result<()> {
        self.required_number("logit_scale")?;
        for name in ["attention_multiplier", "embedding_multiplier", "residual_multiplier"] {
            if self.config.get(name).and_then(Value::as_f64) == Some(0.0) {
                self.config.remove(name);
            }
        }
        let head = self.config.get("head_dim").and_then(Value::as_f64).unwrap_or(1.0);
        self.set_absent("attention_multiplier", 1.0 / head.sqrt());
        Ok(())
    }

    /// Whether a layer has a tensor.
    pub fn any_has(&self, part: &str) -> bool {
        (0..self.layers()).any(|layer| self.has(&format!("blk.{layer}.{part}")))
    }

    /// A key of the metadata in full.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    /// A whole number that has to be there.
    pub fn size(&self, key: &str) -> Result<u64> {
        self.metadata.required(&self.key(key))
    }

    pub fn unsupported(&self, message: String) -> Error {
        let file = self.metadata.file;
        Error::unsupported(format!("{file}: {message}")).about(file)
    }

    fn sizes(&mut self) -> Result<()> {
        let (all, ahead) = (self.size("block_count")?, self.whole("nextn_predict_layers")?.unwrap_or(0));
        let heads = match self.largest("attention.head_count")? {
            Some(heads) => heads,
            None => self.size("attention.head_count")?,
        };
        let hidden = self.size("embedding_length")?;
        self.set("model_type", self.architecture.model_type);
        self.set("hidden_size", hidden);
        // The last ones guess tokens ahead.
        self.set("num_hidden_layers", all.saturating_sub(ahead));
        self.set("num_attention_heads", heads);
        self.set("num_key_value_heads", self.largest("attention.head_count_kv")?.unwrap_or(heads));
        self.set("max_position_embeddings", self.size("context_length")?);
        let table = self.tensors.iter().find(|info| info.name == "token_embd.weight");
        if let Some(&[vocab, _]) = table.map(|info| info.shape.as_slice()) {
            self.set("vocab_size", vocab);
        }
        let tied = !self.has("output.weight");
        self.set("tie_word_embeddings", tied);
        self.refuse("attention.clamp_kqv")?;
        match self.architecture.latent {
            true => self.latent_sizes(heads),
            false => self.head_sizes(hidden, heads),
        }
    }

    /// Elements of a head, and how many of them rotate.
    fn head_sizes(&mut self, hidden: u64, heads: u64) -> Result<()> {
        let head_dim = match self.whole("attention.key_length")? {
            Some(dim) => dim,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        self.set("head_dim", head_dim);
        let rotated = self.whole("rope.dimension_count")?.unwrap_or(head_dim);
        let other = |name: &str, n: u64| {
            let key = self.key(name);
            self.unsupported(format!("{key} is {n}, but heads have {head_dim} elements: not supported"))
        };
        if let Some(width) = self.whole("attention.value_length")?.filter(|&width| width != head_dim) {
            return Err(other("attention.value_length", width));
        }
        if rotated > head_dim || rotated != head_dim && !self.architecture.partial {
            return Err(other("rope.dimension_count", rotated));
        }
        if self.architecture.partial {
            self.set("partial_rotary_factor", share(rotated, head_dim));
        }
        Ok(())
    }

    /// The epsilon of the norms, under every name that families have for it.
    fn norms(&mut self) -> Result<()> {
        let (key, names): (_, &[&str]) = match self.architecture.centred {
            true => ("attention.layer_norm_epsilon", &["layer_norm_eps", "norm_epsilon", "norm_eps"]),
            false => ("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
        };
        let eps = self.required_number(key)?;
        names.iter().for_each(|name| self.set(name, eps));
        Ok(())
    }

    /// Which matrices have biases, as the first layer has them.
    fn biases(&mut self) {
        let there = |parts: &[&str]| parts.iter().any(|part| self.has(&format!("blk.0.{part}.bias")));
        let qkv = there(&["attn_q", "attn_qkv"]);
        let (out, mlp) = (there(&["attn_output"]), there(&["ffn_up"]));
        for (key, bias) in [
            ("attention_bias", qkv),
            ("qkv_bias", qkv),
            ("use_qkv_bias", qkv),
            ("attention_out_bias", out),
            ("mlp_bias", mlp),
            ("use_bias", qkv || mlp),
        ] {
            self.set(key, bias);
        }
    }

    /// The windows of the layers. Returns the base of the rotation there, if they have one of their own.
    fn windows(&mut self) -> Result<Option<f64>> {
        const KEY: &str = "attention.sliding_window";
        let window = self.whole(KEY)?.filter(|&window| window > 0);
        let base = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let (kind, own) = (self.architecture.windows, self.number("rope.freq_base_swa")?);
        if let Some(own) = own.filter(|&own| own != base && self.architecture.local_base.is_none()) {
            let key = self.key("rope.freq_base_swa");
            return Err(self.unsupported(format!("{key} is {own}, but {base} elsewhere: not supported")));
        }
        if let (Some(window), Windows::No) = (window, kind) {
            return Err(self.unsupported(format!("{} is {window}, which is not supported", self.key(KEY))));
        }
        if let Some(window) = window {
            self.set("sliding_window", window);
            self.set("use_sliding_window", true);
            if let Some(model_type) = self.architecture.windowed {
                self.set("model_type", model_type);
            }
        }
        let (Windows::AllBut(usual) | Windows::OfFamily(usual)) = kind else { return Ok(None) };
        if window.is_some() || matches!(kind, Windows::AllBut(_)) {
            let slides = self.pattern(usual)?;
            let name = |slides| if slides && window.is_some() { "sliding_attention" } else { "full_attention" };
            let types: Vec<&str> = slides.into_iter().map(name).collect();
            self.set("layer_types", types);
        }
        let usual = self.architecture.local_base.filter(|_| window.is_some()).map(|base_here| match base_here {
            LocalBase::Same => base,
            LocalBase::Usual => 10_000.0,
        });
        Ok(usual.map(|usual| own.unwrap_or(usual)))
    }

    /// Which layers slide: as the file lists them, or all but every n-th.
    fn pattern(&self, usual: u64) -> Result<Vec<bool>> {
        let key = self.key("attention.sliding_window_pattern");
        let layers = self.config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
        let layers = layers.min(limits::LAYERS_MAX as u64);
        let period = match self.metadata.numbers_or_one(&key)?.as_deref() {
            None => usual,
            Some(&[period]) if layers != 1 && period >= 0.0 => period as u64,
            Some(listed) if listed.len() as u64 >= layers => {
                return Ok(listed.iter().take(layers as usize).map(|&slides| slides != 0.0).collect());
            }
            Some(_) => return Err(self.metadata.wrong(&key, "a value for each layer")),
        };
        Ok((0..layers).map(|layer| period == 0 || layer % period < period - 1).collect())
    }

    /// Experts, or the width of the network.
    fn network(&mut self) -> Result<()> {
        let count = self.whole("expert_count")?.filter(|&count| count > 0);
        match (count, &self.architecture.experts) {
            (Some(count), Some(experts)) => {
                self.set("model_type", experts.model_type);
                self.experts(count)
            }
            (Some(count), None) if count > 1 => {
                let (key, model_type) = (self.key("expert_count"), self.architecture.model_type);
                Err(self.unsupported(format!("{key} is {count}, but {model_type} has no experts")))
            }
            _ => {
                let inner = match self.largest("feed_forward_length")? {
                    Some(inner) => inner,
                    None => self.size("feed_forward_length")?,
                };
                self.set("intermediate_size", inner);
                Ok(())
            }
        }
    }

    fn experts(&mut self, count: u64) -> Result<()> {
        let Some(experts) = &self.architecture.experts else { return Ok(()) };
        for name in ["num_local_experts", "num_experts", "n_routed_experts"] {
            self.set(name, count);
        }
        self.set("num_experts_per_tok", self.size("expert_used_count")?);
        let dense = self.largest("feed_forward_length")?.filter(|&n| n > 0);
        let own = self.whole("expert_feed_forward_length")?.filter(|&n| n > 0);
        let inner = own
            .or(dense)
            .ok_or_else(|| self.metadata.wrong(&self.key("expert_feed_forward_length"), "a whole number"))?;
        self.set("moe_intermediate_size", inner);
        self.set("intermediate_size", dense.unwrap_or(inner));
        let renormalised = self.metadata.flag(&self.key("expert_weights_norm"))?.unwrap_or(experts.renormalised);
        self.set("norm_topk_prob", renormalised);
        let gating = self.whole("expert_gating_func")?.filter(|&gating| gating != 0);
        if let Some(gating) = gating.filter(|&gating| gating != experts.gating && experts.gating != 0) {
            let key = self.key("expert_gating_func");
            return Err(self.unsupported(format!("{key} is {gating}, which is not supported")));
        }
        if !experts.grouped {
            let odd = |number: f64| number != 0.0 && number != 1.0;
            for key in ["expert_weights_scale", "expert_group_count"] {
                if let Some(number) = self.number(key)?.filter(|&number| odd(number)) {
                    return Err(self.unsupported(format!("{} is {number}, which is not supported", self.key(key))));
                }
            }
        }
        let layers = self.config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
        let routed = |layer: &u64| self.has(&format!("blk.{layer}.{ROUTER}.weight"));
        let dense: Vec<u64> = (0..layers.min(limits::LAYERS_MAX as u64)).filter(|layer| !routed(layer)).collect();
        self.set("mlp_only_layers", dense);
        Ok(())
    }

    /// Rotary base and scaling; `local`: the base of layers with a window, which are not scaled.
    fn rope(&mut self, factors: RotaryFactors, local: Option<f64>) -> Result<()> {
        let base = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let mut scaling = self.scaling(factors)?;
        let Some(local) = local else {
            self.set("rope_theta", base);
            if !scaling.is_empty() {
                self.set("rope_scaling", scaling);
            }
            return Ok(());
        };
        scaling.insert("rope_theta".into(), base.into());
        let sliding = json!({ "rope_type": "default", "rope_theta": local });
        self.set("rope_parameters", json!({ "full_attention": scaling, "sliding_attention": sliding }));
        Ok(())
    }

    /// The scaling of the rotary frequencies; empty where there is none.
    fn scaling(&self, factors: RotaryFactors) -> Result<Map<String, Value>> {
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?.unwrap_or("linear");
        let factor = self.number("rope.scaling.factor")?.or(self.number("rope.scale_linear")?);
        let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
        let mut scaling = Map::new();
        let kind = match (factors, factor) {
            (RotaryFactors { long: Some(long), short: Some(short), .. }, _) => {
                scaling.insert("long_factor".into(), long.into());
                scaling.insert("short_factor".into(), short.into());
                "longrope"
            }
            (RotaryFactors { all: Some(all), .. }, _) => {
                scaling.insert("factors".into(), all.into());
                "factors"
            }
            (_, None) if matches!(kind, "none" | "linear") => return Ok(scaling),
            _ if kind == "none" => return Ok(scaling),
            _ => kind,
        };
        scaling.insert("rope_type".into(), kind.into());
        scaling.extend(factor.map(|factor| ("factor".to_owned(), factor.into())));
        let original = self.whole("rope.scaling.original_context_length")?;
        scaling.extend(original.map(|n| ("original_max_position_embeddings".to_owned(), n.into())));
        for (key, name) in [
            ("rope.scaling.yarn_beta_fast", "beta_fast"),
            ("rope.scaling.yarn_beta_slow", "beta_slow"),
            ("rope.scaling.yarn_log_multiplier", "mscale_all_dim"),
            ("rope.scaling.yarn_attn_factor", "attention_factor"),
        ] {
            let number = self.number(key)?;
            scaling.extend(number.map(|number| (name.to_owned(), number.into())));
        }
        if let Some(all) = scaling.get("mscale_all_dim").and_then(Value::as_f64) {
            // DeepSeek's files have a tenth of it, and its models both of the same value; the other one is 1 in all others.
            let (all, other) = if self.architecture.latent { (10.0 * all, 10.0 * all) } else { (all, 1.0) };
            scaling.insert("mscale_all_dim".into(), shortest(all).into());
            scaling.insert("mscale".into(), shortest(other).into());
        }
        // LongRoPE's own factor; of the others a factor on what is usual, where a config has the product.
        if let Some(own) = self.number("rope.scaling.attn_factor")?.filter(|&own| own != 1.0 || kind == "longrope") {
            let usual = if kind == "yarn" { 1.0 + 0.1 * factor.unwrap_or(1.0).ln() } else { 1.0 };
            scaling.insert("attention_factor".into(), (own * usual).into());
        }
        Ok(scaling)
    }
}

/// A whole number as such: counts are read from floats too.
fn compact(number: f64) -> Value {
    match number.fract() == 0.0 && (0.0..1e9).contains(&number) {
        true => (number as u64).into(),
        false => number.into(),
    }
}

/// The share of `all` that `part` is, so that so many come out again.
fn share(part: u64, all: u64) -> f64 {
    let share = part as f64 / all as f64;
    match (all as f64 * share) as u64 == part {
        true => share,
        false => share.next_up(),
    }
}

/// The number that an f32 was written for: 1e-5 and not 9.999999747378752e-6.
fn shortest(number: f64) -> f64 {
    let narrow = number as f32;
    match f64::from(narrow) == number {
        true => narrow.to_string().parse().unwrap_or(number),
        false => number,
    }
}
