//! A stand-in for `protoc` where it is not installed: compiles files to a descriptor set, as prost-build asks for.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut includes, mut files, mut output) = (Vec::new(), Vec::new(), None);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--version" => {
                println!("libprotoc 3.21.12");
                return Ok(());
            }
            "-I" => includes.extend(arguments.next().map(PathBuf::from)),
            "-o" => output = arguments.next().map(PathBuf::from),
            // The descriptor set always has both.
            "--include_imports" | "--include_source_info" => {}
            other if other.starts_with('-') => return Err(format!("{other} is not supported here: install protoc").into()),
            file => files.push(PathBuf::from(file)),
        }
    }
    let output = output.ok_or("-o names the file to write")?;
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    fs::write(output, compiler.encode_file_descriptor_set())?;
    Ok(())
}
