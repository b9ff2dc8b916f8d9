//! The protocol under a simulated clock, network and hosts. Pure.
