//! What buffers held over time, written down when they have closed, where the configuration says
//! so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use transhume_netbuf::{Meter, trace_csv};

use super::{Ends, Side};

/// Made and removed again to see whether files can be made.
const PROBE: &str = ".transhume-probe";

/// The files of one VM's buffers of one side, by NIC; none where no traces are kept.
#[derive(Debug)]
pub(super) struct TraceFiles(Vec<PathBuf>);

impl TraceFiles {
    pub(super) fn of(ends: &Ends<'_>, side: Side) -> Self {
        let (config, vm) = (ends.config, &ends.spec.name);
        let file =
            |dir: &PathBuf, nic: usize| dir.join(format!("{}-{vm}-{}-{nic}.csv", config.host, side.name()));
        let files = config
            .buffer_traces
            .iter()
            .flat_map(|dir| (0..ends.spec.nics.len()).map(|nic| file(dir, nic)));
        Self(files.collect())
    }

    /// In place of those of the VM's last move. One that cannot be written is only logged: no move
    /// fails for it.
    pub(super) fn write(&self, meters: &[Arc<Meter>]) {
        for (path, meter) in self.0.iter().zip(meters) {
            if let Some(samples) = meter.trace()
                && let Err(error) = std::fs::write(path, trace_csv(&samples))
            {
                tracing::warn!(path = %path.display(), "the trace of a buffer is not written: {error}");
            }
        }
    }
}

/// Makes the directory where it is missing; whether files can be made there.
pub(crate) fn prepare(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let probe = dir.join(PROBE);
    std::fs::write(&probe, "")?;
    std::fs::remove_file(probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_made_is_found_before_the_first_move() {
        let dir = std::env::temp_dir().join(format!("transhume-traces-{}", std::process::id()));
        prepare(&dir.join("new")).unwrap();
        let file = dir.join("file");
        std::fs::write(&file, "").unwrap();
        assert!(prepare(&file.join("below")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
