//! `transhume check link`.

use std::process::ExitCode;

use transhume_api::{Client, LinkLimit, LinkView};

use crate::failure::Failure;
use crate::moves::print_json;
use crate::operators::host_name;

pub async fn check(client: &Client, from: &str, to: &str, json: bool) -> Result<ExitCode, Failure> {
    let view = client.check_link(&host_name(from)?, &host_name(to)?).await?;
    if json {
        return print_json(&view);
    }
    out!("{}", text(&view));
    Ok(ExitCode::SUCCESS)
}

fn text(view: &LinkView) -> String {
    let LinkView {
        from,
        to,
        figures,
        band,
        ..
    } = view;
    let gigabytes = figures.bytes.0 as f64 / 1e9;
    let cpu = |us: u64| us as f64 / 1e6 / gigabytes;
    let security = match figures.encrypted {
        true => "over TLS",
        false => "in the clear",
    };
    let band = band.map_or(String::new(), |rate| {
        format!(", VMCT may have {:.0}", rate.bits_per_s() as f64 / 1e6)
    });
    format!(
        "{from} to {to}   {:.0} Mbit/s {security}{band}: {gigabytes:.2} GB in {:.1} s\n\
         round trip  {:.2} ms, {:.2} at most\n\
         processor   {from} {:.2} s for each GB, {to} {:.2}\n\
         limited by  {}\n",
        figures.bits_per_s() / 1e6,
        figures.sent_us as f64 / 1e6,
        figures.round_trip_us as f64 / 1e3,
        figures.round_trip_us_max as f64 / 1e3,
        cpu(figures.source_cpu_us),
        cpu(figures.target_cpu_us),
        limit(view),
    )
}

fn limit(view: &LinkView) -> String {
    let percent = |part_us: u64| 100.0 * part_us as f64 / view.figures.sent_us.max(1) as f64;
    let figures = &view.figures;
    match view.limit {
        LinkLimit::Band => "VMCT's share of the link".to_owned(),
        LinkLimit::TargetAgent => format!(
            "the agent of {}: it kept the sender waiting for {:.0} % of the time, and used {:.0} % of a processor",
            view.to,
            percent(figures.target_limited_us),
            percent(figures.target_cpu_us),
        ),
        LinkLimit::SourceAgent => format!(
            "the agent of {}: it used {:.0} % of a processor",
            view.from,
            percent(figures.source_cpu_us),
        ),
        LinkLimit::Link => "the network between them, or processors that others use".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use transhume_model::{BitRate, Bytes};
    use transhume_protocol::message::LinkFigures;

    use super::*;

    #[test]
    fn what_was_measured_is_told_with_its_limit() {
        let figures = LinkFigures {
            bytes: Bytes(2_000_000_000),
            sent_us: 2_000_000,
            round_trip_us: 85,
            round_trip_us_max: 1_240,
            source_cpu_us: 1_900_000,
            target_cpu_us: 1_000_000,
            target_limited_us: 20_000,
            encrypted: true,
        };
        let view = LinkView {
            from: "h1".parse().unwrap(),
            to: "h2".parse().unwrap(),
            figures,
            band: BitRate::from_bits_per_s(10_000_000_000),
            limit: LinkLimit::SourceAgent,
        };
        assert_eq!(
            text(&view),
            "h1 to h2   8000 Mbit/s over TLS, VMCT may have 10000: 2.00 GB in 2.0 s\n\
             round trip  0.09 ms, 1.24 at most\n\
             processor   h1 0.95 s for each GB, h2 0.50\n\
             limited by  the agent of h1: it used 95 % of a processor\n"
        );
    }
}
