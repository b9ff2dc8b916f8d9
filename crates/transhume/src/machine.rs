//! The machine that figures come from, in words.

/// The machine, for whoever compares figures.
pub fn description(accelerator: &str) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo").lines().next().unwrap_or("").to_owned();
    let version = std::process::Command::new("qemu-system-x86_64")
        .arg("--version")
        .output();
    let qemu = version.map_or(String::new(), |out| {
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .next()
            .unwrap_or("")
            .to_owned()
    });
    format!(
        "processor: {}\ncores: {cores}\n{memory}\nkernel: {}\n{qemu}, accelerator {accelerator}\nload average when done: {}\ntranshume: {}, {} build\n",
        cpu.map_or("?", |(_, name)| name.trim()),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim(),
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
    )
}
