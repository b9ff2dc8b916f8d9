//! What a program needs besides itself, by its ELF headers. Pure.

use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64, PT_INTERP};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

type Header = FileHeader64<Endianness>;

/// Whether a program needs neither loader nor libraries. What is no whole program is not static.
pub fn is_static(program: &[u8]) -> bool {
    let interpreted = || -> object::read::Result<bool> {
        let header = Header::parse(program)?;
        let endian = header.endian()?;
        let segments = header.program_headers(endian, program)?;
        Ok(segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP))
    };
    matches!(interpreted(), Ok(false))
}

/// The libraries that a program or a library names, in their order. Scripts and data name none.
pub fn needed(file: &[u8]) -> Vec<String> {
    let names = || -> object::read::Result<Vec<String>> {
        let header = Header::parse(file)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, file)?;
        let Some((entries, link)) = sections.dynamic(endian, file)? else {
            return Ok(Vec::new());
        };
        let strings = sections.strings(endian, file, link)?;
        let needed = entries
            .iter()
            .filter(|entry| entry.tag32(endian) == Some(DT_NEEDED));
        needed
            .map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
            .collect()
    };
    names().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_programs_are_told_from_dynamic_ones() {
        assert!(
            is_static(super::super::GUEST_PROGRAM),
            "the guest's program must be static"
        );
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(!is_static(&own), "this test's program is dynamic");
        assert!(!is_static(b"\x7fELF"), "a cut file is no static program");
    }

    #[test]
    fn libraries_are_read_from_programs_and_nothing_from_scripts() {
        let own = needed(&std::fs::read("/proc/self/exe").unwrap());
        assert!(own.iter().any(|name| name == "libc.so.6"), "{own:?}");
        assert!(needed(b"#!/bin/sh\n").is_empty());
        assert!(needed(b"\x7fELF\x02\x01\x01").is_empty());
    }
}
