//! Makes ready what the guests boot, and says where it is: `make image`.
//!
//! The kernel is kept, so that later runs fetch nothing. The initramfs is the one of a lab without
//! additions: every lab writes its own, this one shows that it can.

use std::path::Path;
use std::process::ExitCode;

use transhume_lab::image::{Additions, CACHE, build};
use transhume_lab::{LabUp, Progress};

#[tokio::main]
async fn main() -> ExitCode {
    let cache = Path::new(CACHE);
    let progress = Progress::new(|step| eprintln!("image: {step}"));
    let memory = LabUp::default().memory;
    if let Err(error) = std::fs::create_dir_all(cache) {
        eprintln!("error: cannot create {CACHE}: {error}");
        eprintln!("hint: run this as root");
        return ExitCode::FAILURE;
    }
    match build(
        cache,
        cache.join("initrd.img"),
        &Additions::default(),
        memory,
        &progress,
    )
    .await
    {
        Ok(image) => {
            println!(
                "kernel {}\ninitrd {}",
                image.kernel.display(),
                image.initrd.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
