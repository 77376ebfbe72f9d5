//! Why something asked of a cluster did not happen.

use std::fmt;

use weir_core::error::ErrorCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    /// What was asked of whom, for the reader of a log line.
    pub context: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No connection, or it ended before the answer came. What was asked may have happened.
    Network,
    /// No answer in time: the link hangs. What was asked may have happened.
    TimedOut,
    /// The broker speaks no version of the API that we speak.
    Unsupported,
    /// The broker's bytes are not what the protocol says.
    Malformed,
    /// The broker says no, and why.
    Code(ErrorCode),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into() }
    }

    pub fn code(&self) -> Option<ErrorCode> {
        match self.kind {
            ErrorKind::Code(code) => Some(code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_retriable(&self) -> bool {
        match self.kind {
            ErrorKind::Network | ErrorKind::TimedOut => true,
            ErrorKind::Unsupported | ErrorKind::Malformed => false,
            ErrorKind::Code(code) => code.is_retriable(),
        }
    }

    /// The answer's code as a result; `context` is made only when it is an error.
    pub fn check(code: ErrorCode, context: impl FnOnce() -> String) -> Result<()> {
        match code {
            ErrorCode::NONE => Ok(()),
            code => Err(Error::new(ErrorKind::Code(code), context())),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = &self.context;
        match self.kind {
            ErrorKind::Network => write!(f, "{context}"),
            ErrorKind::TimedOut => write!(f, "{context}: no answer in time"),
            ErrorKind::Unsupported => write!(f, "{context}: the broker has no version of it"),
            ErrorKind::Malformed => write!(f, "{context}: the answer is malformed"),
            ErrorKind::Code(code) => write!(f, "{context}: {code}"),
        }
    }
}

impl std::error::Error for Error {}
