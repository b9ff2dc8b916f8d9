//! Runs a program on a host (in its namespace) or in a VM (over the console channel).

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use transhume_guest::wire::{EXEC_OUTPUT_BYTES_MAX, Op, Outcome};

use crate::state::Lab;
use crate::{Channel, LabError, Namespace};

/// Besides the program's own time: the channel's.
const CHANNEL_TIME: Duration = Duration::from_secs(20);

/// What the program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecReport {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// The time limit ended it.
    pub timed_out: bool,
    /// Its output, bounded.
    pub stdout: Vec<u8>,
    /// Its errors, bounded.
    pub stderr: Vec<u8>,
}

/// Runs `argv` on the host or VM called `place`.
pub async fn exec(lab: &Lab, place: &str, argv: &[String], limit: Duration) -> Result<ExecReport, LabError> {
    match lab.host(place) {
        Ok(host) => on_host(Namespace::named(&host.namespace), argv, limit).await,
        Err(_) => {
            let op = Op::Exec {
                argv: argv.to_vec(),
                time_limit_ms: limit.as_millis() as u64,
            };
            let answer = Channel::new(lab, lab.vm(place)?)
                .call(op, limit + CHANNEL_TIME)
                .await?;
            match answer.outcome {
                Outcome::Exited { code, timed_out, .. } => Ok(ExecReport {
                    code,
                    timed_out,
                    stdout: answer.stdout,
                    stderr: answer.stderr,
                }),
                other => Err(LabError::Guest {
                    vm: place.to_owned(),
                    said: format!("answered {other:?}"),
                }),
            }
        }
    }
}

async fn on_host(namespace: Namespace, argv: &[String], limit: Duration) -> Result<ExecReport, LabError> {
    let (program, arguments) = argv.split_first().ok_or_else(|| LabError::Option {
        option: "command",
        reason: "no program named".to_owned(),
    })?;
    let start = |source| LabError::Start {
        program: program.clone(),
        source,
    };
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let runtime = tokio::runtime::Handle::current();
    let mut child = namespace.run(|| {
        let _inside = runtime.enter();
        command.spawn().map_err(start)
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async { tokio::join!(bounded(stdout), bounded(stderr), child.wait()) };
    match tokio::time::timeout(limit, all).await {
        Ok((stdout, stderr, status)) => {
            let code = exit_code(status.map_err(start)?);
            Ok(ExecReport {
                code,
                timed_out: false,
                stdout,
                stderr,
            })
        }
        Err(_) => Ok(ExecReport {
            code: 128 + 9,
            timed_out: true,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }),
    }
}

async fn bounded(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        // What could be read counts; the exit code tells the rest.
        let _read = source
            .take(EXEC_OUTPUT_BYTES_MAX as u64)
            .read_to_end(&mut bytes)
            .await;
    }
    bytes
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
