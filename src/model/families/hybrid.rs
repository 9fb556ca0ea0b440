//! What families have in common whose layers keep a state.

use super::*;

/// The kind of each layer by its name in `layer_types`; `None` where the config has no such list.
pub(super) fn layer_kinds<T: Copy>(config: &Config, layers: usize, known: &[(&str, T)]) -> Result<Option<Vec<T>>> {
    let Some(types) = config.value("layer_types") else { return Ok(None) };
    let wrong = || {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        config.bad("layer_types", format_args!("is not a list of {layers} names out of {}", names.join(", ")))
    };
    let kind =
        |t: &Value| known.iter().find(|(name, _)| t.as_str() == Some(name)).map(|(_, kind)| *kind).ok_or_else(wrong);
    let types = types.as_array().filter(|types| types.len() == layers).ok_or_else(wrong)?;
    types.iter().map(kind).collect::<Result<_>>().map(Some)
}

/// Keys of a config that describe a state space.
pub(super) struct Mamba2Keys {
    pub heads: &'static str,
    pub head_dim: &'static str,
    pub state: &'static str,
    pub groups: &'static str,
    pub kernel: &'static str,
    pub conv_bias: &'static str,
    pub bias: &'static str,
}

/// As most configs have them.
pub(super) static MAMBA_KEYS: Mamba2Keys = Mamba2Keys {
    heads: "mamba_n_heads",
    head_dim: "mamba_d_head",
    state: "mamba_d_state",
    groups: "mamba_n_groups",
    kernel: "mamba_d_conv",
    conv_bias: "mamba_conv_bias",
    bias: "mamba_proj_bias",
};

/// Tensors of a state space inside a layer, named as in Bamba.
pub(super) static MAMBA_NAMES: RecurrenceNames = RecurrenceNames {
    q: "mamba.in_proj",
    k: "mamba.in_proj",
    v: "mamba.in_proj",
    gate: "mamba.in_proj",
    step: "mamba.in_proj",
    part: "",
    conv: "mamba.conv1d",
    step_bias: "mamba.dt_bias",
    decay: "mamba.A_log",
    skip: "mamba.D",
    norm: "mamba.norm",
    out: "mamba.out_proj",
};

/// A state space (Mamba 2) of `width` elements, whose result is gated, then normed in as many parts as it has groups.
pub(super) fn mamba2(
    config: &Config,
    keys: &Mamba2Keys,
    width: usize,
    eps: f32,
    names: &'static RecurrenceNames,
) -> Result<Recurrence> {
    let heads = config.size(keys.heads, limits::HEADS_MAX)?;
    let head_dim = match config.value(keys.head_dim) {
        Some(Value::String(auto)) if auto == "auto" => width / heads,
        _ => config.size(keys.head_dim, limits::WIDTH_MAX)?,
    };
    if heads * head_dim != width {
        let problem = format_args!("is {heads}, of {head_dim} elements each, but the state space has {width}");
        return Err(config.bad(keys.heads, problem));
    }
    let groups = config.size(keys.groups, limits::HEADS_MAX)?;
    config.divisible(keys.heads, heads, keys.groups, groups)?;
    let state = config.size(keys.state, limits::HEAD_DIM_MAX)?;
    checked(
        config,
        Recurrence {
            rule: RecurrenceRule::StateSpace,
            k_heads: groups,
            tiled: false,
            k_dim: state,
            v_heads: heads,
            v_dim: head_dim,
            kernel: config.size(keys.kernel, limits::CONV_KERNEL_MAX)?,
            conv_bias: config.flag(keys.conv_bias, true)?,
            bias: config.flag(keys.bias, false)?,
            inputs: RecurrenceInputs::GateFirst,
            scales: [1.0; 5],
            steps: step_limits(config)?,
            whole_decay: false,
            norm: GatedNorm { groups, shared: false, gate_last: false, eps },
            names,
        },
    )
}

/// Refuses one whose rows are wider than any.
pub(super) fn checked(config: &Config, recurrence: Recurrence) -> Result<Recurrence> {
    let (k, v) = recurrence.widths();
    match 2 * k + 2 * v + 2 * recurrence.v_heads > limits::WIDTH_MAX {
        true => {
            Err(config
                .bad("the sizes of linear attention", format_args!("make rows of more than {}", limits::WIDTH_MAX)))
        }
        false => Ok(recurrence),
    }
}

/// Bounds of a step: a list of two numbers, of which infinity is written in more ways than one.
fn step_limits(config: &Config) -> Result<[f32; 2]> {
    let Some(value) = config.value("time_step_limit") else { return Ok([0.0, f32::INFINITY]) };
    let wrong = || config.bad("time_step_limit", "is not a list of two numbers, the smaller first");
    let number = |v: &Value| match v.as_f64() {
        Some(number) => Ok(number as f32),
        // A bare infinity is read as null.
        None if v.is_null() => Ok(f32::INFINITY),
        None => match v.get("__float__").or(Some(v)).and_then(Value::as_str) {
            Some("Infinity" | "inf") => Ok(f32::INFINITY),
            _ => Err(wrong()),
        },
    };
    match value.as_array().map(Vec::as_slice) {
        Some([least, most]) => match [number(least)?, number(most)?] {
            [least, most] if least >= 0.0 && least <= most => Ok([least, most]),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}
