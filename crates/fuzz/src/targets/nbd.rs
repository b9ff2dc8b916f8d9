//! What answers where a disk is said to be: an export is there only if an NBD server said so, and
//! no answer makes us read without end. The rest of the input is the server's side.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use transhume_agent::testing::nbd_export;

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
/// 32 replies of 64 KiB with their heads.
const READ_BYTES_MAX: usize = 18 + 32 * (20 + (64 << 10));

pub(super) fn check(data: &[u8]) {
    let (mut server, mut said) = (data, Vec::new());
    let asked = nbd_export(tokio::io::join(&mut server, &mut said), "disk");
    // Nothing of it waits: all that the server ever says is here.
    let Poll::Ready(answer) = pin!(asked).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for more than there is");
    };
    let read = data.len() - server.len();
    assert!(read <= READ_BYTES_MAX);
    let greeted = data.starts_with(GREETING);
    match answer {
        Ok(true) => {
            assert!(greeted && read >= 38);
            assert!(said.len() == 4 + 16 + 4 + 4 + 2 + 16, "it takes its leave");
        }
        Ok(false) => assert!(greeted && read >= 38),
        Err(_) => assert!(said.is_empty() || greeted, "a stranger was asked"),
    }
}
