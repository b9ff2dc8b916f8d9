//! The virtual network buffer: tap, plug, capture, tunnel, injection, marker.
