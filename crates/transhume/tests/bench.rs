//! `scripts/bench.py` adds up what the lab's measurements write.

use std::path::Path;
use std::process::Command;

/// A part's directory, one of its files, and its content.
const MEASURED: [(&str, &str, &str); 5] = [
    (
        "memory",
        "memory.csv",
        "load,link,vms,mover,repetition,bytes,seconds,blackout_ms,busy_s,agents_s_per_gb,plain_share\n\
         idle,1gbit,4,transhume,1,90000000,1.500,20.0,1.0,2.500,0.000\n\
         idle,1gbit,4,transhume,2,70000000,1.700,22.0,1.0,2.700,0.000\n\
         idle,1gbit,4,precopy,1,280000000,3.100,90.0,1.0,0.000,0.000\n",
    ),
    (
        "figures",
        "figures.csv",
        "mover,mtu,repetition,vm,lost,duplicated,reordered,blackout_ms,ours_ms\n\
         k = 1,1500,1,vm1,0,0,0,20.000,5.000\n\
         k = 1,1500,1,vm2,0,0,0,30.000,5.000\n\
         stock,1500,1,vm1,40,0,0,180.000,\n\
         stock,1500,1,vm2,60,1,0,190.000,\n",
    ),
    (
        "brownout",
        "brownout.csv",
        "mover,repetition,vm,blackout_ms,gap_ms,stall_ms_longest,stall_ms_sum,stalls\n\
         transhume,1,vm1,20.000,88,33.000,40.000,2\n\
         nobody,1,vm1,0.000,,8.000,8.000,1\n",
    ),
    (
        "buffer",
        "output.txt",
        "60 B: 400000 frames/s, lost 0; processor ms: a 3\n60 B: median 400000 frames/s, 1 to 2, lost 0\n",
    ),
    (
        "planner",
        "output.txt",
        "case seed | exact bound s ended | first-fit s | best-fit s | paper s\n\
         perfect-40x4 0 | 41 40 0.25 Deadline | 50 0.001 | 49 0.002 | - 0.000\nproved 0 of 1; median 0.25 s\n",
    ),
];

const FIGURES: &str = "part,case,measure,median,low,high,n
memory,\"idle, 1gbit, 4 VMs, transhume\",seconds,1.6,1.45,1.75,2
memory,\"idle, 1gbit, 4 VMs, transhume\",MB on the wire,80,65,95,2
memory,\"idle, 1gbit, 4 VMs, transhume\",\"agents, s/GB\",2.6,2.45,2.75,2
memory,\"idle, 1gbit, 4 VMs, precopy\",seconds,3.1,3.1,3.1,1
memory,\"idle, 1gbit, 4 VMs, precopy\",MB on the wire,280,280,280,1
figures,\"k = 1, MTU 1500\",\"blackout of a VM, ms\",25,17.5,32.5,2
figures,\"stock, MTU 1500\",\"blackout of a VM, ms\",185,177.5,192.5,2
figures,\"k = 1, MTU 1500\",\"messages lost, doubled, out of order in a move\",0,0,0,1
figures,\"stock, MTU 1500\",\"messages lost, doubled, out of order in a move\",101,101,101,1
brownout,transhume,\"gap, ms\",88,88,88,1
brownout,transhume,\"stall, ms\",33,33,33,1
brownout,nobody,\"stall, ms\",8,8,8,1
buffer,frames of 60 B,frames/s,400000,400000,400000,1
planner,perfect-40x4,processor seconds,0.25,0.25,0.25,1
planner,perfect-40x4,hosts above the bound,1,1,1,1
";

#[test]
fn what_was_measured_becomes_one_table() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    for (part, file, content) in MEASURED {
        std::fs::create_dir_all(out.join(part)).unwrap();
        std::fs::write(out.join(part).join(file), content).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/bench.py");
    let run = |arguments: &[&str]| {
        let done = Command::new(&script).args(arguments).output().unwrap();
        let told = format!(
            "{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        (done.status.code(), told)
    };
    let here = out.display().to_string();
    let (code, table) = run(&["--only-table", "--out", &here]);
    assert_eq!(code, Some(0), "{table}");
    assert!(
        table.contains("| k = 1, MTU 1500 | blackout of a VM, ms | 25 (17.5–32.5) | 2 |"),
        "{table}"
    );
    let csv = std::fs::read_to_string(out.join("bench.csv")).unwrap();
    // The last column is the machine.
    let figures: String = csv.lines().map(without_machine).collect();
    assert_eq!(figures, FIGURES);
    std::fs::remove_dir_all(&out).unwrap();

    let (code, told) = run(&["--only-table", "--out", &here]);
    assert!(code == Some(1) && told.contains("hint: "), "{told}");
    let (code, told) = run(&["--parts", "buffers", "--out", &here]);
    assert!(code == Some(2) && told.contains("`buffers`"), "{told}");
}

fn without_machine(line: &str) -> String {
    let end = match line.strip_suffix('"') {
        Some(quoted) => quoted.rfind(",\""),
        None => line.rfind(','),
    };
    format!("{}\n", &line[..end.unwrap()])
}
