//! What a user can be told, by exit code.

/// An error that ends a command. The text is one line: what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anything else: exit code 1.
    #[error("{0}")]
    Other(String),
    /// A flag, a value or an argument is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The file is missing, unreadable, damaged, no GGUF or changed while it was read: exit code 3.
    #[error("{0}")]
    File(String),
    /// The file is sound, but this program does not know its architecture, a tensor type or
    /// its tokenizer: exit code 4.
    #[error("{0}")]
    Unsupported(String),
    /// No device, a lost one, or one with too little memory: exit code 5.
    #[error("{0}")]
    Device(String),
    /// The request does not fit the model: exit code 6.
    #[error("{0}")]
    Request(String),
    /// Interrupted by the user: exit code 130.
    #[error("interrupted")]
    Interrupted,
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Other(_) => 1,
            Error::Usage(_) => 2,
            Error::File(_) => 3,
            Error::Unsupported(_) => 4,
            Error::Device(_) => 5,
            Error::Request(_) => 6,
            Error::Interrupted => 130,
        }
    }

    /// The same error with a file, tensor or flag named in front of it.
    #[must_use]
    pub fn context(self, place: impl std::fmt::Display) -> Error {
        match self {
            Error::Other(m) => Error::Other(format!("{place}: {m}")),
            Error::Usage(m) => Error::Usage(format!("{place}: {m}")),
            Error::File(m) => Error::File(format!("{place}: {m}")),
            Error::Unsupported(m) => Error::Unsupported(format!("{place}: {m}")),
            Error::Device(m) => Error::Device(format!("{place}: {m}")),
            Error::Request(m) => Error::Request(format!("{place}: {m}")),
            Error::Interrupted => Error::Interrupted,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::Other(e.to_string())
    }
}
