//! The power button: whoever asks the guest to power itself off presses it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread;

use rustix::system::{RebootCommand, reboot};

use crate::boot;

const DEVICES: &str = "/dev/input";
/// `struct input_event`: 16 bytes of time, then kind, code and value.
const EVENT_BYTES: usize = 24;
const KEY: u16 = 1;
const POWER: u16 = 116;

/// Waits for the button on every input device there is.
pub fn watch() -> io::Result<()> {
    let devices = match fs::read_dir(DEVICES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        devices => devices?,
    };
    for device in devices {
        let path = device?.path();
        if is_event_device(&path) {
            let device = File::open(&path)?;
            thread::spawn(move || power_off_when_pressed(device));
        }
    }
    Ok(())
}

fn is_event_device(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("event"))
}

fn power_off_when_pressed(mut device: File) {
    let mut event = [0; EVENT_BYTES];
    while device.read_exact(&mut event).is_ok() {
        if is_press(&event) {
            boot::take_nic_down();
            let error = reboot(RebootCommand::PowerOff);
            eprintln!("transhume-guest: power off: {error:?}");
        }
    }
}

fn is_press(event: &[u8; EVENT_BYTES]) -> bool {
    let word = |at| u16::from_ne_bytes([event[at], event[at + 1]]);
    (word(16), word(18)) == (KEY, POWER) && event[20] == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_power_button_going_down_counts() {
        let event = |kind: u16, code: u16, value: u8| {
            let mut event = [0xff; EVENT_BYTES];
            event[16..18].copy_from_slice(&kind.to_ne_bytes());
            event[18..20].copy_from_slice(&code.to_ne_bytes());
            event[20..24].copy_from_slice(&i32::from(value).to_ne_bytes());
            event
        };
        assert!(is_press(&event(KEY, POWER, 1)));
        assert!(!is_press(&event(KEY, POWER, 0)), "it comes up again");
        assert!(!is_press(&event(KEY, 30, 1)));
        assert!(!is_press(&event(0, POWER, 1)));
    }
}
