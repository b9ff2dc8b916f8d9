//! An inventory from a real libvirt: its own test driver, which needs no daemon, has one host and
//! one domain named `test`.

mod user;

use user::says;

#[test]
fn a_libvirt_host_is_asked_and_its_inventory_planned() {
    let imported = says("inventory import libvirt test:///default --cluster prod");
    let yaml = &imported.succeeded().stdout;
    assert!(
        yaml.contains("name: prod") && yaml.contains("{name: test, host: "),
        "{yaml}"
    );
    assert!(yaml.contains("demand: {vcpus: 2, memory: 8192}"), "{yaml}");
    let file = std::env::temp_dir().join(format!("transhume-import-{}.yaml", std::process::id()));
    std::fs::write(&file, yaml).unwrap();
    // The one host is the only target there could be, and it is smaller than its domain.
    let planned = says(&format!("plan --inventory {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    planned.refused(3, &["test", "memory"]);
}

#[test]
fn a_host_that_cannot_be_asked_is_named() {
    says("inventory import libvirt test:///nowhere").refused(3, &["test:///nowhere"]);
    says("inventory import libvirt test:///default test:///default").refused(3, &["two of these"]);
    says("inventory import proxmox /nowhere").refused(3, &["/nowhere"]);
}
