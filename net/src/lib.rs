//! The wire: protobuf, gRPC over HTTP/2, HTTP/1.1 and peer frames, as codecs without I/O; sockets live in [`io`] alone.
//!
//! This crate never sees storage and keeps no state of the member.

#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod h2;
pub mod io;
pub mod pb;
pub mod peer;
