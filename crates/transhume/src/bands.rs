//! How this host's links are divided: shown, planned, applied, cleared, from the agent's own
//! configuration.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use transhume_agent::{BandsFault, Config, HostBands, Shown};
use transhume_bands::{Class, Plan, Step, class_of};
use transhume_model::{Band, BitRate};

use crate::args::{BandsArgs, BandsCommand};
use crate::failure::{Failure, Kind, chain};
use crate::moves::print_json;
use crate::table::Table;

impl From<BandsFault> for Failure {
    fn from(fault: BandsFault) -> Self {
        let kind = match fault {
            BandsFault::Refused(_) | BandsFault::Record { .. } => Kind::Refused,
            BandsFault::Step { .. } | BandsFault::Look(_) => Kind::Other,
        };
        Failure::new(kind, chain(&fault), fault.hint())
    }
}

pub fn run(command: &BandsCommand) -> Result<ExitCode, Failure> {
    match command {
        BandsCommand::Show(args) => show(args),
        BandsCommand::Plan(args) => plan(args),
        BandsCommand::Apply(args) => apply(args),
        BandsCommand::Clear(args) => clear(args),
    }
}

fn configured(args: &BandsArgs) -> Result<(Config, HostBands), Failure> {
    let config = Config::read(&args.config).map_err(|error| Failure::of(&error))?;
    let Some(bands) = config.bands.clone() else {
        let message = format!("{} has no [bands]", args.config.display());
        let hint = "docs/design/bands.md shows both forms";
        return Err(Failure::new(Kind::Refused, message, hint));
    };
    let host = HostBands::new(bands, &config.state_dir);
    Ok((config, host))
}

fn show(args: &BandsArgs) -> Result<ExitCode, Failure> {
    let shown = configured(args)?.1.show()?;
    if args.json {
        let links: Vec<_> = shown.iter().map(as_json).collect();
        return print_json(&json!({ "links": links }));
    }
    let mut table = Table::new(&[
        "interface",
        "band",
        "rate",
        "ceiling",
        "sent MB",
        "dropped",
        "waiting kB",
    ]);
    for link in &shown {
        rows(&mut table, link);
    }
    out!("{}", table.text());
    for Shown { plan, .. } in &shown {
        if !plan.steps.is_empty() {
            outln!(
                "{} is not as configured: {} to make it so (`transhume bands plan` shows them)",
                plan.interface,
                steps(plan.steps.len())
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn steps(count: usize) -> String {
    match count {
        1 => "1 step".to_owned(),
        count => format!("{count} steps"),
    }
}

fn rows(table: &mut Table, Shown { plan, counts }: &Shown) {
    if let Some(band) = plan.band {
        let unknown = || "–".to_owned();
        let rate = plan.speed.to_string();
        return table.row([
            plan.interface.clone(),
            band.to_string(),
            rate.clone(),
            rate,
            unknown(),
            unknown(),
            unknown(),
        ]);
    }
    for band in Band::ALL {
        let class = plan.tree.iter().find(|class| class.minor == class_of(band));
        let count = counts.iter().find(|count| count.minor == class_of(band));
        let rate = |of: fn(&Class) -> u64| {
            let rate = class.and_then(|class| BitRate::from_bits_per_s(of(class) * 8));
            rate.map_or("–".to_owned(), |rate| rate.to_string())
        };
        let counted = |text: String| count.map_or("–".to_owned(), |_| text);
        let count = count.copied().unwrap_or_default();
        table.row([
            plan.interface.clone(),
            band.to_string(),
            rate(|class| class.bytes_per_s),
            rate(|class| class.ceil_bytes_per_s),
            counted(format!("{:.1}", count.bytes as f64 / 1e6)),
            counted(count.dropped.to_string()),
            counted(format!("{:.1}", f64::from(count.waiting_bytes) / 1e3)),
        ]);
    }
}

fn as_json(Shown { plan, counts }: &Shown) -> Value {
    let classes: Vec<_> = Band::ALL
        .into_iter()
        .filter_map(|band| {
            let count = counts.iter().find(|count| count.minor == class_of(band))?;
            Some(json!({
                "band": band, "sent_bytes": count.bytes, "dropped": count.dropped,
                "waiting_bytes": count.waiting_bytes,
            }))
        })
        .collect();
    json!({
        "interface": plan.interface, "band": plan.band, "speed": plan.speed, "classes": classes,
        "missing": lines(plan),
    })
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(Step::to_string).collect()
}

fn plan(args: &BandsArgs) -> Result<ExitCode, Failure> {
    told(args, &configured(args)?.1.plan()?, "would be")
}

fn apply(args: &BandsArgs) -> Result<ExitCode, Failure> {
    told(args, &configured(args)?.1.apply()?, "was")
}

/// The steps, planned or taken.
fn told(args: &BandsArgs, plans: &[Plan], would_be: &str) -> Result<ExitCode, Failure> {
    if args.json {
        let links: Vec<_> = plans
            .iter()
            .map(|plan| json!({ "interface": plan.interface, "steps": lines(plan) }))
            .collect();
        return print_json(&json!({ "links": links }));
    }
    for plan in plans {
        if let Some(previous) = &plan.previous {
            outln!(
                "{}: {} {would_be} remembered, and put back by clear",
                plan.interface,
                previous.kind
            );
        }
        for line in lines(plan) {
            outln!("{}: {line}", plan.interface);
        }
        if plan.steps.is_empty() {
            outln!("{}: nothing to do", plan.interface);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn clear(args: &BandsArgs) -> Result<ExitCode, Failure> {
    let (config, bands) = configured(args)?;
    if let Some(holder) = holder(&config.state_dir)? {
        let message = format!(
            "the agent of host {} runs{holder} and would put them back",
            config.host
        );
        let hint = "stop it: it clears them itself; or take [bands] out of its configuration first";
        return Err(Failure::new(Kind::Refused, message, hint));
    }
    let cleared = bands.clear()?;
    if args.json {
        return print_json(&json!({ "cleared": cleared }));
    }
    match cleared.is_empty() {
        true => outln!("nothing to clear"),
        false => outln!("cleared: {}", cleared.join(", ")),
    }
    Ok(ExitCode::SUCCESS)
}

fn holder(state_dir: &Path) -> Result<Option<String>, Failure> {
    transhume_agent::holder(state_dir).map_err(|error| Failure::of(&error))
}
