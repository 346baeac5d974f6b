//! Compiles `proto/*.proto` to Rust with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "authpb.proto",
        "etcdserverpb.proto",
        "health.proto",
        "leasepb.proto",
        "membershippb.proto",
        "mvccpb.proto",
        "v3electionpb.proto",
        "v3lockpb.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.compile_fds(descriptors)?;
    Ok(())
}
