//! Makes ready what the guests boot, and says where it is: `make image`.
//!
//! The kernel is kept, so that later runs fetch nothing. The initramfs is the one of a lab without
//! additions: every lab writes its own, this one shows that it can. Apps that are named are
//! fetched, too: `cargo run -p transhume-lab --example image -- etcd redis`, for labs without a
//! network.

use std::path::Path;
use std::process::ExitCode;

use transhume_lab::image::{Additions, CACHE, build};
use transhume_lab::{App, LabError, LabUp, Progress, apps};

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
    let wanted: Result<Vec<App>, String> = std::env::args().skip(1).map(|name| name.parse()).collect();
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let made = async {
        let initrd = cache.join("initrd.img");
        let image = build(cache, initrd, &Additions::default(), memory, &progress).await?;
        println!(
            "kernel {}\ninitrd {}",
            image.kernel.display(),
            image.initrd.display()
        );
        for app in wanted {
            println!("{app} {}", apps::obtain(app, &progress).await?.display());
        }
        Ok::<_, LabError>(())
    };
    match made.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
