//! Frequencies of rotary embeddings, with the scalings that stretch a context.
//!
//! `rope_theta` and `rope_scaling` (older configs) or `rope_parameters` (newer) describe the same thing.

use super::config::Config;
use crate::error::{Error, Result};
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

    /// What the config says, for `dims` rotated elements and a context of `context` tokens.
    pub fn read(config: &Config, dims: usize, context: usize) -> Result<RotarySpec> {
        let new = config.value("rope_parameters").filter(|v| v.is_object());
        let scaling = new.or(config.value("rope_scaling").filter(|v| v.is_object()));
        let theta = match new.map(|v| config.within(v)) {
            Some(inner) => inner.optional_number("rope_theta")?,
            None => None,
        };
        let theta = match theta {
            Some(theta) if theta > 0.0 => theta,
            Some(_) => return Err(config.bad("rope_theta", "is not above 0")),
            None => config.positive("rope_theta", Some(THETA_DEFAULT))?,
        };
        let plain = RotarySpec::plain(theta, dims);
        let Some(scaling) = scaling.map(|v| config.within(v)) else { return plain.checked(config) };
        let kind = scaling.text("rope_type")?.or(scaling.text("type")?).unwrap_or("default");
        let spec = match kind {
            // Dynamic scaling begins beyond the original context, which an engine never leaves.
            "default" | "dynamic" => plain,
            "linear" => {
                let factor = scaling.positive("factor", None)? as f32;
                RotarySpec { inv_freq: plain.inv_freq.iter().map(|f| f / factor).collect(), ..plain }
            }
            "llama3" => llama3(plain, &scaling)?,
            "yarn" => yarn(theta, dims, context, &scaling)?,
            other => {
                return Err(Error::unsupported(format!(
                    "config.json: rope scaling \"{other}\" is not supported; there are default, dynamic, linear, llama3, yarn"
                ))
                .about(config.subject()));
            }
        };
        spec.checked(config)
    }
}

/// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
fn llama3(plain: RotarySpec, scaling: &Config) -> Result<RotarySpec> {
    let factor = scaling.positive("factor", None)?;
    let low = scaling.positive("low_freq_factor", None)?;
    let high = scaling.positive("high_freq_factor", None)?;
    let old = scaling.positive("original_max_position_embeddings", None)?;
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
fn yarn(theta: f64, dims: usize, context: usize, scaling: &Config) -> Result<RotarySpec> {
    let old = scaling.positive("original_max_position_embeddings", Some(context as f64))?;
    let factor = scaling.positive("factor", None)?;
    let fast = scaling.positive("beta_fast", Some(32.0))?;
    let slow = scaling.positive("beta_slow", Some(1.0))?;
    let magnitude = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
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
