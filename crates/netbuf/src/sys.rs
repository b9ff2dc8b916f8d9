//! The system calls that the standard library and rustix do not offer. The only unsafe code of this
//! crate.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, sockaddr_ll};

use crate::Delivered;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNGETVNETHDRSZ: libc::c_ulong = 0x8004_54d7;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const PACKET_VNET_HDR: c_int = 15;
const PACKET_QDISC_BYPASS: c_int = 20;
const PACKET_IGNORE_OUTGOING: c_int = 23;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// An interface request with its name filled in.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data; all zeroes is a valid value of it.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "interface name of 1 to 15 bytes expected",
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Makes the open tun device `fd` the tap `name`, which is created.
pub(crate) fn tun_set_interface(fd: BorrowedFd<'_>, name: &str, flags: i16) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: `request` is a valid ifreq that outlives the call; TUNSETIFF reads and writes just
    // that.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &mut request) }).map(drop)
}

/// Name of the tap that `fd` is attached to.
pub(crate) fn tun_interface(fd: BorrowedFd<'_>) -> io::Result<String> {
    // SAFETY: ifreq is plain data; all zeroes is a valid value of it.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &mut request) })?;
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|&byte| byte as u8)
        .take_while(|&byte| byte != 0)
        .collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Bytes of the virtio-net header in front of each frame read from or written to the tap.
pub(crate) fn tun_vnet_header_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETVNETHDRSZ, &mut bytes) })?;
    Ok(bytes as usize)
}

/// Sets the length of that header.
pub(crate) fn tun_set_vnet_header_bytes(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = bytes as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &bytes) }).map(drop)
}

/// Fills `bytes` with numbers that nobody can guess.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `bytes`, which the kernel only writes to.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(filled) {
        Ok(filled) if filled == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The index of an interface of this network namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let text = std::ffi::CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `text` is a terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Words of `struct tcp_info`, of which all fields from `tcpi_pacing_rate` on are of 64 bits or
/// pairs of 32.
const TCP_INFO_WORDS: usize = 23;
/// Byte and bit of its `tcpi_delivery_rate_app_limited`, on machines that count bits from the low
/// end.
const TCP_INFO_APP_LIMITED: (usize, u8) = (7, 1);
/// Words where its `tcpi_bytes_acked`, `tcpi_delivery_rate` and `tcpi_rwnd_limited` stand.
const TCP_INFO_BYTES_ACKED: usize = 15;
const TCP_INFO_DELIVERY_RATE: usize = 20;
const TCP_INFO_RWND_LIMITED: usize = 22;

/// Bytes acknowledged, and how the latest flight fared (libc's `tcp_info` ends before both).
pub(crate) fn tcp_delivered(fd: BorrowedFd<'_>) -> io::Result<Delivered> {
    let mut words = [0u64; TCP_INFO_WORDS];
    let mut length = size_of_val(&words) as u32;
    // SAFETY: the kernel writes at most `length` bytes to `words`, whose size that is; any bytes
    // are valid words.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    Ok(Delivered {
        bytes: words[TCP_INFO_BYTES_ACKED],
        bytes_per_second: words[TCP_INFO_DELIVERY_RATE],
        receiver_limited_us: words[TCP_INFO_RWND_LIMITED],
        sender_limited: words[0].to_ne_bytes()[TCP_INFO_APP_LIMITED.0] & TCP_INFO_APP_LIMITED.1 != 0,
    })
}

/// What a packet socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PacketUse {
    /// Send past the qdisc, straight to the reader of the tap, with a virtio-net header.
    Inject,
    /// Send through the qdisc.
    Queue,
    /// Receive what the reader of the tap sends, with kernel time stamps.
    Watch,
}

/// A packet socket on one interface.
pub(crate) fn packet_socket(index: u32, purpose: PacketUse) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are passed; a non-negative result is a descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?) };
    let protocol = match purpose {
        PacketUse::Inject => {
            set_option(&fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
            set_option(&fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
            0
        }
        PacketUse::Queue => 0,
        PacketUse::Watch => {
            set_option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
            set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
            set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, WATCH_BUFFER_BYTES)?;
            (libc::ETH_P_ALL as u16).to_be()
        }
    };
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as c_int;
    // SAFETY: the address and its length describe one sockaddr_ll.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<sockaddr_ll>() as u32,
        )
    })?;
    Ok(fd)
}

/// Receive buffer of a watching socket.
const WATCH_BUFFER_BYTES: c_int = 4 << 20;

fn set_option(fd: &OwnedFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: value and length describe one int.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as u32,
        )
    })
    .map(drop)
}

/// Most frames of one system call.
pub(crate) const SEND_BATCH_MAX: usize = 64;

/// Sends up to [`SEND_BATCH_MAX`] frames, each of two parts; returns how many the kernel took.
pub(crate) fn send_frames(fd: BorrowedFd<'_>, frames: &[[&[u8]; 2]]) -> io::Result<usize> {
    let count = frames.len().min(SEND_BATCH_MAX);
    // SAFETY: iovec and mmsghdr are plain data; all zeroes is valid.
    let (mut parts, mut messages): (
        [[libc::iovec; 2]; SEND_BATCH_MAX],
        [libc::mmsghdr; SEND_BATCH_MAX],
    ) = unsafe { (zeroed(), zeroed()) };
    for (index, frame) in frames[..count].iter().enumerate() {
        for (part, bytes) in parts[index].iter_mut().zip(frame) {
            *part = libc::iovec {
                iov_base: bytes.as_ptr() as *mut c_void,
                iov_len: bytes.len(),
            };
        }
        messages[index].msg_hdr.msg_iov = parts[index].as_mut_ptr();
        messages[index].msg_hdr.msg_iovlen = 2;
    }
    // SAFETY: the first `count` messages point to `parts`, which point to the borrowed frames; all
    // outlive the call, and sending only reads the frames.
    check(unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count as u32, 0) })
        .map(|sent| sent as usize)
}

/// One received packet: how much of it fits `bytes`, and when the kernel saw it, in microseconds
/// since 1970.
pub(crate) fn receive_stamped(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<u64>)> {
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control = [0u64; 16];
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message describes `bytes` and `control`, both writable and alive during the call.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled in the control part of `message`; CMSG_FIRSTHDR checks its
    // length.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    let stamped = !header.is_null() && {
        // SAFETY: a non-null result points to a whole header inside `control`.
        let header = unsafe { &*header };
        header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_TIMESTAMPNS
    };
    if !stamped {
        return Ok((length as usize, None));
    }
    // SAFETY: a control message of this type carries one timespec, possibly unaligned.
    let time: libc::timespec = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
    Ok((
        length as usize,
        Some(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000),
    ))
}

/// A shared mapping of a file, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping is plain memory owned by this value; moving it to another thread moves that
// ownership.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference only reads, and writing needs an exclusive one.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of `file`, which must be at least as long and must not shrink while
    /// mapped.
    pub(crate) fn new(file: &std::fs::File, bytes: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` and `bytes` describe the live mapping; the file is this process' own,
        // nobody else writes it.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    /// All of it, to write.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only slice.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    /// Publishes a word: everything written before it is in the mapping before it.
    pub(crate) fn store_release(&mut self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes);
        // SAFETY: inside the mapping and aligned (mappings are page-aligned), and `&mut self`
        // excludes other references.
        let word = unsafe { std::sync::atomic::AtomicU64::from_ptr(self.start.add(offset).cast()) };
        word.store(value, std::sync::atomic::Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and nothing borrows it any more. The result only
        // says that an address was wrong.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}
