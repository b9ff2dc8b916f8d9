//! A VM's network interface on this host: a tap with its plug, a port of the host's bridge.
//!
//! QEMU gets one descriptor of the tap, the agent keeps another of the same queue: while QEMU does
//! not read, the agent can.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use transhume_model::Mac;
use transhume_netcfg::{Netlink, Port, PortKind, QueueState};

use crate::error::{Error, IoContext};
use crate::frame::{self, Addresses, Signature};
use crate::limits::{OTHER_ADDRESSES_MAX, VNET_HEADER_BYTES_MAX};
use crate::mark::{self, Found, TapMark};
use crate::plug::{Plug, PlugState};
use crate::sys;

const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
/// Length of the virtio-net header that QEMU's modern virtio devices use.
const VNET_HEADER_BYTES: usize = 12;

/// How to make a tap.
#[derive(Debug, Clone)]
pub struct TapConfig {
    /// Name of the interface, 1 to 15 bytes.
    pub name: String,
    /// Bridge whose port it becomes.
    pub bridge: String,
    /// Address of the guest's NIC.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Frames the tap's ring holds while nobody reads.
    pub ring_frames: u32,
    /// Bytes the plug holds while it is shut.
    pub plug_bytes_max: u32,
    /// Shut for a VM that is to come, open for one that lives here.
    pub plug: PlugState,
    /// Whose it is; the link carries it.
    pub mark: TapMark,
}

/// A tap with its plug. Dropping it closes the agent's descriptor; the link stays as long as QEMU
/// holds one.
#[derive(Debug)]
pub struct Tap {
    name: String,
    index: u32,
    fd: OwnedFd,
    plug: Plug,
    /// Length of the header in front of each frame that is read, as it was looked at last. A
    /// guest's driver that starts changes it: only while its guest stands still it stays.
    header_bytes: usize,
}

impl Tap {
    /// Makes the tap: mark and plug first, then the bridge, then up. A target's port does not get
    /// what the bridge floods until its buffer is closed (design §3, broadcast). A tap of the same
    /// mark that nobody holds is one left over, and made anew; whatever else has the name is left
    /// alone.
    pub fn create(config: &TapConfig) -> Result<Self, Error> {
        let name = &config.name;
        let alias = config.mark.alias()?;
        make_room(config)?;
        let bridge = sys::interface_index(&config.bridge).map_err(|source| Error::NoBridge {
            name: config.bridge.clone(),
            source,
        })?;
        let fd = attach(name).context(name, "create the tap")?;
        sys::tun_set_vnet_header_bytes(fd.as_fd(), VNET_HEADER_BYTES)
            .context(name, "set the header length")?;
        let index = sys::interface_index(name).context(name, "find the tap")?;
        let mut plug =
            Plug::of(index, config.mtu, config.plug_bytes_max).context(name, "prepare the plug")?;
        plug.netlink()
            .set_alias(index, &alias)
            .context(name, "mark the tap")?;
        // Without this the host itself sends to the guest (router solicitations). Absent where IPv6
        // is.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        plug.install(config.plug).context(name, "install the plug")?;
        plug.netlink()
            .set_up_port(
                index,
                host_end().context(name, "choose the tap's address")?,
                config.mtu,
                config.ring_frames,
                bridge,
            )
            .context(name, "attach the tap to its bridge")?;
        let flooded = config.plug == PlugState::Open;
        plug.set_flooding(flooded)
            .context(name, "set the port's flooding")?;
        plug.netlink().up(index).context(name, "set the tap up")?;
        if config.plug == PlugState::Shut {
            plug.block().context(name, "block the plug")?;
        }
        let mut tap = Self {
            name: name.clone(),
            index,
            fd,
            plug,
            header_bytes: VNET_HEADER_BYTES,
        };
        // A killed agent may have left diversions that lead nowhere.
        tap.undivert(&Addresses::of(config.mac))?;
        Ok(tap)
    }

    /// Makes the ways out of a host ready to lead past its bridge; when an agent starts. Installing
    /// the hook takes a link's queue away for a moment, which loses what is in it: so it stays.
    pub fn prepare_uplinks(bridge: &str) -> Result<(), Error> {
        let name = bridge.to_owned();
        let index = sys::interface_index(bridge).map_err(|source| Error::NoBridge { name, source })?;
        let mut netlink = Netlink::open().context(bridge, "open a netlink socket")?;
        let ports = netlink
            .ports_of(index)
            .context(bridge, "list the bridge's ports")?;
        for port in ports.iter().filter(|port| port.kind != PortKind::Tap) {
            hook(&mut netlink, port)?;
        }
        Ok(())
    }

    /// The same for ports that came later, well before a switchover. Not for a veth: it leads to a
    /// container of this host, whose frames come here by the pinned address, and its queue stays as
    /// it is.
    pub(crate) fn prepare_late_uplinks(&mut self) -> Result<(), Error> {
        for (port, hooked) in self.wires()? {
            if !hooked && port.kind == PortKind::Wire {
                hook(self.plug.netlink(), &port)?;
            }
        }
        Ok(())
    }

    /// Takes the tap `name` out of a running QEMU, after the agent that made it has ended.
    pub fn take(pid: u32, name: &str, mtu: u16, plug_bytes_max: u32) -> Result<Self, Error> {
        let fd = find_tap(pid, name)?;
        rustix::io::ioctl_fionbio(&fd, true).context(name, "make the tap non-blocking")?;
        let index = sys::interface_index(name).context(name, "find the tap")?;
        let plug = Plug::of(index, mtu, plug_bytes_max).context(name, "take the plug over")?;
        let header_bytes = sys::tun_vnet_header_bytes(fd.as_fd()).context(name, "read the header length")?;
        Ok(Self {
            name: name.to_owned(),
            index,
            fd,
            plug,
            header_bytes,
        })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that the guest has been given since the tap was made.
    pub fn given_bytes(&self) -> Result<u64, Error> {
        Netlink::open()
            .and_then(|mut netlink| netlink.sent_bytes(self.index))
            .context(&self.name, "count what the guest is given")
    }

    /// The descriptor that QEMU inherits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Another handle of the same tap, for a buffer.
    pub(crate) fn share(&self, mtu: u16, plug_bytes_max: u32) -> Result<Self, Error> {
        Ok(Self {
            name: self.name.clone(),
            index: self.index,
            fd: self.fd.try_clone().context(&self.name, "duplicate the tap")?,
            plug: Plug::of(self.index, mtu, plug_bytes_max).context(&self.name, "share the plug")?,
            header_bytes: self.vnet_header_bytes()?,
        })
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn plug(&mut self) -> &mut Plug {
        &mut self.plug
    }

    /// Whether a frame waits in the ring, or comes within `wait`.
    pub(crate) fn readable(&self, wait: std::time::Duration) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        let wait = Timespec::try_from(wait).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(rustix::event::poll(&mut polled, Some(&wait))? > 0)
    }

    /// Length of the header in front of each frame; QEMU may have changed it.
    pub(crate) fn vnet_header_bytes(&self) -> Result<usize, Error> {
        sys::tun_vnet_header_bytes(self.fd.as_fd()).context(&self.name, "read the header length")
    }

    /// Looks again how long the header is of what is read from here on.
    pub(crate) fn look_at_header(&mut self) -> Result<(), Error> {
        self.header_bytes = self.vnet_header_bytes()?;
        Ok(())
    }

    /// Reads one frame behind a header of `kept_bytes`, whatever the tap's own is; returns how many
    /// bytes of `room` both take. What is beyond the shorter of the two headers is for the guest's
    /// receive queue, and zero.
    pub(crate) fn read_frame(&self, room: &mut [u8], kept_bytes: usize) -> rustix::io::Result<usize> {
        if self.header_bytes == kept_bytes {
            return rustix::io::read(&self.fd, room);
        }
        let both = self.header_bytes.min(kept_bytes);
        let (header, frame) = room.split_at_mut(kept_bytes);
        let (header, added) = header.split_at_mut(both);
        added.fill(0);
        let mut left_out = [0; VNET_HEADER_BYTES_MAX];
        let parts = [header, &mut left_out[..self.header_bytes - both], frame];
        let length = rustix::io::readv(&self.fd, &mut parts.map(IoSliceMut::new))?;
        Ok((length + kept_bytes).saturating_sub(self.header_bytes))
    }

    /// The frame enters the bridge as if the guest had sent it.
    pub(crate) fn transmit_as_guest(&self, frame: &[u8]) -> Result<(), Error> {
        let mut bytes = vec![0; self.vnet_header_bytes()?];
        bytes.extend(frame);
        rustix::io::write(&self.fd, &bytes).context(&self.name, "announce the VM")?;
        Ok(())
    }

    /// Announces all addresses of a guest, its NIC's last.
    pub(crate) fn announce(&self, own: &Addresses, signature: Option<Signature>) -> Result<(), Error> {
        own.all()
            .try_for_each(|mac| self.transmit_as_guest(&frame::announcement(mac, signature)))
    }

    /// The addresses that the bridge has on the guest's port, its NIC's among them.
    pub(crate) fn learned(&mut self) -> Result<Vec<Mac>, Error> {
        let index = self.index;
        self.plug
            .netlink()
            .addresses_on(index, OTHER_ADDRESSES_MAX + 1)
            .context(&self.name, "list the guest's addresses")
    }

    /// Frames for the VM that come to this host from outside go straight to the tap, until the old
    /// path closes. Whatever the bridge has heard by then, a late one is not turned away at the
    /// port where the VM is now known to be. A port that is not prepared is none of ours: what
    /// comes by it is brought here by the pinned address.
    pub(crate) fn divert(&mut self, own: &Addresses) -> Result<(), Error> {
        let index = self.index;
        for port in self.uplinks()? {
            for mac in own.all() {
                self.plug
                    .netlink()
                    .divert(port.index, mac, index)
                    .context(&port.name, "divert the VM's frames past the bridge")?;
            }
        }
        Ok(())
    }

    /// The bridge gets them again.
    pub(crate) fn undivert(&mut self, own: &Addresses) -> Result<(), Error> {
        for port in self.uplinks()? {
            for mac in own.all() {
                self.plug
                    .netlink()
                    .undivert(port.index, mac)
                    .context(&port.name, "lead the VM's frames to the bridge again")?;
            }
        }
        Ok(())
    }

    /// The bridge's ports that are prepared for diversions.
    fn uplinks(&mut self) -> Result<Vec<Port>, Error> {
        let wires = self.wires()?.into_iter();
        Ok(wires
            .filter_map(|(port, hooked)| hooked.then_some(port))
            .collect())
    }

    /// The bridge's ports that are no taps, and whether each is prepared for diversions.
    fn wires(&mut self) -> Result<Vec<(Port, bool)>, Error> {
        let index = self.index;
        let netlink = self.plug.netlink();
        let ports = netlink
            .ports_beside(index)
            .context(&self.name, "list the bridge's ports")?;
        let hooked = netlink
            .hooked_links()
            .context(&self.name, "list the ports that can be diverted")?;
        let wires = ports.into_iter().filter(|port| port.kind != PortKind::Tap);
        Ok(wires
            .map(|port| {
                let hooked = hooked.contains(&port.index);
                (port, hooked)
            })
            .collect())
    }

    /// From the capture on: what other VMs and containers of this host send goes on coming here
    /// even after the bridge heard the announcement.
    pub(crate) fn pin(&mut self, own: &Addresses) -> Result<(), Error> {
        let index = self.index;
        for mac in own.all() {
            self.plug
                .netlink()
                .pin(index, mac)
                .context(&self.name, "pin the VM's address to its port")?;
        }
        Ok(())
    }

    /// Abort: the VM lives here as before.
    pub(crate) fn unpin(&mut self, own: &Addresses) -> Result<(), Error> {
        let index = self.index;
        for mac in own.all() {
            self.plug
                .netlink()
                .unpin(index, mac)
                .context(&self.name, "unpin the VM's address")?;
        }
        Ok(())
    }

    /// The old path ends for the VMs of this host: what they send goes out to where the VM lives
    /// now, and is not flooded to here.
    pub(crate) fn release_mac(&mut self, own: &Addresses) -> Result<(), Error> {
        let index = self.index;
        let netlink = self.plug.netlink();
        netlink
            .set_flooding_unicast(index, false)
            .context(&self.name, "stop flooding to the old port")?;
        for mac in own.all() {
            netlink
                .forget(index, mac)
                .context(&self.name, "forget the VM's address")?;
        }
        Ok(())
    }

    /// Whether nothing waits in the plug, which is open: what was sent here is in the ring, or was
    /// read.
    pub(crate) fn plug_is_empty(&mut self) -> Result<bool, Error> {
        Ok(self.live_state("look into the plug")?.waiting_frames == 0)
    }

    /// Frames that were read from the ring since the tap was made.
    pub(crate) fn taken(&mut self) -> Result<u64, Error> {
        Ok(self.live_state("read the counters")?.passed_frames)
    }

    /// The counters of a tap that is up; one that is down loses what is sent to it.
    fn live_state(&mut self, step: &'static str) -> Result<QueueState, Error> {
        let state = self.plug.state().context(&self.name, step)?;
        match state.up {
            true => Ok(state),
            false => Err(io::Error::from_raw_os_error(libc::ENETDOWN)).context(&self.name, step),
        }
    }

    /// Frames that the plug and the ring dropped since they were made.
    pub(crate) fn dropped(&mut self) -> Result<u64, Error> {
        let state = self.plug.state().context(&self.name, "read the drop counters")?;
        Ok(state.dropped_frames)
    }

    /// Removes the link, whoever holds it.
    pub fn delete(mut self) -> Result<(), Error> {
        let index = self.index;
        self.plug
            .netlink()
            .delete(index)
            .context(&self.name, "delete the tap")
    }
}

/// A descriptor attached to the tap `name`, which is made if it is not there.
fn attach(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let fd = OwnedFd::from(file);
    rustix::io::ioctl_fionbio(&fd, true)?;
    sys::tun_set_interface(fd.as_fd(), name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)?;
    Ok(fd)
}

/// Removes a tap left over under the name that is wanted. The kernel attaches a second reader to no
/// tap of a single queue: so whether anybody holds it is asked by trying.
fn make_room(config: &TapConfig) -> Result<(), Error> {
    let name = &config.name;
    let mut netlink = Netlink::open().context(name, "open a netlink socket")?;
    match mark::look(&mut netlink, name, &config.mark)? {
        None => return Ok(()),
        Some(Found::Foreign(found)) => {
            let name = name.clone();
            return Err(Error::ForeignInterface { name, found });
        }
        Some(Found::Ours) => {}
    }
    match attach(name) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(Error::TapInUse {
            holder: mark::holder(name),
            name: name.clone(),
        }),
        Err(error) => Err(error).context(name, "attach to the tap left over"),
        Ok(_attached) => {
            let index = sys::interface_index(name).context(name, "find the tap left over")?;
            netlink.delete(index).context(name, "remove the tap left over")
        }
    }
}

fn hook(netlink: &mut Netlink, port: &Port) -> Result<(), Error> {
    netlink
        .hook(port.index)
        .context(&port.name, "install the hook for diversions")
}

/// The tap's own address. High, since a bridge takes the lowest of its ports' and a tap's comes and
/// goes; and of this tap alone: were it made from the guest's, the target's bridge would take the
/// address of a source whose bridge has it for its own.
fn host_end() -> io::Result<Mac> {
    let mut bytes = [0xfe, 0xff, 0, 0, 0, 0];
    sys::random(&mut bytes[2..])?;
    Ok(Mac::new(bytes).expect("neither a group nor zero"))
}

fn find_tap(pid: u32, name: &str) -> Result<OwnedFd, Error> {
    let missing = || Error::NoTapInProcess {
        pid,
        name: name.to_owned(),
    };
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(missing)?;
    let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).context(name, "open QEMU's process")?;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context(name, "list QEMU's descriptors")? {
        let entry = entry.context(name, "list QEMU's descriptors")?;
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let is_ours = mark::names_tap(&info, name);
        let number = entry.file_name().to_str().and_then(|number| number.parse().ok());
        if let (true, Some(number)) = (is_ours, number) {
            let fd = rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
                .context(name, "take the tap out of QEMU")?;
            if sys::tun_interface(fd.as_fd()).is_ok_and(|found| found == name) {
                return Ok(fd);
            }
        }
    }
    Err(missing())
}
