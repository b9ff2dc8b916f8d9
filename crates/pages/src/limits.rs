//! Every size that bounds this crate, unit last.

/// Bytes of a guest page, as QEMU sends it for x86-64.
pub const PAGE_BYTES: usize = 4096;
/// Longest configuration name that is followed; QEMU's machine types are under 64 bytes.
pub const CONFIGURATION_NAME_BYTES_MAX: usize = 255;
/// Capabilities that a configuration may list.
pub const CAPABILITIES_MAX: u32 = 256;
/// RAM blocks of one VM.
pub const BLOCKS_MAX: usize = 4096;
/// Pages in one group: the unit of zstd and of acknowledgement.
pub const GROUP_PAGES_MAX: usize = 64;
/// Payload at which a group is closed even with fewer pages.
pub const GROUP_PAYLOAD_BYTES_MAX: usize = 320 * 1024;
/// Bytes of one literal record.
pub const LITERAL_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one frame's body.
pub const FRAME_BODY_BYTES_MAX: usize = 512 * 1024;
/// Bytes of QEMU's stream in one plain frame.
pub const PLAIN_BYTES_MAX: usize = 256 * 1024;
/// Default bytes of the stream for which the plain way must look better before it is taken.
pub const PLAIN_AFTER_BYTES: u64 = 1024 * 1024;
/// Plain bytes after which what was measured of the codecs counts a little less.
pub const RESTED_BYTES: u64 = 1024 * 1024;
/// Ids in one frame that travels backwards.
pub const BACK_IDS_MAX: usize = 4096;
/// Output after which the decoder returns to its caller; of each stream some such buffers are on
/// their way to QEMU.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Default bytes sent or retained, and not acknowledged, of one stream.
pub const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Largest window that a peer may announce.
pub const WINDOW_BYTES_LIMIT: u64 = 256 * 1024 * 1024;
/// Default page versions kept for delta, per stream and side (16 MiB).
pub const VERSION_SLOTS: u32 = 4096;
/// Most version slots that a peer may ask for (256 MiB).
pub const VERSION_SLOTS_MAX: u32 = 65_536;
/// Default bytes of pages that the store of a target keeps.
pub const PAGE_STORE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Changes of the store that are remembered for senders; one that is further behind gets the whole
/// list.
pub const STORE_CHANGES_MAX: usize = 65_536;
/// Content ids that a sender remembers of one target.
pub const KNOWLEDGE_IDS_MAX: usize = 131_072;
