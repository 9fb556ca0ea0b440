//! Operations that keep a state of fixed size instead of what every token leaves.

/// A convolution of each channel over the last tokens, between two products: `out(c * conv(b * x))`.
#[derive(Clone, Copy, Debug)]
pub struct ShortConv {
    /// Channels.
    pub channels: usize,
    /// Tokens that an output sees, its own included.
    pub kernel: usize,
    /// The projections and the convolution have biases.
    pub bias: bool,
    /// Its tensors.
    pub names: &'static ShortConvNames,
}

impl ShortConv {
    /// Elements of its state: the inputs that the next output sees.
    pub fn state(&self) -> usize {
        (self.kernel - 1) * self.channels
    }
}

/// Names of the tensors of a short convolution.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ShortConvNames {
    pub b: &'static str,
    pub c: &'static str,
    pub x: &'static str,
    pub conv: &'static str,
    pub out: &'static str,
}

/// What a token does to the state of a head, a matrix of keys by values that decays first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecurrenceRule {
    /// What the state has for the key moves towards the value by a learned part (arXiv:2412.06464). Keys and queries have length 1.
    Delta,
    /// The value is added for the key, times the step; the input has a path of its own to the result (arXiv:2405.21060).
    StateSpace,
}

/// How the inputs of a recurrence are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecurrenceInputs {
    /// Queries, keys and values; gates; steps; parts.
    Apart,
    /// Gates, values, keys, queries and steps, where they are one tensor.
    GateFirst,
    /// Two tensors, grouped by key heads: of each its query, its key, its values and their gates; and its parts and steps.
    ByKeyHead,
    /// As [`RecurrenceInputs::Apart`], but parts and steps are one tensor, grouped by key heads.
    StepsByKeyHead,
}

/// The norm of a recurrence's result and the gate on it, which passes a SiLU.
#[derive(Clone, Copy, Debug)]
pub struct GatedNorm {
    /// Parts of a row that are normed apart; 0 = there is no norm.
    pub groups: usize,
    /// All parts have the same gains.
    pub shared: bool,
    /// The gate comes after the norm.
    pub gate_last: bool,
    /// Epsilon.
    pub eps: f32,
}

/// A linear recurrence behind a short convolution of its queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Recurrence {
    /// What a token does to the state.
    pub rule: RecurrenceRule,
    /// Heads of queries and of keys; each serves as many heads of values as the others.
    pub k_heads: usize,
    /// Every `k_heads`-th head of values has the same key head, instead of consecutive ones.
    pub tiled: bool,
    /// Elements of a query and of a key.
    pub k_dim: usize,
    /// Heads of values, each with a state.
    pub v_heads: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Tokens that an output of the convolution sees, its own included.
    pub kernel: usize,
    /// The convolution has a bias.
    pub conv_bias: bool,
    /// The projections have biases.
    pub bias: bool,
    /// How they are stored.
    pub inputs: RecurrenceInputs,
    /// Factors on gates, values, keys, queries and steps.
    pub scales: [f32; 5],
    /// Least and largest step.
    pub steps: [f32; 2],
    /// The decay is stored as it is, not as the logarithm of its opposite.
    pub whole_decay: bool,
    /// The norm and the gate.
    pub norm: GatedNorm,
    /// Its tensors.
    pub names: &'static RecurrenceNames,
}

impl Recurrence {
    /// Elements of a row of queries or keys, and of values.
    pub fn widths(&self) -> (usize, usize) {
        (self.k_heads * self.k_dim, self.v_heads * self.v_dim)
    }

    /// Elements of the state of the convolution.
    pub fn conv_state(&self) -> usize {
        let (k, v) = self.widths();
        (self.kernel - 1) * (2 * k + v)
    }

    /// Elements of its state: that of the convolution, then a matrix for each head of values.
    pub fn state(&self) -> usize {
        self.conv_state() + self.v_heads * self.k_dim * self.v_dim
    }

    /// Where queries, keys and values begin among the channels of the convolution.
    pub fn channels(&self) -> [usize; 3] {
        let (k, v) = self.widths();
        match self.inputs {
            RecurrenceInputs::GateFirst => [v + k, v, 0],
            _ => [0, k, 2 * k],
        }
    }
}

/// Names of the tensors of a recurrence. Those of its vectors are written in full.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RecurrenceNames {
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub gate: &'static str,
    pub step: &'static str,
    /// Of the delta rule: the part by which a value moves.
    pub part: &'static str,
    pub conv: &'static str,
    pub step_bias: &'static str,
    pub decay: &'static str,
    /// Of state spaces: the path of the input to the result.
    pub skip: &'static str,
    pub norm: &'static str,
    pub out: &'static str,
}
