//! QEMU's migration stream, page classes and codecs. Pure.
