//! A coordinator that does not lead: whoever asks it is sent to the one that does, and a client
//! with a list of addresses finds it.

use std::time::Duration;

use reqwest::redirect::Policy;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use transhume_api::{Client, ClientError, NO_LEADER, NOT_LEADER};
use transhume_coordinator::journal::{Journal, JournalError, MemoryJournal};
use transhume_coordinator::{Standing, run_when};

use crate::support::{Site, until};

fn follows(leader: &str) -> Standing {
    Standing::Follows {
        leader: leader.to_owned(),
    }
}

/// Status, place to go, body.
async fn ask(client: &reqwest::Client, path: &str) -> Option<(u16, Option<String>, Value)> {
    let answer = client.post(format!("http://c{path}")).send().await.ok()?;
    let place = answer.headers().get("location");
    let place = place.map(|place| place.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    Some((status, place, answer.json().await.unwrap_or_default()))
}

#[tokio::test]
async fn a_follower_sends_on_until_it_leads() {
    let site = Site::dark(&[("h1", 4)]);
    let config = site.config();
    let socket = config.api_socket.clone().unwrap();
    let client = reqwest::Client::builder()
        .unix_socket(socket.clone())
        .redirect(Policy::none());
    let client = client.build().unwrap();
    let (standing, seen) = watch::channel(Standing::Waits {
        what: "nobody was asked yet".to_owned(),
    });
    let (lead, led) = oneshot::channel::<()>();
    let journal = async move {
        drop(led.await);
        standing.send_replace(follows("http://127.0.0.1:1"));
        // Long enough to be asked in between.
        tokio::time::sleep(Duration::from_millis(500)).await;
        standing.send_replace(Standing::Leads);
        Ok::<_, JournalError>(Box::new(MemoryJournal::default()) as Box<dyn Journal>)
    };
    let coordinator = tokio::spawn(run_when(config, seen, journal));
    let (status, place, problem) = until("it answers", async || ask(&client, "/v1/drains").await).await;
    assert_eq!((status, place), (503, None));
    assert_eq!(problem["code"], NO_LEADER);
    assert!(
        problem["message"]
            .as_str()
            .unwrap()
            .ends_with("nobody was asked yet"),
        "{problem}"
    );
    let own = Client::unix(&socket);
    let refused = own.hosts().await.unwrap_err();
    assert!(refused.is_away(), "{refused}");
    lead.send(()).unwrap();
    let sent_on = async || {
        let answer = ask(&client, "/v1/clusters/lab/plan?x=1").await?;
        (answer.0 == 307).then_some(answer)
    };
    let (_, place, problem) = until("it follows", sent_on).await;
    assert_eq!(
        place.as_deref(),
        Some("http://127.0.0.1:1/v1/clusters/lab/plan?x=1")
    );
    assert_eq!(problem["code"], NOT_LEADER);
    until("it leads", async || own.hosts().await.ok()).await;
    coordinator.abort();
}

#[tokio::test]
async fn a_client_with_a_list_finds_whoever_leads() {
    let leader = Site::new(&[("h1", 4)]).await;
    let follower = Site::dark(&[("h1", 4)]);
    let (_standing, seen) = watch::channel(follows("http://127.0.0.1:1"));
    let never = std::future::pending::<Result<Box<dyn Journal>, JournalError>>();
    let coordinator = tokio::spawn(run_when(follower.config(), seen, never));
    let own = Client::unix(&follower.config().api_socket.unwrap());
    // Alone it can only be sent to where nobody is.
    let sent_on = async || {
        own.hosts()
            .await
            .err()
            .filter(|error| !error.to_string().contains("api.sock"))
    };
    let refused = until("the follower answers", sent_on).await;
    assert!(matches!(refused, ClientError::Unreachable { .. }), "{refused}");
    let at = |site: &Site| format!("unix:{}", site.config().api_socket.unwrap().display());
    let list = format!("unix:/nobody/is/here.sock,{},{}", at(&follower), at(&leader));
    let client = Client::new(&list, None).unwrap();
    for _ in 0..2 {
        let hosts = timeout(Duration::from_secs(20), client.hosts())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(hosts.hosts.len(), 1);
    }
    coordinator.abort();
}
