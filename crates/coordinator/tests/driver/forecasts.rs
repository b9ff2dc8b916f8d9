//! Forecasts: made from what message B measured, refused when the band cannot carry them, kept by
//! the journal, judged in the end.

use serde_json::{Value, json};
use transhume_api::{ForecastRecord, PlanView, Score};
use transhume_model::Mebibytes;
use transhume_protocol::message::DirtyRate;
use transhume_protocol::report::{Ending, MigrationReport};

use crate::fake::Fate;
use crate::support::{Site, VMCT_MBIT_S, order, until};

const VMS: [(&str, &str); 3] = [("vm1", "h1"), ("vm2", "h1"), ("vm3", "h2")];

async fn lab() -> Site {
    let site = Site::new(&[("h1", 4), ("h2", 4), ("h3", 4)])
        .await
        .with_lab(&VMS)
        .await;
    // A blackout between a clock that is known and one that is not yet is rightly not given.
    until("every clock is known", async || {
        let hosts = site.hosts().await.hosts;
        hosts.iter().all(|host| host.clock.is_some()).then_some(())
    })
    .await;
    site
}

fn dirties(site: &Site, host: &str, vm: &str, mib_s: u64) {
    let rate = DirtyRate {
        per_second: Mebibytes(mib_s),
        sampled_pages: 2_048,
    };
    site.agents[host]
        .desk()
        .state
        .dirty
        .insert(vm.parse().unwrap(), rate);
}

async fn plan(site: &Site, order: &Value) -> PlanView {
    site.post("/v1/clusters/lab/plan", order).await.is()
}

#[tokio::test]
async fn a_plan_tells_what_to_expect_and_what_was_measured() {
    let site = lab().await;
    dirties(&site, "h1", "vm1", 4);
    let plan = plan(&site, &order(&["h1", "h2"], &["h3"])).await;
    let names: Vec<&str> = plan.forecast.vms.iter().map(|vm| vm.vm.as_str()).collect();
    assert_eq!(names, ["vm1", "vm2", "vm3"]);
    let (measured, assumed) = (&plan.forecast.vms[0], &plan.forecast.vms[1]);
    let dirty = measured.dirty_mib_s.expect("it was measured");
    assert!(
        dirty.low < 4.0 && 5.0 < dirty.high && dirty.high < 8.0,
        "{dirty:?}"
    );
    let guesses = |vm: &transhume_protocol::forecast::VmForecast| {
        vm.assumed.iter().filter(|what| what.contains("dirtied")).count()
    };
    assert_eq!((guesses(measured), guesses(assumed)), (0, 1), "{plan:?}");
    assert_eq!(
        assumed.dirty_mib_s, None,
        "an agent that does not know refuses nothing"
    );
    // All three share h3's link.
    let third = f64::from(VMCT_MBIT_S) / 3.0;
    assert!((measured.rate_mbit_s - third).abs() < 1e-6, "{plan:?}");
    for figure in [
        measured.expected.bytes,
        measured.expected.duration_ms,
        measured.expected.blackout_ms,
    ] {
        assert!(0.0 < figure.low && figure.low < figure.high, "{plan:?}");
    }
    let sum: f64 = plan.forecast.vms.iter().map(|vm| vm.expected.bytes.high).sum();
    assert!((plan.forecast.expected.bytes.high - sum).abs() < 1.0, "{plan:?}");
}

#[tokio::test]
async fn a_vm_that_its_share_of_the_band_cannot_carry_is_refused_before_anything_moves() {
    let site = lab().await;
    dirties(&site, "h1", "vm2", 100);
    let all = order(&["h1", "h2"], &["h3"]);
    for path in ["plan", "migrations"] {
        let problem = site
            .post(&format!("/v1/clusters/lab/{path}"), &all)
            .await
            .refused(409, "dirty-rate");
        assert!(
            problem.message.contains("VM vm2") && problem.message.contains("333 Mbit/s"),
            "{problem:?}"
        );
        let words: Vec<&str> = problem.hint.split_whitespace().collect();
        let needed: f64 = words[0].parse().expect("the rate that would do");
        assert!(needed > f64::from(VMCT_MBIT_S), "{problem:?}");
    }
    assert!(!site.agents["h3"].was_ordered("Reserve"), "nothing was begun");
    site.assert_runs(&VMS);

    // Stopped, it dirties nothing; and nobody is asked how much it does.
    let mut offline = all.clone();
    offline["offline"] = json!(true);
    let offline_plan = plan(&site, &offline).await;
    assert!(
        offline_plan
            .forecast
            .vms
            .iter()
            .all(|vm| vm.dirty_mib_s.is_none()),
        "{offline_plan:?}"
    );
    assert!(
        offline_plan.forecast.expected.blackout_ms.low > 200.0,
        "all of its memory: {offline_plan:?}"
    );
}

fn assert_judged(report: &MigrationReport) {
    assert_eq!(report.outcome, Ending::Committed, "{:?}", report.trouble);
    let whole = report.forecast.expect("it was forecast");
    assert_eq!(whole.duration_ms.actual, Some(report.duration_ms));
    for vm in &report.vms {
        let forecast = vm.forecast.as_ref().expect("it was forecast");
        let (figures, time) = (
            forecast.figures,
            vm.phases.iter().map(|phase| phase.ms).sum::<f64>(),
        );
        assert_eq!(figures.blackout_ms.actual, vm.blackout_ms);
        assert_eq!(figures.bytes.actual, Some(vm.pages.wire.0 as f64));
        assert!(figures.duration_ms.actual.expect("it is over") <= time + 1e-6);
        // Fake agents copy nothing.
        assert_eq!(figures.bytes.inside, Some(false));
        let Some(blackout) = vm.blackout_ms else {
            panic!("both clocks are right: {vm:?}");
        };
        let inside = figures.blackout_ms.forecast.holds(blackout);
        assert_eq!(figures.blackout_ms.inside, Some(inside));
    }
}

#[tokio::test]
async fn the_report_has_actual_figures_beside_the_forecast_and_a_restart_forgets_neither() {
    let mut site = lab().await;
    dirties(&site, "h1", "vm1", 4);
    let expected = plan(&site, &order(&["h1", "h2"], &["h3"])).await.forecast;
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    let report = site.ended(migration).await;
    assert_judged(&report);
    let of_vm1 = report.vms[0].forecast.as_ref().unwrap();
    assert_eq!(of_vm1.dirty_mib_s, expected.vms[0].dirty_mib_s);
    assert_eq!(of_vm1.figures.bytes.forecast, expected.vms[0].expected.bytes);

    let record: ForecastRecord = site.get("/v1/forecasts").await.is();
    assert_eq!(record.bytes, Score { inside: 0, of: 3 });
    assert_eq!(record.blackout_ms.of, 3);
    assert_eq!(record.migrations.len(), 1);
    assert_eq!(Some(record.migrations[0].figures), report.forecast);

    site.end().await;
    site.start().await;
    assert_eq!(site.report(migration).await.vms, report.vms);
    assert_eq!(site.get("/v1/forecasts").await.is::<ForecastRecord>(), record);
}

#[tokio::test]
async fn three_moves_teach_the_next_forecast_and_a_restart_forgets_none_of_it() {
    let mut site = lab().await;
    let (there, back) = (order(&["h1", "h2"], &["h3"]), order(&["h3"], &["h1", "h2"]));
    for (n, order) in [&there, &back, &there].into_iter().enumerate() {
        assert_eq!(
            plan(&site, order).await.forecast.learnt_from,
            0,
            "after {n} moves"
        );
        let migration = site.migrate(order).await;
        assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
    }
    let taught = plan(&site, &back).await.forecast;
    assert_eq!(taught.learnt_from, 9);
    for vm in &taught.vms {
        // Fake agents copy nothing, in no time: the model alone is far off.
        let modelled = vm.modelled.expect("the model's own range is kept");
        assert_eq!(vm.expected.bytes.low, 0.0);
        assert!(vm.expected.bytes.high < modelled.bytes.low, "{vm:?}");
    }
    assert!(taught.expected.duration_ms.high < 1_000.0, "{taught:?}");
    site.end().await;
    site.start().await;
    assert_eq!(plan(&site, &back).await.forecast, taught);

    let migration = site.migrate(&back).await;
    let report = site.ended(migration).await;
    let judged = report.vms[0].forecast.as_ref().expect("it was forecast");
    assert_eq!(judged.modelled, taught.vms[0].modelled);
    assert_eq!(judged.figures.bytes.inside, Some(true));
    let mut offline = there;
    offline["offline"] = json!(true);
    assert_eq!(
        plan(&site, &offline).await.forecast.learnt_from,
        0,
        "another way to move"
    );
}

#[tokio::test]
async fn a_move_under_way_keeps_its_forecast_over_a_restart_and_a_rolled_back_one_is_not_judged() {
    let mut site = lab().await;
    site.agents["h1"].meets("PreCopy", Fate::Nothing);
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    site.ordered("h1", "PreCopy").await;
    let before = site.report(migration).await.forecast.expect("it was forecast");
    site.end().await;
    site.agents["h1"].behaves();
    site.start().await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::RolledBack);
    assert_eq!(report.forecast, Some(before));
    assert_eq!(before.bytes.inside, None);
    assert!(report.vms.iter().all(|vm| {
        let figures = vm.forecast.as_ref().expect("it was forecast").figures;
        figures.duration_ms.actual.is_none() && figures.bytes.actual.is_none()
    }));
    let record: ForecastRecord = site.get("/v1/forecasts").await.is();
    assert_eq!(
        record,
        ForecastRecord::default(),
        "what did not arrive is not judged"
    );
}
