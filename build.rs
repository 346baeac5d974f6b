//! Compiles the client stubs that the black-box tests use, with protox, so that no `protoc` is needed.
//!
//! Nothing in the library or the binary includes them: the tests' messages are independent of the crate `net`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "etcdserverpb.proto",
        "health.proto",
        "v3electionpb.proto",
        "v3lockpb.proto",
    ];
    println!("cargo::rerun-if-changed=net/proto");
    let descriptors = protox::compile(files, ["net/proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
