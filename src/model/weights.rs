//! Where a model's tensors come from: a file, or random valid blocks.

use std::borrow::Cow;
use std::ops::Range;

use super::synthetic::Synthetic;
use crate::gguf::File;
use crate::quant::{Layout, Type, dequantize};
use crate::{Error, Result};

/// A matrix of the model: `rows` outputs from `cols` inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// The tensor's name.
    pub name: String,
    /// The type of its blocks.
    pub ty: Type,
    /// Outputs.
    pub rows: usize,
    /// Inputs: the elements of a row.
    pub cols: usize,
    /// A factor of all its products, from a tensor `….scale` beside the weight (NVFP4 files have
    /// them); 1 where there is none.
    pub scale: f32,
}

impl Matrix {
    /// How `rows` of its rows lie on the GPU.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type without kernels.
    pub fn layout(&self, rows: usize) -> Result<Layout> {
        Layout::new(self.ty, rows, self.cols).ok_or_else(|| {
            Error::Unsupported(format!("tensor {}: type {} is not supported", self.name, self.ty))
        })
    }

    /// The dimensions in a file, fastest first: a vector has one.
    pub fn dims(&self) -> Vec<u64> {
        let dims = [self.cols as u64, self.rows as u64];
        if self.is_vector() { dims[..1].to_vec() } else { dims.to_vec() }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        (self.rows * self.row_bytes()) as u64
    }

    /// True for one row of F32, which norms and biases are.
    pub(super) fn is_vector(&self) -> bool {
        self.rows == 1 && self.ty == Type::F32
    }

    /// Bytes of a row in the file.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.ty.block_elements() * self.ty.block_bytes()
    }
}

/// A small tensor of the model, read as F32.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// The tensor's name.
    pub name: String,
    /// Elements.
    pub len: usize,
}

/// The source of tensors.
pub enum Weights {
    /// A GGUF file.
    File(File),
    /// Random valid blocks at a model's shapes.
    Synthetic(Synthetic),
}

impl Weights {
    /// The type and the dimensions (fastest first) of a tensor, if it exists.
    pub fn tensor(&self, name: &str) -> Option<(Type, Vec<u64>)> {
        match self {
            Weights::File(file) => file.tensor(name).map(|t| (t.ty, t.dims().to_vec())),
            Weights::Synthetic(s) => s.tensor(name),
        }
    }

    /// A matrix by name, with the shape that it must have.
    ///
    /// # Errors
    /// A missing tensor, another shape, a type without kernels, or a scale that is no number.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let (ty, dims) = self.tensor(name).ok_or_else(|| missing(name))?;
        let want = if rows == 1 { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
        if dims != want {
            return Err(shape(name, &want, &dims));
        }
        if !ty.is_supported() {
            return Err(Error::Unsupported(format!("tensor {name}: type {ty} is not supported yet")));
        }
        let scale = match scale_of(name).filter(|scale| self.tensor(scale).is_some()) {
            Some(scale) => self.scale(&scale)?,
            None => 1.0,
        };
        Ok(Matrix { name: name.to_owned(), ty, rows, cols, scale })
    }

    fn scale(&self, name: &str) -> Result<f32> {
        let value = self.floats(&self.vector(name, 1)?)[0];
        match value.is_finite() {
            true => Ok(value),
            false => Err(Error::Unsupported(format!("tensor {name}: a scale of {value}"))),
        }
    }

    /// A vector by name, with the length that it must have.
    ///
    /// # Errors
    /// A missing tensor, another shape, or a type that cannot be decoded.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vector> {
        let (ty, dims) = self.tensor(name).ok_or_else(|| missing(name))?;
        if dims != [len as u64] {
            return Err(shape(name, &[len as u64], &dims));
        }
        if !ty.is_supported() {
            return Err(Error::Unsupported(format!("tensor {name}: type {ty} is not supported yet")));
        }
        Ok(Vector { name: name.to_owned(), len })
    }

    /// The bytes of a range of a matrix's rows, as in a file.
    pub fn rows(&self, matrix: &Matrix, rows: Range<usize>) -> Cow<'_, [u8]> {
        let size = matrix.row_bytes();
        match self {
            Weights::File(file) => {
                let data = file.tensor(&matrix.name).map_or(&[][..], |t| file.data(t));
                Cow::Borrowed(data.get(rows.start * size..rows.end * size).unwrap_or(&[]))
            }
            Weights::Synthetic(s) => Cow::Owned(s.rows(matrix, rows)),
        }
    }

    /// Says whether what has been read so far is what the file held when it was opened.
    ///
    /// # Errors
    /// [`Error::File`] for one that has changed.
    pub fn intact(&self) -> Result<()> {
        match self {
            Weights::File(file) => file.intact(),
            Weights::Synthetic(_) => Ok(()),
        }
    }

    /// A vector's elements.
    pub fn floats(&self, vector: &Vector) -> Vec<f32> {
        let mut out = vec![0.0; vector.len];
        match self {
            Weights::File(file) => {
                if let Some(t) = file.tensor(&vector.name) {
                    dequantize(t.ty, file.data(t), &mut out);
                }
            }
            Weights::Synthetic(s) => s.floats(vector, &mut out),
        }
        out
    }
}

/// The name of the factor of a weight's products. An embedding has none: its rows are no products.
pub(super) fn scale_of(weight: &str) -> Option<String> {
    let stem = weight.strip_suffix(".weight").filter(|stem| *stem != "token_embd")?;
    Some(format!("{stem}.scale"))
}

fn missing(name: &str) -> Error {
    Error::Unsupported(format!("tensor {name} is missing"))
}

fn shape(name: &str, want: &[u64], got: &[u64]) -> Error {
    Error::Unsupported(format!("tensor {name}: expected {want:?}, file has {got:?}"))
}
