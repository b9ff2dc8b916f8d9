//! A VM's network interface on this host: a tap with its plug, a port of the host's bridge.
//!
//! QEMU gets one descriptor of the tap, the agent keeps another of the same queue: while QEMU does not read, the agent can.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use transhume_model::Mac;
use transhume_netcfg::{Netlink, Port};

use crate::error::{Error, IoContext};
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
    /// Name of the interface, 1 to 15 bytes, not taken in this namespace.
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
}

/// A tap with its plug. Dropping it closes the agent's descriptor; the link stays as long as QEMU holds one.
#[derive(Debug)]
pub struct Tap {
    name: String,
    index: u32,
    fd: OwnedFd,
    plug: Plug,
}

impl Tap {
    /// Makes the tap: plug first, then the bridge, then up. A target's port does not get what the bridge floods until
    /// its buffer is closed (design §3, broadcast).
    pub fn create(config: &TapConfig) -> Result<Self, Error> {
        let name = &config.name;
        let taken = sys::interface_index(name).is_ok();
        if taken {
            return Err(Error::NameTaken { name: name.clone() });
        }
        let bridge = sys::interface_index(&config.bridge).map_err(|source| Error::NoBridge {
            name: config.bridge.clone(),
            source,
        })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context(name, "open /dev/net/tun")?;
        let fd = OwnedFd::from(file);
        rustix::io::ioctl_fionbio(&fd, true).context(name, "make the tap non-blocking")?;
        sys::tun_set_interface(fd.as_fd(), name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
            .context(name, "create the tap")?;
        sys::tun_set_vnet_header_bytes(fd.as_fd(), VNET_HEADER_BYTES)
            .context(name, "set the header length")?;
        let index = sys::interface_index(name).context(name, "find the tap")?;
        let mut plug =
            Plug::of(index, config.mtu, config.plug_bytes_max).context(name, "prepare the plug")?;
        // Without this the host itself speaks to the guest (router solicitations). Absent where IPv6 is.
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
        };
        // A killed agent may have left one that leads nowhere.
        tap.undivert(config.mac)?;
        Ok(tap)
    }

    /// Makes the ways out of a host ready to lead past its bridge; once, when an agent starts. Installing the hook takes a link's queue away
    /// for a moment, which loses what is in it: so it stays.
    pub fn prepare_uplinks(bridge: &str) -> Result<(), Error> {
        let name = bridge.to_owned();
        let index = sys::interface_index(bridge).map_err(|source| Error::NoBridge { name, source })?;
        let mut netlink = Netlink::open().context(bridge, "open a netlink socket")?;
        for port in netlink
            .ports_of(index)
            .context(bridge, "list the bridge's ports")?
        {
            if !port.tap {
                netlink
                    .hook(port.index)
                    .context(&port.name, "install the hook for diversions")?;
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
        Ok(Self {
            name: name.to_owned(),
            index,
            fd,
            plug,
        })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
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

    /// Speaks for the guest: the frame enters the bridge as if the guest had sent it.
    pub(crate) fn speak(&self, frame: &[u8]) -> Result<(), Error> {
        let mut bytes = vec![0; self.vnet_header_bytes()?];
        bytes.extend(frame);
        rustix::io::write(&self.fd, &bytes).context(&self.name, "announce the VM")?;
        Ok(())
    }

    /// Frames for the VM that come to this host from outside go straight to the tap, until the old path closes. Whatever the bridge has
    /// heard by then, a late one is not turned away at the port where the VM is now known to be.
    pub(crate) fn divert(&mut self, mac: Mac) -> Result<(), Error> {
        let index = self.index;
        for port in self.uplinks()? {
            self.plug
                .netlink()
                .divert(port.index, mac, index)
                .context(&port.name, "divert the VM's frames past the bridge")?;
        }
        Ok(())
    }

    /// The bridge gets them again.
    pub(crate) fn undivert(&mut self, mac: Mac) -> Result<(), Error> {
        for port in self.uplinks()? {
            self.plug
                .netlink()
                .undivert(port.index, mac)
                .context(&port.name, "give the VM's frames back to the bridge")?;
        }
        Ok(())
    }

    /// The bridge's ports that are no taps: ways out of this host.
    fn uplinks(&mut self) -> Result<Vec<Port>, Error> {
        let index = self.index;
        let mut ports = self
            .plug
            .netlink()
            .ports_beside(index)
            .context(&self.name, "list the bridge's ports")?;
        ports.retain(|port| !port.tap);
        Ok(ports)
    }

    /// From the capture on: what other VMs of this host send goes on coming here even after the bridge heard the announcement.
    pub(crate) fn pin(&mut self, mac: Mac) -> Result<(), Error> {
        let index = self.index;
        self.plug
            .netlink()
            .pin(index, mac)
            .context(&self.name, "pin the VM's address to its port")
    }

    /// Abort: the VM lives here as before.
    pub(crate) fn unpin(&mut self, mac: Mac) -> Result<(), Error> {
        let index = self.index;
        self.plug
            .netlink()
            .unpin(index, mac)
            .context(&self.name, "unpin the VM's address")
    }

    /// The old path ends for the VMs of this host: what they send goes out to where the VM lives now, and is not flooded to here.
    pub(crate) fn let_go(&mut self, mac: Mac) -> Result<(), Error> {
        let index = self.index;
        self.plug
            .netlink()
            .set_flooding_unicast(index, false)
            .context(&self.name, "stop flooding to the old port")?;
        self.plug
            .netlink()
            .forget(index, mac)
            .context(&self.name, "forget the VM's address")
    }

    /// Whether nothing waits in the plug, which is open: what was sent here is in the ring, or was read.
    pub(crate) fn plug_is_empty(&mut self) -> Result<bool, Error> {
        let state = self.plug.state().context(&self.name, "look into the plug")?;
        Ok(state.waiting_frames == 0)
    }

    /// Frames that the plug and the ring dropped since they were made.
    pub(crate) fn dropped(&mut self) -> Result<u64, Error> {
        let state = self.plug.state().context(&self.name, "read the drop counters")?;
        Ok(state.dropped_frames)
    }

    /// Frames that were read from the ring since the tap was made.
    pub(crate) fn taken(&mut self) -> Result<u64, Error> {
        let state = self.plug.state().context(&self.name, "read the counters")?;
        Ok(state.passed_frames)
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

/// The tap's own address. High, since a bridge takes the lowest of its ports' and a tap's comes and goes; and of this tap alone: were it
/// made from the guest's, the target's bridge would take the address of a source whose bridge has it for its own.
fn host_end() -> io::Result<Mac> {
    let mut bytes = [0xfe, 0xff, 0, 0, 0, 0];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes[2..])?;
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
        let is_ours = info
            .lines()
            .any(|line| line.strip_prefix("iff:").is_some_and(|iff| iff.trim() == name));
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
