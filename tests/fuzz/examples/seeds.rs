//! Writes good files for the fuzzer to begin with: `corpus/TARGET/NUMBER`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in owl2_fuzz::TARGETS {
        let directory = Path::new("corpus").join(target.name);
        fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(directory.join(number.to_string()), seed)?;
        }
    }
    Ok(())
}
