//! Frequencies of rotary embeddings, with the scalings that stretch a context.
//!
//! `rope_theta` and `rope_scaling` (older configs) or `rope_parameters` (newer) describe the same thing.

use super::config::Config;
use crate::error::{Error, Result};
use crate::limits;
use std::f64::consts::PI;

/// Base when the config names none.
const THETA_DEFAULT: f64 = 10_000.0;

/// A rotary embedding: `inv_freq[i]` radians a position for pair i, cosines and sines times `scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct RotarySpec {
    /// `[dims / 2]`.
    pub inv_freq: Vec<f32>,
    /// Factor on cosines and sines (YaRN's attention factor).
    pub scale: f32,
}

impl RotarySpec {
    /// Rotated elements of a head.
    pub fn dims(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// The plain embedding: theta^(-2i / dims).
    pub fn plain(theta: f64, dims: usize) -> RotarySpec {
        let inv_freq = (0..dims / 2).map(|i| theta.powf(-2.0 * i as f64 / dims as f64) as f32).collect();
        RotarySpec { inv_freq, scale: 1.0 }
    }

    /// Refuses frequencies that no number of a config should lead to.
    pub fn checked(self, config: &Config) -> Result<RotarySpec> {
        if self.scale.is_finite() && self.inv_freq.iter().all(|f| f.is_finite()) {
            return Ok(self);
        }
        Err(config.bad("rope_theta", "or its scaling leads to rotary frequencies that are no finite numbers"))
    }
}

/// What a config says of positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// The embedding.
    pub spec: RotarySpec,
    /// Tokens of a context that nobody asked for otherwise.
    pub context: usize,
    /// Most tokens of a context.
    pub context_max: usize,
    /// The context that the frequencies were chosen for; 0 where they are the same for every context.
    pub chosen_for: usize,
}

impl Rotary {
    /// What the config says, for `dims` rotated elements and `max_position_embeddings` of `context`.
    ///
    /// How far a scaling reaches is not always in `max_position_embeddings`: model cards advise to add a scaling and leave that
    /// value as it is, while other configs have the extended one. So it is the larger of that value and of
    /// `original_max_position_embeddings` (by default that value) times `factor`. YaRN's frequencies hold for every length, so
    /// all of it is the context by default. Beyond `max_position_embeddings`, linear and dynamic scaling serve who asks.
    ///
    /// Dynamic scaling makes transformers choose the frequencies by the longest sequence of a batch, anew when it grows: then a
    /// token would depend on its neighbours. Here the context of the engine decides, once: plain up to
    /// `max_position_embeddings`, beyond that the frequencies transformers has for a sequence as long as the context.
    pub fn read(config: &Config, dims: usize, context: usize) -> Result<Rotary> {
        let [old, new] = ["rope_scaling", "rope_parameters"].map(|key| config.object(key));
        Rotary::of(config, [old, new], dims, context)
    }

    /// Of a model that knows no positions.
    pub fn none(context: usize) -> Rotary {
        let spec = RotarySpec { inv_freq: Vec::new(), scale: 1.0 };
        Rotary { spec, context, context_max: context, chosen_for: 0 }
    }

    /// The same for the layers of a type, where `rope_parameters` has an object for each type. An older config says the same of
    /// all types.
    pub fn read_for(config: &Config, layer_type: &str, dims: usize, context: usize) -> Result<Rotary> {
        match config.object("rope_parameters") {
            Some(all) if all.has_objects() => match all.object(layer_type) {
                Some(own) => Rotary::of(config, [None, Some(own)], dims, context),
                None => Err(config.bad("rope_parameters", format_args!("has nothing for {layer_type}"))),
            },
            _ => Rotary::read(config, dims, context),
        }
    }

    fn of(config: &Config, [old, new]: [Option<Config>; 2], dims: usize, context: usize) -> Result<Rotary> {
        if !dims.is_multiple_of(2) {
            return Err(config.bad("head_dim", format_args!("makes {dims} elements rotate, expected an even number")));
        }
        let scaling = scaling_of(old, new)?;
        let theta = theta(config, [scaling, new])?;
        let mut rotary = Rotary { spec: RotarySpec::plain(theta, dims), context, context_max: context, chosen_for: 0 };
        let Some(scaling) = scaling else { return rotary.checked(config) };
        if scaling.has_objects() {
            let message = "config.json: rotary parameters that differ by the type of a layer are not supported";
            return Err(Error::unsupported(message).about(config.subject()));
        }
        let original = original(config, &scaling, context)?;
        let reach = |factor: f64| reach(context, original, factor);
        match kind_of(&scaling)? {
            "default" => {}
            "linear" => {
                let factor = scaling.positive("factor", None)?;
                rotary.spec.inv_freq.iter_mut().for_each(|f| *f /= factor as f32);
                rotary.context_max = reach(factor);
            }
            // Of one base for every context, whatever its name says.
            "dynamic" if scaling.value("alpha").is_some() => {
                let alpha = scaling.positive("alpha", None)?;
                rotary.spec = RotarySpec::plain(stretched(theta, dims, alpha), dims);
            }
            "dynamic" => {
                let factor = scaling.positive("factor", None)?;
                rotary.context_max = reach(factor);
                let asked = config.context_asked().min(rotary.context_max);
                if asked > context {
                    rotary.spec =
                        RotarySpec::plain(dynamic_theta(theta, dims, factor, asked as f64 / context as f64), dims);
                    rotary.chosen_for = asked;
                }
            }
            // As GGUF files have the scaling of Llama 3: a divisor for each frequency.
            "factors" => {
                let factors = scaling.numbers("factors", dims / 2)?;
                rotary.spec.inv_freq.iter_mut().zip(factors).for_each(|(f, by)| *f = (f64::from(*f) / by) as f32);
            }
            // Configs have the extended context. transformers chooses the frequencies by the longest sequence of a batch; here
            // the context of the engine decides, once.
            "longrope" | "su" => {
                let asked = if config.context_asked() == 0 { context } else { config.context_asked().min(context) };
                let long = asked as f64 > original;
                rotary.spec = longrope(theta, dims, original, context, long, &scaling)?;
                if context as f64 > original {
                    rotary.chosen_for = if long { context } else { original as usize };
                }
            }
            // The whole head rotates, but only so many elements of it at all.
            "proportional" => {
                let rotated = scaling.rotary_dims(&["partial_rotary_factor"], dims, 1.0)?;
                rotary.spec = proportional(theta, dims, rotated);
            }
            // Its configs have the extended context.
            "llama3" => rotary.spec = llama3(rotary.spec, &scaling, original)?,
            "yarn" => {
                let factor = match scaling.optional_number("factor")? {
                    Some(_) => scaling.positive("factor", None)?,
                    None => context as f64 / original,
                };
                rotary.spec = yarn(theta, dims, original, factor, &scaling)?;
                rotary.context_max = reach(factor);
                rotary.context = rotary.context_max;
            }
            other => {
                return Err(Error::unsupported(format!(
                    "config.json: rope scaling \"{other}\" is not supported; there are default, dynamic, linear, llama3, longrope, proportional, yarn"
                ))
                .about(config.subject()));
            }
        }
        rotary.checked(config)
    }

    fn checked(self, config: &Config) -> Result<Rotary> {
        Ok(Rotary { spec: self.spec.checked(config)?, ..self })
    }
}

/// The object that counts: a scaling that was added to a config of the newer spelling does.
fn scaling_of<'a>(old: Option<Config<'a>>, new: Option<Config<'a>>) -> Result<Option<Config<'a>>> {
    let added = match &old {
        Some(old) if new.is_some() => kind_of(old)? != "default",
        _ => old.is_some(),
    };
    Ok(if added { old } else { new })
}

/// What DeepSeek's attention multiplies its scores with where positions are scaled: the square of YaRN's temperature for
/// `mscale_all_dim`, if that is there.
pub fn score_factor(config: &Config) -> Result<f64> {
    let Some(scaling) = scaling_of(config.object("rope_scaling"), config.object("rope_parameters"))? else {
        return Ok(1.0);
    };
    match scaling.optional_number("mscale_all_dim")? {
        Some(all) if all != 0.0 && kind_of(&scaling)? != "default" => {
            Ok(magnitude(scaling.positive("factor", None)?, all).powi(2))
        }
        _ => Ok(1.0),
    }
}

/// YaRN's temperature.
fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// The name of a scaling.
fn kind_of<'a>(scaling: &Config<'a>) -> Result<&'a str> {
    Ok(scaling.text("rope_type")?.or(scaling.text("type")?).unwrap_or("default"))
}

/// The base: of the first object that has one, else of the config itself.
fn theta(config: &Config, objects: [Option<Config>; 2]) -> Result<f64> {
    for object in objects.iter().flatten() {
        match object.optional_number("rope_theta")? {
            Some(theta) if theta > 0.0 => return Ok(theta),
            Some(_) => return Err(config.bad("rope_theta", "is not above 0")),
            None => {}
        }
    }
    config.positive("rope_theta", Some(THETA_DEFAULT))
}

/// Tokens the model was trained for before it was scaled. As in transformers, the config's own key goes before the scaling's.
fn original(config: &Config, scaling: &Config, context: usize) -> Result<f64> {
    const KEY: &str = "original_max_position_embeddings";
    match config.value(KEY) {
        Some(_) => config.positive(KEY, None),
        None => scaling.positive(KEY, Some(context as f64)),
    }
}

/// The context that a scaling reaches.
fn reach(context: usize, original: f64, factor: f64) -> usize {
    // Saturates; what is no number is 0.
    let scaled = (original * factor).round() as usize;
    context.max(scaled).min(limits::CONTEXT_MAX.max(context))
}

/// The base of a sequence that is `ratio` times as long as the plain context (bloc97 and emozilla 2023).
fn dynamic_theta(theta: f64, dims: usize, factor: f64, ratio: f64) -> f64 {
    stretched(theta, dims, factor * ratio - (factor - 1.0))
}

/// The base with which the longest wave is `by` times as long and the shortest as long as before.
fn stretched(theta: f64, dims: usize, by: f64) -> f64 {
    match dims {
        0..=2 => theta,
        _ => theta * by.powf(dims as f64 / (dims as f64 - 2.0)),
    }
}

/// LongRoPE (Ding et al. 2024, arXiv:2402.13753): a divisor for each frequency, one set up to the original context and another
/// beyond it, and a temperature on attention with both.
fn longrope(
    theta: f64,
    dims: usize,
    original: f64,
    context: usize,
    long: bool,
    scaling: &Config,
) -> Result<RotarySpec> {
    let factors = scaling.numbers(if long { "long_factor" } else { "short_factor" }, dims / 2)?;
    let stretch = match scaling.optional_number("factor")? {
        Some(_) => scaling.positive("factor", None)?,
        None => context as f64 / original,
    };
    let scale = match scaling.optional_number("attention_factor")? {
        Some(given) => given,
        None if stretch <= 1.0 => 1.0,
        None => (1.0 + stretch.ln() / original.ln()).sqrt(),
    };
    let inv_freq =
        factors.iter().enumerate().map(|(i, by)| (1.0 / (by * theta.powf(2.0 * i as f64 / dims as f64))) as f32);
    Ok(RotarySpec { inv_freq: inv_freq.collect(), scale: scale as f32 })
}

/// Rotation of the whole head in which only the first `rotated` elements' frequencies are not 0.
pub fn proportional(theta: f64, head_dim: usize, rotated: usize) -> RotarySpec {
    let mut spec = RotarySpec::plain(theta, head_dim);
    spec.inv_freq.iter_mut().skip(rotated / 2).for_each(|f| *f = 0.0);
    spec
}

/// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
fn llama3(plain: RotarySpec, scaling: &Config, old: f64) -> Result<RotarySpec> {
    let factor = scaling.positive("factor", None)?;
    let low = scaling.positive("low_freq_factor", None)?;
    let high = scaling.positive("high_freq_factor", None)?;
    if high <= low {
        return Err(scaling.bad("high_freq_factor", format_args!("is {high}, not above `low_freq_factor` = {low}")));
    }
    let stretch = |f: &f32| {
        let f = *f as f64;
        let wave = 2.0 * PI / f;
        let scaled = if wave > old / low {
            f / factor
        } else if wave < old / high {
            f
        } else {
            let smooth = (old / wave - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        };
        scaled as f32
    };
    Ok(RotarySpec { inv_freq: plain.inv_freq.iter().map(stretch).collect(), scale: 1.0 })
}

/// YaRN (Peng et al. 2023, arXiv:2309.00071): interpolation by wavelength, and a temperature on attention.
fn yarn(theta: f64, dims: usize, old: f64, factor: f64, scaling: &Config) -> Result<RotarySpec> {
    let fast = scaling.positive("beta_fast", Some(32.0))?;
    let slow = scaling.positive("beta_slow", Some(1.0))?;
    let scale = match scaling.optional_number("attention_factor")? {
        Some(given) => given,
        None => match (scaling.optional_number("mscale")?, scaling.optional_number("mscale_all_dim")?) {
            (Some(m), Some(all)) if m != 0.0 && all != 0.0 => magnitude(factor, m) / magnitude(factor, all),
            _ => magnitude(factor, 1.0),
        },
    };
    let dim_of = |rotations: f64| dims as f64 * (old / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (dim_of(fast), dim_of(slow));
    if scaling.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    let low = low.max(0.0);
    let mut high = high.min(dims as f64 - 1.0);
    if low == high {
        high += 0.001;
    }
    let inv_freq = (0..dims / 2)
        .map(|i| {
            let f = theta.powf(-2.0 * i as f64 / dims as f64);
            let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            (f / factor * slowed + f * (1.0 - slowed)) as f32
        })
        .collect();
    Ok(RotarySpec { inv_freq, scale: scale as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read_for(config: Value, asked: usize) -> Result<Rotary> {
        Rotary::read(&Config::new(&config, "test").for_context(asked), 8, 256)
    }

    fn read(config: Value) -> Rotary {
        read_for(config, 0).expect("good")
    }

    /// Default and longest context.
    fn contexts(scaling: Value) -> (usize, usize) {
        let rotary = read(json!({"rope_scaling": scaling}));
        (rotary.context, rotary.context_max)
    }

    #[test]
    fn a_scaling_extends_the_context_unless_the_config_has_the_extended_one() {
        assert_eq!(
            contexts(json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256})),
            (1024, 1024)
        );
        assert_eq!(
            contexts(json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})),
            (256, 256)
        );
        assert_eq!(
            contexts(json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})),
            (512, 512)
        );
        assert_eq!(contexts(json!({"type": "yarn", "original_max_position_embeddings": 64})), (256, 256));
        assert_eq!(contexts(json!({"type": "yarn", "factor": 2.0})), (512, 512));
        assert_eq!(contexts(json!({"type": "yarn", "factor": 0.5})), (256, 256));
        assert_eq!(contexts(json!({"type": "dynamic", "factor": 2.0})), (256, 512));
        assert_eq!(contexts(json!({"type": "linear", "factor": 3.0})), (256, 768));
        assert_eq!(
            contexts(json!({"type": "linear", "factor": 4, "original_max_position_embeddings": 64})),
            (256, 256)
        );
        assert_eq!(contexts(json!({"type": "default"})), (256, 256));
        let llama3 = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        assert_eq!(contexts(llama3), (256, 256));
        let outer = json!({"original_max_position_embeddings": 512, "rope_scaling": {"type": "yarn", "factor": 2,
            "original_max_position_embeddings": 256}});
        assert_eq!(read(outer).context, 1024, "the config's own key goes first");
    }

    #[test]
    fn an_absurd_factor_reaches_no_further_than_the_limit() {
        for factor in [1e9, 1e300, f64::MAX] {
            for kind in ["linear", "dynamic", "yarn"] {
                let config = json!({"rope_scaling": {"type": kind, "factor": factor}});
                if let Ok(rotary) = read_for(config, 0) {
                    assert_eq!(rotary.context_max, limits::CONTEXT_MAX);
                }
            }
        }
    }

    #[test]
    fn parameters_for_each_type_of_layer_are_not_taken_for_none() {
        let nested = json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}});
        assert!(read_for(nested, 0).expect_err("nested").message.contains("type of a layer"));
    }

    #[test]
    fn dynamic_scaling_depends_on_the_engines_context_and_nothing_else() {
        let config = json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}});
        let of = |asked| read_for(config.clone(), asked).expect("good");
        let plain = RotarySpec::plain(THETA_DEFAULT, 8);
        for asked in [0, 1, 256] {
            assert_eq!((of(asked).spec, of(asked).chosen_for), (plain.clone(), 0));
        }
        // base * (2 * 512 / 256 - 1)^(8 / 6), as transformers has it for a sequence of 512.
        let scaled = RotarySpec::plain(THETA_DEFAULT * 3f64.powf(8.0 / 6.0), 8);
        assert_eq!((of(512).spec, of(512).chosen_for), (scaled.clone(), 512));
        assert_eq!(of(1 << 20).spec, scaled, "more is refused later");
        assert_ne!(of(300).spec, of(400).spec);
    }

    #[test]
    fn a_scaling_added_to_a_newer_config_counts_and_keeps_the_base() {
        let new = json!({"rope_theta": 1e6, "rope_type": "default"});
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256});
        let both = read(json!({"rope_parameters": new, "rope_scaling": yarn}));
        let merged =
            json!({"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256});
        assert_eq!(both, read(json!({"rope_parameters": merged})));
        let other = json!({"rope_parameters": merged, "rope_scaling": {"type": "default"}});
        assert_eq!(both, read(other));
        assert_ne!(both.spec, read(json!({"rope_scaling": yarn})).spec, "another base");
    }
}
