//! What a model is: its hyper-parameters as data.

pub use crate::kernels::activation::Activation;
pub use crate::kernels::attention::{HeadNorms, Pairing, Temperature};

/// How RoPE's frequencies are changed to reach beyond the context of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// YaRN: fast pairs stay, slow ones are divided, a ramp lies between
    /// (Peng et al., arXiv 2309.00071).
    Yarn {
        /// The divisor of slow pairs.
        factor: f32,
        /// The context of training.
        original_context: usize,
        /// How much of the way from a divided pair to a fast one the ramp goes; mostly 1.
        extrapolation: f32,
        /// Multiplies turned queries and keys; the paper prescribes 1 + 0.1 · ln(factor).
        magnitude: f32,
        /// Turns within the original context from which on a pair is fast.
        beta_fast: f32,
        /// Turns up to which a pair is slow.
        beta_slow: f32,
    },
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which elements turn together.
    pub pairing: Pairing,
    /// Leading elements of a head that turn; the others stay.
    pub dims: usize,
    /// The base of the frequencies.
    pub base: f32,
    /// The change for long contexts.
    pub scaling: Scaling,
    /// Multiplies turned queries and keys, beside what the scaling prescribes.
    pub magnitude: f32,
}

/// Which tensors hold divisors of RoPE's frequencies, one for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divisors {
    /// None are known to the architecture.
    None,
    /// `rope_freqs.weight`, if the file has it (Llama 3).
    Always,
    /// `rope_factors_short.weight` and `rope_factors_long.weight` (Phi-3).
    ByContext {
        /// The file says that it has them.
        required: bool,
    },
}

/// The norm of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Divided by the root of the mean square.
    Rms,
    /// The mean is taken off first; there may be a bias.
    Layer,
}

/// What differs between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The newest keys, its own among them, that a position sees; all where there is no window.
    pub window: Option<usize>,
    /// Which of [`Spec::ropes`] turns its queries and keys, if any does.
    pub rope: Option<usize>,
}

/// How a layer's branches and norms hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The kind of all norms of the stream.
    pub norm: Norm,
    /// The name of the norm before the feed-forward branch, without its layer; none where branches
    /// read the stream as it is. (Attention's is `attn_norm`.)
    pub before: Option<&'static str>,
    /// Branches are normed before they are added to the stream.
    pub after: bool,
    /// Both branches read the same normed stream.
    pub parallel: bool,
}

/// A mixture of experts in place of the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Those of them that a token takes.
    pub used: usize,
    /// Elements between gate and down projection of one.
    pub ffn: usize,
    /// The weights of a token's experts sum to 1: the softmax is over them alone, not over all.
    pub normalised: bool,
    /// Multiplies those weights.
    pub scale: f32,
    /// Elements within the expert that every token takes, where there is one.
    pub shared: Option<usize>,
}

/// A decoder's hyper-parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The architecture's name, as in the file.
    pub architecture: &'static str,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Elements of the residual stream.
    pub width: usize,
    /// Decoder layers.
    pub layers: Vec<Layer>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements between gate and down projection.
    pub ffn: usize,
    /// The context that the model was made for.
    pub context: usize,
    /// The context of training, where a scaling of RoPE reaches beyond it.
    pub original_context: usize,
    /// Added to the mean square in norms.
    pub norm_eps: f32,
    /// Norms and branches of a layer.
    pub block: Block,
    /// Position embeddings of queries and keys.
    pub ropes: Vec<Rope>,
    /// Where divisors of their frequencies are.
    pub divisors: Divisors,
    /// The norms of query and key heads, before RoPE.
    pub head_norms: HeadNorms,
    /// Multiplies attention's scores.
    pub attention_scale: f32,
    /// Attention's scores go through `cap · tanh(score / cap)`.
    pub attention_cap: Option<f32>,
    /// Queries grow with their position.
    pub temperature: Option<Temperature>,
    /// Each query head has a score that no key has: it takes its share of the softmax.
    pub sinks: bool,
    /// Multiplies embeddings.
    pub embedding_scale: f32,
    /// Multiplies what branches add to the stream.
    pub residual_scale: f32,
    /// Multiplies logits.
    pub logit_scale: f32,
    /// Logits go through `cap · tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// The feed-forward activation.
    pub activation: Activation,
    /// The activation is of a gate and multiplies `up`; else it is of `up`.
    pub gated: bool,
    /// Experts in the feed-forward's place.
    pub experts: Option<Experts>,
    /// Biases and the like that a file of this architecture must have, by their names without a
    /// layer. Those of layers are in all.
    pub always: &'static [&'static str],
    /// Those that it may have. All others are refused: nobody has said what they would mean.
    pub optional: &'static [&'static str],
}

impl Spec {
    /// Whether a bias or the like has a meaning here.
    pub(super) fn knows(&self, tensor: &str) -> bool {
        self.always.contains(&tensor) || self.optional.contains(&tensor)
    }

    /// Query heads per key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Rows of queries, and of keys or values.
    pub fn head_rows(&self) -> [usize; 2] {
        [self.heads * self.head_dim, self.kv_heads * self.head_dim]
    }

    /// Keys beyond which a layer keeps nothing, in a context of so many.
    pub fn sees(&self, layer: usize, context: usize) -> usize {
        self.layers[layer].window.map_or(context, |window| window.min(context))
    }
}
