//! What a move waits for, in words: for its report, and for whoever cancels it.

use transhume_protocol::report::{Wait, WaitReason};

const MS_PER_S: f64 = 1_000.0;

/// One wait, as part of a sentence.
pub fn wait_in_words(wait: &Wait) -> String {
    let Wait {
        vm,
        order,
        host,
        since_ms,
        why,
    } = wait;
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / MS_PER_S);
    match why {
        WaitReason::InFlight => {
            let since = seconds(*since_ms);
            format!(
                "host {host}, which has not answered `{}` for VM {vm} for {since}",
                order.name()
            )
        }
        WaitReason::BackingOff { reason } => format!(
            "host {host}, where `{}` for VM {vm} failed and is tried again: {reason}",
            order.name()
        ),
        WaitReason::Decision { lost_ms, hint } => {
            let lost = seconds(*lost_ms);
            format!("a decision about VM {vm}, for host {host} has been lost for {lost}: {hint}")
        }
        WaitReason::NotConnected { lost_ms } => {
            let lost = seconds(*lost_ms);
            format!(
                "the agent of host {host}, away for {lost}, to do `{}` for VM {vm}",
                order.name()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_protocol::message::OrderKind;

    #[test]
    fn each_wait_names_host_vm_and_order() {
        let whys = [
            WaitReason::InFlight,
            WaitReason::BackingOff {
                reason: "no space left".to_owned(),
            },
            WaitReason::NotConnected { lost_ms: 12_340 },
        ];
        let words = whys.map(|why| {
            wait_in_words(&Wait {
                vm: "vm1".parse().unwrap(),
                order: OrderKind::AbortTarget,
                host: "h3".parse().unwrap(),
                since_ms: 1_500,
                why,
            })
        });
        assert_eq!(
            words,
            [
                "host h3, which has not answered `AbortTarget` for VM vm1 for 1.5 s",
                "host h3, where `AbortTarget` for VM vm1 failed and is tried again: no space left",
                "the agent of host h3, away for 12.3 s, to do `AbortTarget` for VM vm1",
            ]
        );
    }
}
