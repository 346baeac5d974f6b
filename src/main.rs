//! The one binary: the server, and later the tools, told apart by the name it was called by and the first argument.

fn main() {}
