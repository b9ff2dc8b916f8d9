//! One input of one target: `cargo run -p transhume-fuzz --example try_input -- TARGET FILE...`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let target = transhume_fuzz::target(&name);
    for file in arguments {
        (target.check)(&std::fs::read(Path::new(&file))?);
        println!("{file}: kept");
    }
    Ok(())
}
