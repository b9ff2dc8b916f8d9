//! From the tap's ring into the spool, one frame at a time.

use std::io;

use rustix::io::Errno;

use crate::error::{Error, IoContext};
use crate::frame::{self, Addresses, Class};
use crate::limits::{EMPTY_LOOKS_MAX, RING_FRAMES};
use crate::spool::{Kind, Spool};
use crate::tap::Tap;

/// What came of reading one frame.
#[derive(Debug)]
pub(crate) enum Read {
    /// A frame; in the spool if it is one to keep.
    Frame(Class),
    /// Nothing is in the ring just now.
    Empty,
    /// The spool is full, or there is no memory.
    Full,
    /// The tap cannot be read and never will be.
    Gone(io::Error),
}

/// Whether an error of a read says that nothing is there to be read just now.
fn is_empty(errno: Errno) -> bool {
    errno == Errno::AGAIN || errno == Errno::WOULDBLOCK
}

/// Reads one frame and keeps it, if it is one to keep. Broadcasts are left out where `broadcasts`
/// is false.
pub(crate) fn read_frame(tap: &Tap, spool: &mut Spool, own: &Addresses, broadcasts: bool) -> Read {
    match read_into_room(tap, spool, own) {
        Ok((class, length)) => {
            keep(spool, class, length, broadcasts);
            Read::Frame(class)
        }
        Err(read) => read,
    }
}

/// Reads one frame and keeps none.
pub(crate) fn look_at_frame(tap: &Tap, spool: &mut Spool, own: &Addresses) -> Read {
    match read_into_room(tap, spool, own) {
        Ok((class, length)) => {
            spool.skip(length);
            Read::Frame(class)
        }
        Err(read) => read,
    }
}

fn read_into_room(tap: &Tap, spool: &mut Spool, own: &Addresses) -> Result<(Class, usize), Read> {
    let vnet = spool.vnet_header_bytes();
    let room = spool.room().ok_or(Read::Full)?;
    let length = loop {
        match tap.read_frame(&mut *room, vnet) {
            Ok(length) => break length,
            Err(Errno::INTR) => {}
            Err(errno) if is_empty(errno) => return Err(Read::Empty),
            Err(errno) => return Err(Read::Gone(errno.into())),
        }
    };
    let class = room
        .get(vnet..length)
        .map_or(Class::Runt, |read| frame::classify(read, own));
    Ok((class, length))
}

fn keep(spool: &mut Spool, class: Class, length: usize, broadcasts: bool) {
    match class {
        Class::Unicast => drop(spool.publish(Kind::Unicast, length)),
        Class::Broadcast if broadcasts => drop(spool.publish(Kind::Broadcast, length)),
        Class::Broadcast
        | Class::Announcement(_)
        | Class::OwnAnnouncement
        | Class::Own
        | Class::Dummy
        | Class::Runt => spool.skip(length),
    }
}

/// Reads what is in the ring of a guest that does not, until it is empty.
pub(crate) fn read_ring(tap: &mut Tap, spool: &mut Spool, own: &Addresses) -> Result<(), Error> {
    tap.look_at_header()?;
    spool.make_room_for_a_ring();
    read_all(tap, spool, own).context(tap.name(), "read the ring")
}

fn read_all(tap: &Tap, spool: &mut Spool, own: &Addresses) -> io::Result<()> {
    // Frames go on coming only as long as the plug was open: no more than a few rings.
    for _ in 0..RING_FRAMES * EMPTY_LOOKS_MAX {
        match read_frame(tap, spool, own, true) {
            Read::Frame(_) => {}
            Read::Empty => return Ok(()),
            Read::Full => return Err(io::ErrorKind::StorageFull.into()),
            Read::Gone(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keeps the frame that was read but not published when the agent was killed, if there is one.
pub(crate) fn keep_unpublished(spool: &mut Spool, own: &Addresses) {
    let vnet = spool.vnet_header_bytes();
    if let Some(length) = spool.unpublished() {
        let class = spool
            .room()
            .map_or(Class::Runt, |room| frame::classify(&room[vnet..length], own));
        keep(spool, class, length, true);
    }
}
