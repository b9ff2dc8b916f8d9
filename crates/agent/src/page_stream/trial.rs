//! A link check: what a page stream could do between two agents, without a VM
//! (`docs/design/link-check.md`).

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use transhume_model::{Bytes, Endpoint, Epoch, VmName};
use transhume_netbuf::Delivered;
use transhume_protocol::message::LinkFigures;
use transhume_trust::draw_secret;

use super::connection::Connection;
use super::{Pages, Secured, greet, invalid};
use crate::limits::{LINK_TRIAL_MAX, LINK_TRIALS_MAX, PAGE_CHUNK_BYTES};

/// What stands in the hello in place of a VM's name.
const NAME: &str = "link-check";
/// Bytes that go there and back, one after the other.
const ROUND_TRIPS: usize = 64;
/// How long bytes are sent.
const SENDING: Duration = Duration::from_secs(2);
/// A piece's length in front of it; 0 is the end.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Those that wait or run.
static TRIALS: Semaphore = Semaphore::const_new(LINK_TRIALS_MAX);

/// Waits for another agent that tries the link, for [`LINK_TRIAL_MAX`]; says where.
pub(crate) async fn hear(listen: IpAddr, pages: &Pages) -> io::Result<Endpoint> {
    let listener = TcpListener::bind((listen, 0)).await?.into_std()?;
    let at = Endpoint {
        host: pages.host.clone(),
        address: listener.local_addr()?,
        secret: draw_secret(),
    };
    let expected = greet::Hello {
        epoch: Epoch::default(),
        secret: at.secret.clone(),
        vm: NAME.to_owned(),
    };
    let secured = pages.secured.clone();
    let heard = on_a_thread(async move || {
        let listener = TcpListener::from_std(listener)?;
        let connection = greet::welcome(&listener, &expected, &secured).await?;
        receive(connection).await
    })?;
    tokio::spawn(async move {
        if let Err(error) = heard.await.unwrap_or_else(|_| Err(cut_off())) {
            tracing::warn!(%error, "a link check came to nothing");
        }
    });
    Ok(at)
}

/// Tries the link to an agent that waits.
pub(crate) async fn try_link(target: Endpoint, pages: &Pages) -> io::Result<LinkFigures> {
    let secured = pages.secured.clone();
    let tried = on_a_thread(async move || send(&target, &secured).await)?;
    tried.await.map_err(|_| cut_off())?
}

fn cut_off() -> io::Error {
    io::Error::other("its thread ended")
}

/// One thread does all the work of an end, so that the clock of its processor time knows it.
fn on_a_thread<T: Send + 'static>(
    work: impl AsyncFnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<T>>> {
    let turn = TRIALS.try_acquire().map_err(|_| {
        io::Error::other(format!(
            "{LINK_TRIALS_MAX} link checks are under way on this host"
        ))
    })?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (done, over) = oneshot::channel();
    std::thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        let limited = async { timeout(LINK_TRIAL_MAX, work()).await };
        let ended = runtime.block_on(limited);
        drop(turn);
        // Whoever asked may have gone.
        let _ = done.send(ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
    })?;
    Ok(over)
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

async fn send(target: &Endpoint, secured: &Secured) -> io::Result<LinkFigures> {
    let name: VmName = NAME.parse().map_err(invalid)?;
    let mut connection = greet::greet(target, &name, Epoch::default(), secured).await?;
    let mut trips = [Duration::ZERO; ROUND_TRIPS];
    for trip in &mut trips {
        let begun = Instant::now();
        connection.say(&[0]).await?;
        connection.hear(&mut [0]).await?;
        *trip = begun.elapsed();
    }
    trips.sort();
    let piece = piece();
    let before = Delivered::of(&connection.stream)?.receiver_limited_us;
    let (begun, worked) = (Instant::now(), processor_time());
    while begun.elapsed() < SENDING {
        connection.say(&piece).await?;
    }
    connection.say(&[0; LENGTH_BYTES]).await?;
    let (mut bytes, mut target_cpu_us) = ([0; 8], [0; 8]);
    connection.hear(&mut bytes).await?;
    connection.hear(&mut target_cpu_us).await?;
    Ok(LinkFigures {
        bytes: Bytes(u64::from_be_bytes(bytes)),
        sent_us: micros(begun.elapsed()),
        round_trip_us: micros(trips[ROUND_TRIPS / 2]),
        round_trip_us_max: micros(trips[ROUND_TRIPS - 1]),
        source_cpu_us: micros(processor_time() - worked),
        target_cpu_us: u64::from_be_bytes(target_cpu_us),
        target_limited_us: Delivered::of(&connection.stream)?.receiver_limited_us - before,
        encrypted: !secured.security.is_insecure(),
    })
}

/// Bytes that nothing on the way makes shorter.
fn piece() -> Vec<u8> {
    let mut word = 0x9e37_79b9_u32;
    let noise = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        word.to_le_bytes()
    });
    let length = (PAGE_CHUNK_BYTES as u32).to_be_bytes();
    let content = noise.flatten().take(PAGE_CHUNK_BYTES);
    length.into_iter().chain(content).collect()
}

async fn receive(mut connection: Connection) -> io::Result<()> {
    for _ in 0..ROUND_TRIPS {
        connection.hear(&mut [0]).await?;
        connection.say(&[0]).await?;
    }
    let (mut bytes, worked) = (0, processor_time());
    loop {
        let mut length = [0; LENGTH_BYTES];
        connection.hear(&mut length).await?;
        match u32::from_be_bytes(length) as usize {
            0 => break,
            length if length > PAGE_CHUNK_BYTES => return Err(io::ErrorKind::InvalidData.into()),
            length => connection.pass_over(length).await?,
        }
        bytes += u64::from(u32::from_be_bytes(length));
    }
    let mut account = bytes.to_be_bytes().to_vec();
    account.extend(micros(processor_time() - worked).to_be_bytes());
    connection.say(&account).await
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use transhume_pages::Classes;
    use transhume_trust::Security;

    use super::*;
    use crate::page_stream::PageShare;

    fn pages() -> Pages {
        Pages {
            share: PageShare::new(Bytes(1 << 20)),
            classes: Classes::default(),
            host: "h1".parse().unwrap(),
            secured: Secured::by(Security::Insecure),
        }
    }

    #[tokio::test]
    async fn what_is_sent_arrives_and_is_told() {
        let (source, target) = (pages(), pages());
        let at = hear(Ipv4Addr::LOCALHOST.into(), &target).await.unwrap();
        let figures = try_link(at, &source).await.unwrap();
        assert!(figures.bytes.0 > 0 && figures.bytes.0.is_multiple_of(PAGE_CHUNK_BYTES as u64));
        assert!(figures.sent_us >= micros(SENDING), "{figures:?}");
        assert!(figures.round_trip_us <= figures.round_trip_us_max, "{figures:?}");
        assert!(
            figures.source_cpu_us > 0 && figures.target_cpu_us > 0 && !figures.encrypted,
            "{figures:?}"
        );
    }

    #[tokio::test]
    async fn whoever_does_not_know_the_secret_is_turned_away() {
        let (source, target) = (pages(), pages());
        let at = hear(Ipv4Addr::LOCALHOST.into(), &target).await.unwrap();
        let guessed = Endpoint {
            secret: draw_secret(),
            ..at.clone()
        };
        try_link(guessed, &source).await.unwrap_err();
        try_link(at, &source).await.unwrap();
    }
}
