//! The generated messages and clients of etcd's API, built by `build.rs` for these tests alone.
#![allow(dead_code, missing_docs, clippy::all, rustdoc::all)]

pub mod authpb {
    tonic::include_proto!("authpb");
}
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
pub mod membershippb {
    tonic::include_proto!("membershippb");
}
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
