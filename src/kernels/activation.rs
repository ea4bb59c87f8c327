//! The functions between the matrices of a feed-forward layer. They stand in `activation.wgsl` too.

/// The function of the gate, which then multiplies `up`; of `up` itself where there is no gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)` by its approximation with tanh (Hendrycks and Gimpel, arXiv 1606.08415).
    Gelu,
    /// gpt-oss: the gate at most 7, `up` from -7 to 7; `gate · sigmoid(1.702 gate) · (up + 1)`.
    ClampedSwish,
}

/// Where gpt-oss clamps.
const CLAMP: f32 = 7.0;
/// How steep its sigmoid is.
const STEEP: f32 = 1.702;

impl Activation {
    /// Its name in shaders.
    pub(super) fn flag(self) -> &'static str {
        match self {
            Activation::Silu => "SILU",
            Activation::Gelu => "GELU",
            Activation::ClampedSwish => "CLAMPED_SWISH",
        }
    }

    /// The gate's function times `up`.
    pub fn gate(self, gate: f32, up: f32) -> f32 {
        match self {
            Activation::Silu | Activation::Gelu => self.of(gate) * up,
            Activation::ClampedSwish => {
                // Not `min`, which drops what is no number; `clamp` keeps it.
                let gate = if gate > CLAMP { CLAMP } else { gate };
                gate * sigmoid(STEEP * gate) * (up.clamp(-CLAMP, CLAMP) + 1.0)
            }
        }
    }

    /// The function alone.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::ClampedSwish => self.gate(x, 0.0),
        }
    }
}

/// 1 / (1 + e⁻ˣ).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `cap · tanh(x / cap)`.
pub fn capped(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}
