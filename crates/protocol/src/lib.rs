//! Six phases, ten steps, the group state machine and its messages. Pure.
