//! Bridges, circuits, link speeds through netlink.
