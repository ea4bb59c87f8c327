//! The one table of GGUF tensor types: ids, names, block sizes and, for the types that are
//! supported, how a block's bytes are laid out on the GPU.
//!
//! Block sizes are never remembered numbers: each is the sum of the block's fields, computed
//! at compile time. Sources: the GGUF specification and the size table of gguf-py 0.19.

use std::fmt;

use super::Book;

/// Elements that share one scale and one minimum in every supported type, and the unit in
/// which activations are stored.
pub const GROUP: usize = 16;
/// Elements that one step of a kernel decodes: two groups that share their storage words.
pub const CHUNK: usize = 32;
/// Rows that are packed side by side on the GPU.
pub const TILE: usize = 16;

macro_rules! types {
    ($($name:ident = $id:literal, $elements:literal, [$($field:ident: $bytes:literal),+];)+) => {
        /// A GGUF tensor type.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[allow(non_camel_case_types, missing_docs, reason = "the names are the format's own")]
        pub enum Type { $($name = $id),+ }

        impl Type {
            /// Every type that the format knows.
            pub const ALL: &[Type] = &[$(Type::$name),+];

            /// The type of a tensor table's id.
            pub const fn from_id(id: u32) -> Option<Type> {
                match id { $($id => Some(Type::$name),)+ _ => None }
            }

            /// The format's name of the type, as in `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Type::$name => stringify!($name)),+ }
            }

            /// Elements in a block.
            pub const fn block_elements(self) -> usize {
                match self { $(Type::$name => $elements),+ }
            }

            /// Bytes in a block: the sum of its fields.
            pub const fn block_bytes(self) -> usize {
                match self { $(Type::$name => 0 $(+ $bytes)+),+ }
            }

            /// The block's fields in file order, with their bytes.
            pub const fn fields(self) -> &'static [(&'static str, usize)] {
                match self { $(Type::$name => &[$((stringify!($field), $bytes)),+]),+ }
            }
        }
    };
}

types! {
    F32 = 0, 1, [value: 4];
    F16 = 1, 1, [value: 2];
    Q4_0 = 2, 32, [d: 2, qs: 16];
    Q4_1 = 3, 32, [d: 2, m: 2, qs: 16];
    Q5_0 = 6, 32, [d: 2, qh: 4, qs: 16];
    Q5_1 = 7, 32, [d: 2, m: 2, qh: 4, qs: 16];
    Q8_0 = 8, 32, [d: 2, qs: 32];
    Q8_1 = 9, 32, [d: 4, s: 4, qs: 32];
    Q2_K = 10, 256, [scales: 16, qs: 64, d: 2, dmin: 2];
    Q3_K = 11, 256, [hmask: 32, qs: 64, scales: 12, d: 2];
    Q4_K = 12, 256, [d: 2, dmin: 2, scales: 12, qs: 128];
    Q5_K = 13, 256, [d: 2, dmin: 2, scales: 12, qh: 32, qs: 128];
    Q6_K = 14, 256, [ql: 128, qh: 64, scales: 16, d: 2];
    Q8_K = 15, 256, [d: 4, qs: 256, bsums: 32];
    IQ2_XXS = 16, 256, [d: 2, qs: 64];
    IQ2_XS = 17, 256, [d: 2, qs: 64, scales: 8];
    IQ3_XXS = 18, 256, [d: 2, qs: 64, signs: 32];
    IQ1_S = 19, 256, [d: 2, qs: 32, qh: 16];
    IQ4_NL = 20, 32, [d: 2, qs: 16];
    IQ3_S = 21, 256, [d: 2, qs: 64, qh: 8, signs: 32, scales: 4];
    IQ2_S = 22, 256, [d: 2, qs: 32, signs: 32, qh: 8, scales: 8];
    IQ4_XS = 23, 256, [d: 2, scales_h: 2, scales_l: 4, qs: 128];
    I8 = 24, 1, [value: 1];
    I16 = 25, 1, [value: 2];
    I32 = 26, 1, [value: 4];
    I64 = 27, 1, [value: 8];
    F64 = 28, 1, [value: 8];
    IQ1_M = 29, 256, [qs: 32, qh: 16, scales: 8];
    BF16 = 30, 1, [value: 2];
    TQ1_0 = 34, 256, [qs: 48, qh: 4, d: 2];
    TQ2_0 = 35, 256, [qs: 64, d: 2];
    MXFP4 = 39, 32, [e: 1, qs: 16];
    NVFP4 = 40, 64, [d: 4, qs: 32];
    Q1_0 = 41, 128, [d: 2, qs: 16];
    Q2_0 = 42, 64, [d: 2, qs: 16];
}

const _: () = {
    assert!(Type::Q4_K.block_bytes() == 144);
    assert!(Type::Q5_K.block_bytes() == 176);
    assert!(Type::Q6_K.block_bytes() == 210);
    assert!(Type::Q8_K.block_bytes() == 292);
    // Every plane table covers its block exactly once: see `Plane`.
    let mut i = 0;
    while i < Type::ALL.len() {
        let t = Type::ALL[i];
        if let Some(planes) = t.planes() {
            let (mut sum, mut p) = (0, 0);
            while p < planes.len() {
                sum += planes[p].width * planes[p].count;
                p += 1;
            }
            assert!(sum == t.packed_block_bytes());
        }
        i += 1;
    }
};

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name of an id that files of the past used and the format has retired.
pub fn retired(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        _ => return None,
    })
}

/// A run of a block's bytes that is stored together on the GPU: `count` units of `width`
/// bytes, beginning `offset` bytes into the block.
///
/// A packed matrix is one region per plane, in the order of the table. Within a plane the
/// order is (tile of 16 rows, block of the row, unit, row within the tile), so that
/// neighbouring lanes, each with its own row, load neighbouring units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// First byte within the block.
    pub offset: usize,
    /// Bytes of a unit: 16, 4, 2 or 1.
    pub width: usize,
    /// Units in a block.
    pub count: usize,
}

/// Levels as a shader decodes them: bytes, signed, from which a constant is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The constant.
    pub bias: u32,
    /// Elements have a minimum.
    pub mins: bool,
    /// Both groups of a chunk share their scale and minimum.
    pub paired: bool,
}

const fn plane(offset: usize, width: usize, count: usize) -> Plane {
    Plane { offset, width, count }
}

impl Type {
    /// The GPU layout of a supported type's block; `None` for a type without kernels.
    ///
    /// For the float types the packed "block" is a chunk of 32 elements.
    pub const fn planes(self) -> Option<&'static [Plane]> {
        Some(match self {
            Type::F32 => const { &[plane(0, 16, 8)] },
            Type::F16 | Type::BF16 => const { &[plane(0, 16, 4)] },
            Type::Q4_0 => const { &[plane(2, 16, 1), plane(0, 2, 1)] },
            Type::Q4_1 => const { &[plane(4, 16, 1), plane(0, 4, 1)] },
            Type::Q5_0 => const { &[plane(6, 16, 1), plane(2, 4, 1), plane(0, 2, 1)] },
            Type::Q5_1 => const { &[plane(8, 16, 1), plane(0, 4, 1), plane(4, 4, 1)] },
            Type::Q8_0 => const { &[plane(2, 16, 2), plane(0, 2, 1)] },
            Type::Q2_K => const { &[plane(0, 16, 5), plane(80, 4, 1)] },
            Type::Q3_K => const { &[plane(0, 16, 6), plane(96, 4, 3), plane(108, 2, 1)] },
            Type::Q4_K => const { &[plane(0, 16, 9)] },
            Type::Q5_K => const { &[plane(0, 16, 11)] },
            Type::Q6_K => const { &[plane(0, 16, 13), plane(208, 2, 1)] },
            Type::Q8_K => const { &[plane(4, 16, 18), plane(0, 4, 1)] },
            Type::IQ1_S => const { &[plane(2, 16, 3), plane(0, 2, 1)] },
            Type::IQ1_M => const { &[plane(0, 16, 3), plane(48, 4, 2)] },
            Type::IQ2_XXS => const { &[plane(2, 16, 4), plane(0, 2, 1)] },
            Type::IQ2_XS => const { &[plane(2, 16, 4), plane(66, 4, 2), plane(0, 2, 1)] },
            Type::IQ2_S => const { &[plane(2, 16, 4), plane(66, 4, 4), plane(0, 2, 1)] },
            Type::IQ3_XXS => const { &[plane(2, 16, 6), plane(0, 2, 1)] },
            Type::IQ3_S => const { &[plane(2, 16, 4), plane(66, 4, 11), plane(0, 2, 1)] },
            Type::IQ4_NL => const { &[plane(2, 16, 1), plane(0, 2, 1)] },
            Type::IQ4_XS => const { &[plane(8, 16, 8), plane(0, 4, 2)] },
            Type::TQ1_0 => const { &[plane(0, 16, 3), plane(48, 4, 1), plane(52, 2, 1)] },
            Type::TQ2_0 => const { &[plane(0, 16, 4), plane(64, 2, 1)] },
            Type::Q1_0 => const { &[plane(2, 16, 1), plane(0, 2, 1)] },
            Type::Q2_0 => const { &[plane(2, 16, 1), plane(0, 2, 1)] },
            Type::MXFP4 => const { &[plane(1, 16, 1), plane(0, 1, 1)] },
            Type::NVFP4 => const { &[plane(4, 16, 2), plane(0, 4, 1)] },
            _ => return None,
        })
    }

    /// The codebook that the type's indices are looked up in, if it has one.
    pub const fn book(self) -> Option<Book> {
        Some(match self {
            Type::IQ1_S | Type::IQ1_M => Book::Iq1,
            Type::IQ2_XXS => Book::Iq2Xxs,
            Type::IQ2_XS => Book::Iq2Xs,
            Type::IQ2_S => Book::Iq2S,
            Type::IQ3_XXS => Book::Iq3Xxs,
            Type::IQ3_S => Book::Iq3S,
            Type::IQ4_NL | Type::IQ4_XS => Book::Iq4,
            _ => return None,
        })
    }

    /// How the snippets of `shaders/blocks` give the levels of a type: see [`Levels`].
    pub const fn levels(self) -> Levels {
        let (bias, mins, paired) = match self {
            Type::Q4_0 => (8, false, true),
            Type::Q5_0 => (16, false, true),
            Type::Q6_K => (32, false, false),
            Type::Q2_K => (0, true, false),
            Type::Q3_K => (4, false, false),
            Type::IQ1_S => (9, false, true),
            Type::IQ1_M => (9, false, false),
            Type::MXFP4 => (12, false, true),
            Type::NVFP4 => (12, false, false),
            Type::IQ2_XS | Type::IQ2_S => (0, false, false),
            Type::TQ1_0 | Type::TQ2_0 | Type::Q1_0 | Type::Q2_0 => (1, false, true),
            Type::Q4_1 | Type::Q5_1 | Type::Q4_K | Type::Q5_K => (0, true, true),
            _ => (0, false, true),
        };
        Levels { bias, mins, paired }
    }

    /// Elements in a block of the packed layout: a whole number of chunks.
    pub const fn packed_block_elements(self) -> usize {
        if self.block_elements() == 1 { CHUNK } else { self.block_elements() }
    }

    /// Bytes in a block of the packed layout.
    pub const fn packed_block_bytes(self) -> usize {
        self.block_bytes() * (self.packed_block_elements() / self.block_elements())
    }

    /// True for F32, F16 and BF16, whose elements are numbers rather than scaled levels.
    pub const fn is_float(self) -> bool {
        matches!(self, Type::F32 | Type::F16 | Type::BF16)
    }

    /// True where kernels and the CPU decoder know the type.
    pub const fn is_supported(self) -> bool {
        self.planes().is_some()
    }
}
