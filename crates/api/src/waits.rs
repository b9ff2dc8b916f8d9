//! What a move waits for, in words: for its report, and for whoever cancels it.

use transhume_protocol::report::{Lost, Wait, WaitReason};

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
        WaitReason::Decision { lost, lost_ms, hint } => {
            let ago = seconds(*lost_ms);
            let what = match lost {
                Lost::Host => format!("for host {host} has been lost for {ago}"),
                Lost::Vm => format!("for host {host} lost it {ago} ago, before it was seen to run"),
            };
            format!("a decision about VM {vm}, {what}: {hint}")
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
            WaitReason::Decision {
                lost: Lost::Host,
                lost_ms: 31_000,
                hint: "fence it".to_owned(),
            },
            WaitReason::Decision {
                lost: Lost::Vm,
                lost_ms: 2_500,
                hint: "resolve it".to_owned(),
            },
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
                "a decision about VM vm1, for host h3 has been lost for 31.0 s: fence it",
                "a decision about VM vm1, for host h3 lost it 2.5 s ago, before it was seen to run: resolve it",
            ]
        );
    }
}
