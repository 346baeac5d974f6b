//! Status codes and statuses of calls.

use std::borrow::Cow;

/// The result of a call, as its number on the wire.
///
/// Source: gRPC status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The code of that number; numbers not in the list are `Unknown`, as the gRPC specification asks.
    pub fn from_number(number: u32) -> Code {
        Code::ALL.get(number as usize).copied().unwrap_or(Code::Unknown)
    }

    /// The number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The name as gRPC prints it, for example `InvalidArgument`.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }
}

/// How a call ended: code, message and further trailers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code; everything but `Ok` is an error.
    pub code: Code,
    /// The text for people, in UTF-8; percent-encoded on the wire.
    pub message: Cow<'static, str>,
    /// Trailers sent after `grpc-status` and `grpc-message`; names in lower case, values already in wire form.
    pub trailers: Vec<(String, String)>,
}

impl Status {
    /// A status without further trailers.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status {
            code,
            message: message.into(),
            trailers: Vec::new(),
        }
    }

    /// The status of a call that went well.
    pub fn ok() -> Status {
        Status::new(Code::Ok, "")
    }

    /// The status grpc-go gives for a path that no handler serves: the service or the method is unknown, or the path is
    /// no `/service/method` at all.
    ///
    /// `known_service` says whether some handler has that service name.
    pub fn unimplemented(path: &str, known_service: impl FnOnce(&str) -> bool) -> Status {
        let Some((service, method)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
            return Status::new(Code::Unimplemented, format!("malformed method name: {path:?}"));
        };
        if known_service(service) {
            Status::new(
                Code::Unimplemented,
                format!("unknown method {method} for service {service}"),
            )
        } else {
            Status::new(Code::Unimplemented, format!("unknown service {service}"))
        }
    }
}

/// Writes `message` percent-encoded: printable ASCII but `%` as it is, every other byte as `%XX`.
///
/// Source: gRPC over HTTP2, "Percent-Encoded".
pub(crate) fn percent_encode(message: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in message.as_bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
        }
    }
}

/// Undoes [`percent_encode`]; what is not a valid escape stays as it is, and invalid UTF-8 is replaced.
pub(crate) fn percent_decode(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}
