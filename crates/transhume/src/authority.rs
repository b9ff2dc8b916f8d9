//! The fleet's certificate authority: `transhume ca`.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use transhume_trust::{Authority, AuthorityError, Identity, Issued, IssuedFiles};

use crate::args::CaCommand;
use crate::failure::{Failure, Kind};
use crate::moves::print_json;
use crate::table::Table;

pub fn run(dir: &Path, command: CaCommand) -> Result<ExitCode, Failure> {
    match command {
        CaCommand::Init { name } => {
            let authority = Authority::create(dir, &name).map_err(refused)?;
            outln!("{} is the authority of {name}", authority.certificate().display());
            outln!(
                "its key, {}, signs whatever the fleet believes: keep it where only you read it",
                dir.join("ca.key").display()
            );
        }
        CaCommand::Issue { identity, days, out } => {
            let authority = Authority::open(dir).map_err(refused)?;
            let identity = identity.parse::<Identity>();
            let identity =
                identity.map_err(|error| Failure::new(Kind::Refused, error.to_string(), "like agent/h1"))?;
            let files = authority.issue(&identity, days, &out).map_err(refused)?;
            authority.copy_lists(&out).map_err(refused)?;
            tell(&files);
        }
        CaCommand::Renew { certificate, days } => {
            let authority = Authority::open(dir).map_err(refused)?;
            let files = authority.renew(&certificate, days).map_err(refused)?;
            tell(&files);
        }
        CaCommand::Revoke { what } => {
            let authority = Authority::open(dir).map_err(refused)?;
            for revoked in authority.revoke(&what).map_err(refused)? {
                outln!("{} of {} is revoked", revoked.serial, revoked.identity);
            }
            outln!(
                "bring {} to every host: it holds there at once, for new connections",
                authority.revoked().display()
            );
        }
        CaCommand::Show { json } => {
            let authority = Authority::open(dir).map_err(refused)?;
            let issued = authority.issued().map_err(refused)?;
            return show(&issued, json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(files: &IssuedFiles) {
    outln!(
        "{} and {} are {}'s until {}",
        files.certificate.display(),
        files.key.display(),
        files.issued.identity,
        transhume_trust::instant(files.issued.validity.until)
    );
}

/// One certificate, in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    serial: &'a str,
    identity: String,
    from: String,
    until: String,
    state: &'static str,
}

fn state(issued: &Issued, now: i64) -> &'static str {
    match issued.revoked_at {
        Some(_) => "revoked",
        None if issued.validity.until <= now => "over",
        None if issued.validity.ends_soon(now) => "ends soon",
        None => "good",
    }
}

fn show(issued: &[Issued], json: bool) -> Result<ExitCode, Failure> {
    let now = transhume_trust::now();
    let shown = issued.iter().map(|issued| Shown {
        serial: &issued.serial,
        identity: issued.identity.to_string(),
        from: transhume_trust::instant(issued.validity.from),
        until: transhume_trust::instant(issued.validity.until),
        state: state(issued, now),
    });
    if json {
        return print_json(&shown.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["IDENTITY", "STATE", "UNTIL", "SERIAL"]);
    for of in shown {
        table.row([of.identity, of.state.to_owned(), of.until, of.serial.to_owned()]);
    }
    out!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

fn refused(error: AuthorityError) -> Failure {
    Failure {
        kind: Kind::Refused,
        message: crate::failure::chain(&error),
        hint: error.hint().map(str::to_owned),
    }
}
