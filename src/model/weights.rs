//! Where a model's tensors come from: a file, or random valid blocks.

use std::borrow::Cow;
use std::ops::Range;

use super::synthetic::{Synthetic, random_rows};
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
    /// A missing tensor, another shape, or a type without kernels.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let (ty, dims) = self.tensor(name).ok_or_else(|| missing(name))?;
        let want = if rows == 1 { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
        if dims != want {
            return Err(shape(name, &want, &dims));
        }
        if !ty.is_supported() {
            return Err(Error::Unsupported(format!("tensor {name}: type {ty} is not supported yet")));
        }
        Ok(Matrix { name: name.to_owned(), ty, rows, cols })
    }

    /// A vector by name, with the length that it must have.
    ///
    /// # Errors
    /// A missing tensor, another shape, or a type that is no float.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vector> {
        let (ty, dims) = self.tensor(name).ok_or_else(|| missing(name))?;
        if dims != [len as u64] {
            return Err(shape(name, &[len as u64], &dims));
        }
        if !ty.is_float() {
            return Err(Error::Unsupported(format!("tensor {name}: a vector of type {ty} is not supported")));
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
            Weights::Synthetic(_) => Cow::Owned(random_rows(matrix, rows)),
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

fn missing(name: &str) -> Error {
    Error::Unsupported(format!("tensor {name} is missing"))
}

fn shape(name: &str, want: &[u64], got: &[u64]) -> Error {
    Error::Unsupported(format!("tensor {name}: expected {want:?}, file has {got:?}"))
}
